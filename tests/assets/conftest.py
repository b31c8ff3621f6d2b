"""A corpus and a Dagster instance of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from xtts_core.store import CorpusStore

HEADER = "video_id,source,title,language,speaker,licence,subtitles\n"


@pytest.fixture
def corpus(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> CorpusStore:
    """An empty corpus that the environment points at, with the repository's settings."""
    monkeypatch.setenv("XTTS_CORPUS_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("XTTS_CONFIG_DIR", str(project / "config"))
    monkeypatch.setenv("XTTS_BASE_MODEL", "tiny")
    monkeypatch.setenv("XTTS_GRPC_ADDRESS", "127.0.0.1:1")
    (tmp_path / "data").mkdir()
    return CorpusStore(tmp_path / "data")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


class Catalogue:
    """videos.csv of a test: rows are lines, written as a person would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *rows: str) -> None:
        self.path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def catalogue(corpus: CorpusStore) -> Catalogue:
    return Catalogue(corpus.root / "videos.csv")
