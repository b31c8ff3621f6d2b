"""The base model `tiny` and a voice, made once."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from xtts_core.model.architecture import Architecture, write_architecture
from xtts_core.model.base import base_model_dir, make_base_model
from xtts_core.model.checkpoint import (
    Manifest,
    describe_files,
    read_manifest,
    write_checkpoint,
    write_manifest,
)
from xtts_core.model.engine import Engine, FloatArray, Latents
from xtts_core.model.export import export_coqui
from xtts_core.model.loading import build_model, model_state, save_model
from xtts_core.settings import BaseModelSettings, EngineSettings, TrainingSettings
from xtts_core.stage import StageResult
from xtts_core.store import CorpusStore


@pytest.fixture(scope="session")
def tiny_settings() -> TrainingSettings:
    return TrainingSettings(base_model=BaseModelSettings(name="tiny"))


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> CorpusStore:
    return CorpusStore(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tiny_result(tiny_store: CorpusStore, tiny_settings: TrainingSettings) -> StageResult:
    return make_base_model(tiny_store, tiny_settings)


@pytest.fixture(scope="session")
def tiny_dir(
    tiny_store: CorpusStore, tiny_settings: TrainingSettings, tiny_result: StageResult
) -> Path:
    return base_model_dir(tiny_store, tiny_settings)


@pytest.fixture(scope="session")
def engine(tiny_dir: Path) -> Engine:
    return Engine.load(tiny_dir, EngineSettings(device="cpu"))


@pytest.fixture(scope="session")
def recording(demo: Path) -> FloatArray:
    """Six seconds of a demo voice, mono at 22 050 Hz."""
    resampler = av.AudioResampler("flt", "mono", 22_050)
    with av.open(demo / "feira-dora.webm") as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return samples[5 * 22_050 : 11 * 22_050].astype(np.float32)


@pytest.fixture(scope="session")
def voice(engine: Engine, recording: FloatArray) -> Latents:
    return engine.latents([recording])


@pytest.fixture(scope="session")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path, recording: FloatArray
) -> Path:
    """A checkpoint that coqui-tts can hold: a tiny GPT beside the full-size vocoder."""
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


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_coqui(checkpoint, tmp_path_factory.mktemp("export") / "coqui")
