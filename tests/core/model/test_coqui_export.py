"""What coqui-tts itself reads: a tiny GPT beside the full-size vocoder."""

from __future__ import annotations

import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_core.errors import ModelError
from xtts_core.model.architecture import Architecture, write_architecture
from xtts_core.model.checkpoint import (
    Manifest,
    describe_files,
    read_manifest,
    write_checkpoint,
    write_manifest,
)
from xtts_core.model.engine import Engine, FloatArray, Latents, Sampling
from xtts_core.model.export import export_coqui
from xtts_core.model.loading import build_model, model_state, save_model
from xtts_core.settings import EngineSettings

TEXT = "olá, este é um teste de voz."


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path, recording: FloatArray
) -> Path:
    folder = tmp_path_factory.mktemp("full-vocoder")
    base = folder / "base"
    base.mkdir()
    for name in ("config.json", "vocab.json"):
        shutil.copy(tiny_dir / name, base)
    write_architecture(base, Architecture())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build_model(base)
    with torch.no_grad():
        model.gpt.mel_head.bias[model.gpt.stop_audio_token] += 1.5
    save_model(model, base)
    tiny = read_manifest(tiny_dir)
    write_manifest(
        base,
        Manifest(
            kind="base",
            licence=tiny.licence,
            base_model=tiny.base_model,
            files=describe_files(base),
        ),
    )
    clip = folder / "clip.wav"
    soundfile.write(clip, recording, 22_050, subtype="PCM_16")
    return write_checkpoint(
        folder / "checkpoints",
        base_dir=base,
        state=model_state(model),
        adapter_dir=None,
        voices={"Dora": [clip]},
        settings={},
        lineage={},
        metrics={},
        licence=tiny.licence,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Engine:
    return Engine.load(checkpoint, EngineSettings(device="cpu"))


@pytest.fixture(scope="module")
def voice(engine: Engine, recording: FloatArray) -> Latents:
    return engine.latents([recording])


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_coqui(checkpoint, tmp_path_factory.mktemp("export") / "coqui")


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
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


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
    chunks = list(engine.stream(TEXT, "pt", voice, sampling, 8))
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
