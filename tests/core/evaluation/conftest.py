"""One corpus of the demo videos with a trained and evaluated checkpoint for every test here."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from xtts_core.evaluation.samples import make_evaluation_samples
from xtts_core.model.base import make_base_model
from xtts_core.settings import TrainingSettings
from xtts_core.store import CorpusStore
from xtts_core.training.codes import make_audio_codes
from xtts_core.training.finetuned_checkpoint import make_finetuned_checkpoint


def _demo_corpus() -> ModuleType:
    path = Path(__file__).parents[1] / "training" / "demo_corpus.py"
    spec = importlib.util.spec_from_file_location("demo_corpus_evaluated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_corpus_evaluated"] = module
    spec.loader.exec_module(module)
    return module


demo = _demo_corpus()


@pytest.fixture(scope="session")
def settings() -> TrainingSettings:
    quick: Callable[..., TrainingSettings] = demo.quick_settings
    return quick(epochs=1)


@pytest.fixture(scope="session")
def evaluated_corpus(
    tmp_path_factory: pytest.TempPathFactory, settings: TrainingSettings
) -> CorpusStore:
    """Everything up to evaluation_samples of both videos; tests leave it as it is."""
    store = CorpusStore(tmp_path_factory.mktemp("evaluation") / "data")
    demo.build_corpus(store, clips=5)
    make_base_model(store, settings)
    for video_id in demo.SPEAKERS:
        make_audio_codes(store, settings, video_id)
    make_finetuned_checkpoint(store, settings)
    for video_id in demo.SPEAKERS:
        make_evaluation_samples(store, settings, video_id)
    return store


@pytest.fixture
def own_corpus(evaluated_corpus: CorpusStore, tmp_path: Path) -> CorpusStore:
    """A copy of the corpus to change."""
    shutil.copytree(evaluated_corpus.root, tmp_path / "data")
    return CorpusStore(tmp_path / "data")


@pytest.fixture
def hold_out_nothing() -> Callable[[CorpusStore, str], None]:
    """Records splits of a video in which every clip is trained on."""

    def change(store: CorpusStore, video_id: str) -> None:
        clips = [f"{video_id}_{number:05d}" for number in range(1, 6)]
        demo.record_splits(store, video_id, dict.fromkeys(clips, "train"))

    return change
