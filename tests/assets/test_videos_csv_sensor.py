"""The sensor that sees new and changed rows, on a Dagster instance on disk."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtts_assets import sensors
from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform
from xtts_assets.sensors import videos_csv_sensor
from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.corpus.videos import make_video
from xtts_core.errors import CatalogueError
from xtts_core.settings import DatasetSettings
from xtts_core.stage import CheckSpec, Outcome, Stage, run_stage
from xtts_core.store import WHOLE, CorpusStore, read_json, write_json, write_text

BASE_MODEL = Stage("base_model", "1", (CheckSpec("there", "error", "it is there"),))
RUN_KEY = "dagster/run_key"
FIRST_VERSIONS_HASH = "f06cd12adfe6e95c16b9954de9641c78dbd75042566d4a888c2c053377e7f89c"


class Daemon:
    """What Dagster's daemon does with the sensor: the cursor goes from tick to tick, partitions
    are registered, and a run is made for each run key that has none. The instance is opened from
    disk by every restart."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cursor: str | None = None
        self.reason: str | None = None
        self.instance = dg.DagsterInstance.local_temp(str(home))

    def restart(self) -> None:
        self.instance.dispose()
        self.instance = dg.DagsterInstance.local_temp(str(self.home))

    def tick(self, *, killed_after: int | None = None) -> list[dg.RunRequest]:
        """The requests that became runs. Killed after so many of them, the daemon does not come to
        keep the cursor."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"platform": Platform()}
        )
        result: Any = videos_csv_sensor(context)
        if killed_after is None:
            self.cursor = result.cursor
        self.reason = result.skip_reason and result.skip_reason.skip_message
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(
                request.partitions_def_name, list(request.partition_keys)
            )
        requests = (result.run_requests or [])[:killed_after]
        return [request for request in requests if self.launch(request)]

    def launch(self, request: dg.RunRequest) -> bool:
        tags = {RUN_KEY: str(request.run_key)}
        if self.instance.get_runs(dg.RunsFilter(tags=tags)):
            return False
        self.instance.add_run(
            dg.DagsterRun(
                job_name=str(request.job_name),
                run_id=str(uuid.uuid4()),
                tags={**tags, "dagster/partition": request.partition_key or ""},
            )
        )
        return True

    @property
    def waiting(self) -> list[dg.DagsterRun]:
        """The runs that have not ended, oldest first."""
        not_started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED])
        return list(self.instance.get_runs(not_started, ascending=True))

    def end(self, run: dg.DagsterRun) -> None:
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, job_name=run.job_name)
        self.instance.run_storage.handle_run_event(run.run_id, event)

    @property
    def registered(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions(str(videos_partitions.name)))


@pytest.fixture(scope="module")
def empty_instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an instance, copied by each test since it takes a second to make them."""
    home = tmp_path_factory.mktemp("instance")
    dg.DagsterInstance.local_temp(str(home)).dispose()
    return home


@pytest.fixture
def daemon(empty_instance: Path, tmp_path: Path, corpus: CorpusStore) -> Iterator[Daemon]:
    shutil.copytree(empty_instance, tmp_path / "instance")
    running = Daemon(tmp_path / "instance")
    yield running
    running.instance.dispose()


def record_base_model(corpus: CorpusStore) -> None:
    """A recorded base model; its content is of no concern to a sensor."""
    path = corpus.base_model("tiny") / "config.json"

    def build(fingerprint: str) -> Outcome:
        write_text(path, "{}")
        return Outcome(path.parent, [path], [BASE_MODEL.verdict("there", True)], {})

    run_stage(corpus, BASE_MODEL, WHOLE, inputs={}, build=build)


@pytest.fixture
def with_base_model(corpus: CorpusStore) -> None:
    record_base_model(corpus)


def keys(requests: list[dg.RunRequest]) -> list[str | None]:
    return [request.partition_key for request in requests]


def finish(corpus: CorpusStore, daemon: Daemon) -> None:
    """All runs end well."""
    prepare(corpus)
    for run in daemon.waiting:
        daemon.end(run)


def prepare(corpus: CorpusStore, *video_ids: str) -> None:
    """Record these rows (default: all) as they stand in the file."""
    csv_path = corpus.root / "videos.csv"
    for row in read_catalogue(csv_path).rows:
        if not video_ids or row.video_id in video_ids:
            make_video(corpus, DatasetSettings(), csv_path, row.video_id)


@pytest.mark.usefixtures("with_base_model")
class TestRows:
    def test_a_new_row_is_registered_and_prepared_once(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]
        assert daemon.registered == {"one"}
        assert daemon.tick() == []

    def test_a_row_that_joins_later_does_not_repeat_the_others(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        daemon.tick()
        catalogue.write("one,https://example.org/1,,pt,ana,,", "two,https://example.org/2,,pt,,,")
        assert keys(daemon.tick()) == ["two"]

    def test_a_changed_row_is_prepared_again_and_so_is_the_undone_change(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        for title in ("first", "second", "first"):
            catalogue.write(f"one,https://example.org/1,{title},pt,ana,,")
            assert keys(daemon.tick()) == ["one"], title
            finish(corpus, daemon)
        assert daemon.tick() == []

    def test_the_same_rows_written_in_another_way_are_not_prepared_again(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,Um,,,,", "two,https://example.org/2,,pt,ana,,")
        daemon.tick()
        finish(corpus, daemon)
        catalogue.path.write_text(
            "\ufeffsep=;\n\nTitle;SOURCE ;Video_ID;speaker;language;subtitles;start\n"
            '"";https://example.org/2;two;ana;pt;auto;\n"Um ";https://example.org/1;one;one;pt;;\n',
            encoding="utf-8",
            newline="\r\n",
        )
        assert daemon.tick() == []
        assert daemon.reason is None

    def test_an_edit_undone_before_its_run_and_made_again_is_seen(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        daemon.tick()
        finish(corpus, daemon)
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        finish(corpus, daemon)
        assert daemon.tick() == []
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_that_is_edited_while_its_run_works_waits_for_the_end_of_that(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        daemon.tick()
        prepare(corpus)
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert daemon.tick() == []
        assert "1 rows wait until runs of prepare_video end" in str(daemon.reason)
        daemon.end(daemon.waiting[0])
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_that_waits_in_a_backfill_is_not_asked_for(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,", "two,https://example.org/2,,pt,,,")
        backfill = dg.RunRequest("backfill", job_name="prepare_video", partition_key="one")
        daemon.launch(backfill)
        assert keys(daemon.tick()) == ["two"]

    def test_a_row_that_was_prepared_by_hand_is_not_prepared_again(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        prepare(corpus)
        assert daemon.tick() == []

    def test_a_row_whose_record_was_removed_is_prepared_again(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        daemon.tick()
        finish(corpus, daemon)
        daemon.tick()
        corpus.video("one").unlink()
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_that_disappears_keeps_its_partition(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,", "two,https://example.org/2,,pt,,,")
        daemon.tick()
        catalogue.write("two,https://example.org/2,,pt,,,")
        assert daemon.tick() == []
        assert daemon.registered == {"one", "two"}

    def test_a_row_that_was_registered_and_not_asked_for_is_prepared(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,")
        assert daemon.tick(killed_after=0) == []
        assert daemon.registered == {"one"}
        daemon.restart()
        assert keys(daemon.tick()) == ["one"]

    def test_a_bad_row_does_not_stop_the_good_ones(self, catalogue: Any, daemon: Daemon) -> None:
        catalogue.write("bad/id,https://example.org/1,,pt,,,", "good,https://example.org/2,,pt,,,")
        assert keys(daemon.tick()) == ["good"]
        assert daemon.registered == {"good"}


class TestFailedRows:
    @pytest.fixture(autouse=True)
    def failed(self, catalogue: Any, daemon: Daemon, with_base_model: None) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        daemon.tick()
        daemon.end(daemon.waiting[0])

    def test_they_are_not_asked_for_at_every_tick(self, daemon: Daemon) -> None:
        assert [daemon.tick(), daemon.tick()] == [[], []]

    def test_they_are_named_with_what_asks_for_them_again(self, daemon: Daemon) -> None:
        daemon.tick()
        assert "one" in str(daemon.reason)
        assert "xtts run --video" in str(daemon.reason)

    def test_an_edit_asks_for_them_again(self, catalogue: Any, daemon: Daemon) -> None:
        catalogue.write("one,https://example.org/1,mended,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_taken_out_and_put_back_is_asked_for_again(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.write()
        daemon.tick()
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]

    def test_a_reset_cursor_asks_for_them_again_and_for_nothing_that_was_made(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,", "two,https://example.org/2,,pt,,,")
        prepare(corpus, "two")
        first = json.loads(str(daemon.cursor))["generation"]
        daemon.cursor = json.dumps({"generation": first + 60})
        assert keys(daemon.tick()) == ["one"]


class TestBadFiles:
    @pytest.fixture(autouse=True)
    def known(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore, with_base_model: None
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,", "two,https://example.org/2,,pt,,,")
        daemon.tick()
        prepare(corpus, "one")

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"", "empty"),
            (b"video_id,source\n\x00", "damaged"),
            (b"no header at all\n", "header is missing"),
            (b"video_id,source\n\xff\xfe\n", "not UTF-8"),
            (b"video_id,source,title\none,https://example.org/", "half written"),
        ],
    )
    def test_a_file_that_cannot_be_read_deletes_nothing_and_is_told(
        self, catalogue: Any, daemon: Daemon, content: bytes, told: str
    ) -> None:
        whole = catalogue.path.read_bytes()
        catalogue.path.write_bytes(content)
        os.utime(catalogue.path, (0, 0))
        assert daemon.tick() == []
        assert told in str(daemon.reason)
        assert daemon.registered == {"one", "two"}
        catalogue.path.write_bytes(whole)
        assert daemon.tick() == []

    def test_a_missing_file_is_a_reason_to_skip_and_no_error(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.path.unlink()
        assert daemon.tick() == []
        assert "videos.csv" in str(daemon.reason)

    def test_a_file_that_is_being_written_asks_for_nothing_and_neither_does_its_end(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        finish(corpus, daemon)
        whole = catalogue.path.read_bytes()
        for length in range(len(whole)):
            catalogue.path.write_bytes(whole[:length])
            assert daemon.tick() == [], whole[:length]
        assert "may be half written" in str(daemon.reason)
        catalogue.path.write_bytes(whole)
        assert daemon.tick() == []
        assert daemon.reason is None
        assert daemon.registered == {"one", "two"}

    def test_a_file_that_rests_after_a_cut_within_a_line_asks_for_nothing(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        finish(corpus, daemon)
        whole = catalogue.path.read_bytes()
        for length in range(whole.rindex(b",")):
            catalogue.path.write_bytes(whole[:length])
            os.utime(catalogue.path, (0, 0))
            assert daemon.tick() == [], whole[:length]
        assert daemon.registered == {"one", "two"}

    def test_a_last_row_without_a_line_end_waits_until_the_file_rests(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        finish(corpus, daemon)
        catalogue.path.write_text("video_id,source,licence\ntwo,https://example.org/2,free")
        before = daemon.cursor
        assert daemon.tick() == []
        assert daemon.cursor == before
        os.utime(catalogue.path, (0, 0))
        assert keys(daemon.tick()) == ["two"]


@pytest.mark.usefixtures("with_base_model")
class TestManyRows:
    def test_they_come_in_batches_as_runs_end_and_none_is_lost_by_a_restart(
        self, catalogue: Any, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sensors, "ROWS_PER_TICK", 10)
        monkeypatch.setattr(sensors, "MAX_UNFINISHED_RUNS", 15)
        catalogue.write(*(f"v{i},https://example.org/{i},,pt,,," for i in range(30)))
        asked = [keys(daemon.tick())]
        daemon.restart()
        asked += [keys(daemon.tick()), keys(daemon.tick())]
        assert "15 rows wait" in str(daemon.reason)
        for ended in (8, 15):
            for run in daemon.waiting[:ended]:
                daemon.end(run)
            daemon.restart()
            asked.append(keys(daemon.tick()))
        assert [len(batch) for batch in asked] == [10, 5, 0, 8, 7]
        assert [key for batch in asked for key in batch] == [f"v{i}" for i in range(30)]
        assert daemon.registered == {f"v{i}" for i in range(30)}

    def test_a_restart_that_lost_the_last_cursor_repeats_no_run(
        self, catalogue: Any, daemon: Daemon
    ) -> None:
        catalogue.write("zero,https://example.org/0,,pt,,,")
        daemon.tick()
        before = daemon.cursor
        rows = range(sensors.ROWS_PER_TICK)
        catalogue.write(*(f"v{i},https://example.org/{i},,pt,,," for i in rows))
        daemon.tick()
        daemon.cursor = before
        daemon.restart()
        assert daemon.tick() == []

    @pytest.mark.parametrize("ending", ["run", "fail"])
    def test_a_daemon_that_is_killed_within_a_tick_asks_for_the_rest_alone(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore, ending: str
    ) -> None:
        catalogue.write()
        daemon.tick()
        catalogue.write(*(f"v{i},https://example.org/{i},,pt,,," for i in range(4)))
        assert keys(daemon.tick(killed_after=2)) == ["v0", "v1"]
        if ending == "run":
            prepare(corpus, "v0")
        daemon.end(daemon.waiting[0])
        daemon.restart()
        assert keys(daemon.tick()) == ["v2", "v3"]
        assert daemon.tick() == []
        catalogue.write(*(f"v{i},https://example.org/{i},new,pt,,," for i in range(4)))
        assert keys(daemon.tick()) == ["v0"]

    def test_the_cursor_does_not_grow_with_the_rows_that_are_prepared(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write(*(f"v{i},https://example.org/{i},,pt,,," for i in range(6)))
        daemon.tick()
        prepare(corpus)
        daemon.tick()
        assert json.loads(str(daemon.cursor))["rows"] == {}


@pytest.mark.usefixtures("with_base_model")
class TestEarlierVersions:
    def test_a_corpus_that_one_prepared_is_not_prepared_again(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        """The hash is one that the first version wrote: a column that is new and empty does not
        change it."""
        catalogue.write("one,https://example.org/1,A title,pt-BR,ana,CC BY,auto")
        write_json(corpus.video("one"), {"row_hash": FIRST_VERSIONS_HASH})
        assert daemon.tick() == []

    def test_the_cursor_of_one_is_understood(
        self, catalogue: Any, daemon: Daemon, corpus: CorpusStore
    ) -> None:
        catalogue.write(
            *(f"{name},https://example.org/{name},,pt,,," for name in ("made", "failed", "changed"))
        )
        prepare(corpus)
        hashes = {name: read_json(corpus.video(name))["row_hash"] for name in ("made", "failed")}
        corpus.video("failed").unlink()
        corpus.video("changed").unlink()
        daemon.cursor = json.dumps(
            {"generation": 7, "rows": {**hashes, "changed": "0" * 64}, "base_model": "tiny"}
        )
        assert keys(daemon.tick()) == ["changed"]

    def test_a_cursor_of_something_else_is_refused(self, catalogue: Any, daemon: Daemon) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,")
        for cursor in ("42", "{", '{"page": 3}'):
            daemon.cursor = cursor
            with pytest.raises(CatalogueError, match="Reset it"):
                daemon.tick()


def test_new_rows_wait_for_the_base_model_which_is_asked_for_once(
    catalogue: Any, daemon: Daemon
) -> None:
    catalogue.write("one,https://example.org/1,,pt,,,")
    assert [request.job_name for request in daemon.tick()] == ["prepare_base_model"]
    assert daemon.registered == {"one"}
    assert daemon.tick() == []


@pytest.mark.usefixtures("with_base_model")
def test_another_base_model_than_the_one_that_is_there_is_asked_for(
    catalogue: Any, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer would judge the clips."""
    monkeypatch.setenv("XTTS_BASE_MODEL", "xtts_v2")
    catalogue.write("one,https://example.org/1,,pt,,,")
    assert [request.job_name for request in daemon.tick()] == ["prepare_base_model"]


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

    def __init__(self, home: Path, corpus: CorpusStore, daemon: Daemon) -> None:
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
            prepare(self.corpus, run.tags["dagster/partition"])
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
        requested = [str(key) for key in keys(self.daemon.tick(killed_after=killed_after))]
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
    empty_instance: Path, corpus: CorpusStore, monkeypatch: pytest.MonkeyPatch, steps: Any
) -> None:
    monkeypatch.setattr(sensors, "ROWS_PER_TICK", 2)
    monkeypatch.setattr(sensors, "MAX_UNFINISHED_RUNS", 3)
    with TemporaryDirectory(dir=corpus.root) as folder:
        home = Path(folder)
        monkeypatch.setenv("XTTS_CORPUS_ROOT", str(home / "data"))
        shutil.copytree(empty_instance, home / "instance")
        story = Story(home, CorpusStore(home / "data"), Daemon(home / "instance"))
        record_base_model(story.corpus)
        for name, *arguments in steps:
            getattr(story, name)(*arguments)
        story.finish()
        story.daemon.instance.dispose()
