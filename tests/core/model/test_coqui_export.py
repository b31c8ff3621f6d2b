"""What coqui-tts itself reads: a tiny GPT beside the full-size vocoder."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_core.errors import ModelError
from xtts_core.model.engine import EDGE_S, Chunks, Engine, FloatArray, Latents
from xtts_core.model.export import export_coqui
from xtts_core.model.sampling import Sampling
from xtts_core.settings import EngineSettings

TEXT = "olá, este é um teste de voz."


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Engine:
    return Engine.load(checkpoint, EngineSettings(device="cpu"))


@pytest.fixture(scope="module")
def voice(engine: Engine, recording: FloatArray) -> Latents:
    return engine.latents([recording])


@pytest.fixture(scope="module")
def coqui(exported: Path) -> Xtts:
    config = XttsConfig()
    config.load_json(exported / "config.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = Xtts.init_from_config(config)
    model.load_checkpoint(config, checkpoint_dir=exported, eval=True)
    return model


def test_coqui_speaks_the_same_with_the_same_seed(
    coqui: Xtts, engine: Engine, voice: Latents
) -> None:
    ours = engine.synthesize(TEXT, "pt-BR", voice, Sampling(seed=3, min_audio_tokens=0))
    torch.manual_seed(3)
    theirs = coqui.inference(
        TEXT,
        "pt",
        voice.gpt_cond,
        voice.speaker,
        temperature=0.75,
        top_k=50,
        top_p=0.85,
        repetition_penalty=10.0,
    )["wav"]
    assert len(theirs) > 2_000
    assert ours.shape == theirs.shape
    between = slice(round(EDGE_S * 24_000), -round(EDGE_S * 24_000))
    np.testing.assert_allclose(ours[between], theirs[between], atol=1e-5 * np.abs(theirs).max())


def test_coqui_finds_the_voices_by_name(coqui: Xtts, exported: Path, checkpoint: Path) -> None:
    assert coqui.speaker_manager.speaker_names == ["Dora"]
    torch.manual_seed(3)
    spoken = coqui.synthesize(TEXT, speaker="Dora", language="pt")["wav"]
    assert np.isfinite(spoken).all()
    assert {path.name for path in exported.iterdir()} == {
        "config.json",
        "model.pth",
        "speakers_xtts.pth",
        "vocab.json",
    }


def test_a_stream_through_the_full_size_vocoder_equals_the_whole(
    engine: Engine, voice: Latents
) -> None:
    sampling = Sampling(seed=3, max_audio_tokens=30)
    whole = engine.synthesize(TEXT, "pt", voice, sampling)
    chunks = list(engine.stream(TEXT, "pt", voice, sampling, Chunks(8, 8)))
    assert len(chunks) > 1
    joined = np.concatenate(chunks)
    assert joined.shape == whole.shape
    assert np.abs(joined - whole).max() < 1e-5 * np.abs(whole).max()


def test_a_vocoder_of_another_size_is_refused_with_the_reason(
    tiny_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="one size only"):
        export_coqui(tiny_dir, tmp_path / "coqui")
    assert not (tmp_path / "coqui").exists()


def test_an_export_never_writes_over_something(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "coqui").mkdir()
    with pytest.raises(ModelError, match="does not exist"):
        export_coqui(checkpoint, tmp_path / "coqui")


def test_a_damaged_checkpoint_is_not_exported(checkpoint: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
    (damaged / "vocab.json").write_text("{}")
    with pytest.raises(ModelError, match=r"vocab\.json"):
        export_coqui(damaged, tmp_path / "coqui")
