"""One corpus with `tiny` and its codes for every test here, and one checkpoint trained on it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from xtts_core.model.base import make_base_model
from xtts_core.settings import TrainingSettings
from xtts_core.stage import StageResult
from xtts_core.store import CorpusStore
from xtts_core.training.codes import make_audio_codes
from xtts_core.training.finetuned_checkpoint import make_finetuned_checkpoint
from xtts_core.training.job import TrainingJob


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


demo = _load("demo_corpus")


@dataclass(frozen=True)
class Trained:
    """A finetuned_checkpoint, the lines it told, and the progress it reported."""

    result: StageResult
    lines: list[str]
    steps: list[tuple[float, float | None]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusStore:
    """Metadata, splits, base model and codes of both demo videos; tests leave it as it is."""
    store = CorpusStore(tmp_path_factory.mktemp("training") / "data")
    demo.build_corpus(store, clips=5)
    make_base_model(store, demo.quick_settings())
    for video_id in demo.SPEAKERS:
        make_audio_codes(store, demo.quick_settings(), video_id)
    return store


@pytest.fixture
def own_corpus(corpus: CorpusStore, tmp_path: Path) -> CorpusStore:
    """A copy of the corpus to change."""
    shutil.copytree(corpus.root, tmp_path / "data")
    return CorpusStore(tmp_path / "data")


@pytest.fixture(scope="session")
def demo_corpus() -> ModuleType:
    """What records metadata and splits."""
    return demo


@pytest.fixture(scope="session")
def shorten_metadata() -> Callable[[CorpusStore, str], None]:
    """Records the metadata of a video anew, without its last clip."""

    def shorten(store: CorpusStore, video_id: str) -> None:
        rows = pq.read_table(store.metadata(video_id)).to_pylist()
        demo.record_metadata(store, video_id, rows[:-1])

    return shorten


@pytest.fixture(scope="session")
def shorten_splits() -> Callable[[CorpusStore, str], None]:
    """Records the splits of a video anew, without its last clip."""

    def shorten(store: CorpusStore, video_id: str) -> None:
        rows = pq.read_table(store.split(video_id)).to_pylist()
        demo.record_splits(store, video_id, {r["clip_id"]: r["split"] for r in rows[:-1]})

    return shorten


@pytest.fixture
def job(corpus: CorpusStore, tmp_path: Path) -> TrainingJob:
    """Training of a LoRA adapter on the whole corpus."""
    return TrainingJob(
        base_dir=corpus.base_model("tiny"),
        codes=tuple(corpus.audio_codes("tiny", video_id) for video_id in demo.SPEAKERS),
        left_out=(),
        run_dir=tmp_path / "run",
        settings=demo.quick_settings(),
    )


@pytest.fixture(scope="session")
def trained(corpus: CorpusStore) -> Trained:
    """The checkpoint of a LoRA run in its own process."""
    lines: list[str] = []
    steps: list[tuple[float, float | None]] = []
    result = make_finetuned_checkpoint(
        corpus,
        demo.quick_settings(),
        progress=lambda done, total, unit: steps.append((done, total)),
        log=lines.append,
    )
    return Trained(result, lines, steps)


@pytest.fixture(scope="session")
def quick_settings() -> Callable[..., TrainingSettings]:
    """Training settings of a few epochs; keywords change the section `optimisation`."""
    build: Callable[..., TrainingSettings] = demo.quick_settings
    return build
