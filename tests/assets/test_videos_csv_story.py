"""Whatever happens to videos.csv, the runs and the daemon: each change is asked for once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtts_assets import sensors
from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.store import CorpusStore, read_json, write_text

VIDEO_IDS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), VIDEO_IDS, st.sampled_from("123")),
        st.tuples(st.just("remove"), VIDEO_IDS),
        st.just(("tick",)),
        st.just(("tick",)),
        st.just(("run",)),
        st.just(("fail",)),
        st.just(("empty",)),
        st.just(("restart",)),
        st.tuples(st.just("cut"), st.integers(0, 200)),
        st.tuples(st.just("killed"), st.integers(0, 2)),
    ),
    min_size=5,
    max_size=25,
)


class Story:
    """What happens to a corpus, and what must hold of each tick."""

    def __init__(self, corpus: CorpusStore, daemon: Any) -> None:
        self.corpus = corpus
        self.daemon = daemon
        self.rows: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        self.save()
        self.daemon.tick()

    def write(self, key: str, title: str) -> None:
        self.rows[key] = title
        self.save()

    def save(self) -> None:
        lines = [f"{key},https://example.org/{key},{t},pt,,,\n" for key, t in self.rows.items()]
        header = "video_id,source,title,language,speaker,licence,subtitles\n"
        write_text(self.corpus.root / "videos.csv", header + "".join(lines))

    def remove(self, key: str) -> None:
        self.rows.pop(key, None)
        self.save()

    def empty(self) -> None:
        write_text(self.corpus.root / "videos.csv", "")
        assert self.daemon.tick() == []
        self.save()

    def cut(self, length: int) -> None:
        """The file as it is while it is being written."""
        csv_path = self.corpus.root / "videos.csv"
        whole = csv_path.read_bytes()
        csv_path.write_bytes(whole[: length % len(whole)].rstrip(b"\n"))
        assert self.daemon.tick() == []
        self.save()

    def restart(self) -> None:
        self.daemon.restart()

    def killed(self, runs: int) -> None:
        self.tick(killed_after=runs)
        self.daemon.restart()

    def fail(self) -> None:
        for run in self.daemon.waiting[:1]:
            self.daemon.end(run)

    def run(self) -> None:
        for run in self.daemon.waiting[:1]:
            self.daemon.prepare(self.corpus, run.tags["dagster/partition"])
            self.daemon.end(run)

    def made(self, key: str) -> bool:
        row = read_catalogue(self.corpus.root / "videos.csv").row(key)
        path = self.corpus.video(key)
        return row is not None and path.is_file() and read_json(path)["row_hash"] == row.row_hash

    def tick(self, *, killed_after: int | None = None) -> list[str]:
        """Nothing that is made is asked for, and nothing twice unless it changed between."""
        for key, title in list(self.asked.items()):
            if self.rows.get(key) != title or self.made(key):
                del self.asked[key]
        requested = [
            str(request.partition_key) for request in self.daemon.tick(killed_after=killed_after)
        ]
        for key in requested:
            assert not self.made(key)
            assert key not in self.asked
            self.asked[key] = self.rows[key]
        return requested

    def finish(self) -> None:
        """All runs succeed; then every row is made, but for those whose last run failed."""
        while self.tick() or self.daemon.waiting:
            self.run()
        assert all(self.made(key) or self.asked[key] == self.rows[key] for key in self.rows)
        assert self.daemon.registered >= set(self.rows)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_each_change_is_asked_for_exactly_once(
    corpus: CorpusStore,
    daemon_at: Callable[[Path], Any],
    record_base_model: Callable[[CorpusStore], None],
    monkeypatch: pytest.MonkeyPatch,
    steps: Any,
) -> None:
    monkeypatch.setattr(sensors, "ROWS_PER_TICK", 2)
    monkeypatch.setattr(sensors, "MAX_UNFINISHED_RUNS", 3)
    with TemporaryDirectory(dir=corpus.root) as folder:
        home = Path(folder)
        monkeypatch.setenv("XTTS_CORPUS_ROOT", str(home / "data"))
        story = Story(CorpusStore(home / "data"), daemon_at(home / "instance"))
        record_base_model(story.corpus)
        for name, *arguments in steps:
            getattr(story, name)(*arguments)
        story.finish()
