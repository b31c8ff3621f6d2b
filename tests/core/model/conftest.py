"""The base model `tiny` and a voice, made once."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from xtts_core.model.base import base_model_dir, make_base_model
from xtts_core.model.engine import Engine, FloatArray, Latents
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
