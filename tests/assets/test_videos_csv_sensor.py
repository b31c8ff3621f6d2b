"""The sensor that sees new and changed rows, on a Dagster instance on disk."""

from __future__ import annotations

import json
import os
from typing import Any

import dagster as dg
import pytest

from xtts_assets import sensors
from xtts_core.errors import CatalogueError
from xtts_core.store import CorpusStore, read_json, write_json

FIRST_VERSIONS_HASH = "f06cd12adfe6e95c16b9954de9641c78dbd75042566d4a888c2c053377e7f89c"


def keys(requests: list[dg.RunRequest]) -> list[str | None]:
    return [request.partition_key for request in requests]


@pytest.mark.usefixtures("with_base_model")
class TestRows:
    def test_a_new_row_is_registered_and_prepared_once(self, catalogue: Any, daemon: Any) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]
        assert daemon.registered == {"one"}
        assert daemon.tick() == []

    def test_a_row_that_joins_later_does_not_repeat_the_others(
        self, catalogue: Any, daemon: Any
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        daemon.tick()
        catalogue.write("one,https://example.org/1,,pt,ana,,", "two,https://example.org/2,,pt,,,")
        assert keys(daemon.tick()) == ["two"]

    def test_a_changed_row_is_prepared_again_and_so_is_the_undone_change(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        for title in ("first", "second", "first"):
            catalogue.write(f"one,https://example.org/1,{title},pt,ana,,")
            assert keys(daemon.tick()) == ["one"], title
            daemon.finish(corpus)
        assert daemon.tick() == []

    def test_the_same_rows_written_in_another_way_are_not_prepared_again(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,Um,,,,", "two,https://example.org/2,,pt,ana,,")
        daemon.tick()
        daemon.finish(corpus)
        catalogue.path.write_text(
            "\ufeffsep=;\n\nTitle;SOURCE ;Video_ID;speaker;language;subtitles;start\n"
            '"";https://example.org/2;two;ana;pt;auto;\n"Um ";https://example.org/1;one;one;pt;;\n',
            encoding="utf-8",
            newline="\r\n",
        )
        assert daemon.tick() == []
        assert daemon.reason is None

    def test_an_edit_undone_before_its_run_and_made_again_is_seen(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        daemon.tick()
        daemon.finish(corpus)
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        daemon.finish(corpus)
        assert daemon.tick() == []
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_that_is_edited_while_its_run_works_waits_for_the_end_of_that(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        daemon.tick()
        daemon.prepare(corpus)
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert daemon.tick() == []
        assert "1 rows wait until runs of prepare_video end" in str(daemon.reason)
        daemon.end(daemon.waiting[0])
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_that_waits_in_a_backfill_is_not_asked_for(
        self, catalogue: Any, daemon: Any
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,", "two,https://example.org/2,,pt,,,")
        backfill = dg.RunRequest("backfill", job_name="prepare_video", partition_key="one")
        daemon.launch(backfill)
        assert keys(daemon.tick()) == ["two"]

    def test_a_row_that_was_prepared_by_hand_is_not_prepared_again(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        daemon.prepare(corpus)
        assert daemon.tick() == []

    def test_a_row_whose_record_was_removed_is_prepared_again(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        daemon.tick()
        daemon.finish(corpus)
        daemon.tick()
        corpus.video("one").unlink()
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_that_disappears_keeps_its_partition(self, catalogue: Any, daemon: Any) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,", "two,https://example.org/2,,pt,,,")
        daemon.tick()
        catalogue.write("two,https://example.org/2,,pt,,,")
        assert daemon.tick() == []
        assert daemon.registered == {"one", "two"}

    def test_a_row_that_was_registered_and_not_asked_for_is_prepared(
        self, catalogue: Any, daemon: Any
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,")
        assert daemon.tick(killed_after=0) == []
        assert daemon.registered == {"one"}
        daemon.restart()
        assert keys(daemon.tick()) == ["one"]

    def test_a_bad_row_does_not_stop_the_good_ones(self, catalogue: Any, daemon: Any) -> None:
        catalogue.write("bad/id,https://example.org/1,,pt,,,", "good,https://example.org/2,,pt,,,")
        assert keys(daemon.tick()) == ["good"]
        assert daemon.registered == {"good"}


class TestFailedRows:
    @pytest.fixture(autouse=True)
    def failed(self, catalogue: Any, daemon: Any, with_base_model: None) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        daemon.tick()
        daemon.end(daemon.waiting[0])

    def test_they_are_not_asked_for_at_every_tick(self, daemon: Any) -> None:
        assert [daemon.tick(), daemon.tick()] == [[], []]

    def test_they_are_named_with_what_asks_for_them_again(self, daemon: Any) -> None:
        daemon.tick()
        assert "one" in str(daemon.reason)
        assert "xtts run --video" in str(daemon.reason)

    def test_an_edit_asks_for_them_again(self, catalogue: Any, daemon: Any) -> None:
        catalogue.write("one,https://example.org/1,mended,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]

    def test_a_row_taken_out_and_put_back_is_asked_for_again(
        self, catalogue: Any, daemon: Any
    ) -> None:
        catalogue.write()
        daemon.tick()
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        assert keys(daemon.tick()) == ["one"]

    def test_a_reset_cursor_asks_for_them_again_and_for_nothing_that_was_made(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,", "two,https://example.org/2,,pt,,,")
        daemon.prepare(corpus, "two")
        first = json.loads(str(daemon.cursor))["generation"]
        daemon.cursor = json.dumps({"generation": first + 60})
        assert keys(daemon.tick()) == ["one"]


class TestBadFiles:
    @pytest.fixture(autouse=True)
    def known(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore, with_base_model: None
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,", "two,https://example.org/2,,pt,,,")
        daemon.tick()
        daemon.prepare(corpus, "one")

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
        self, catalogue: Any, daemon: Any, content: bytes, told: str
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
        self, catalogue: Any, daemon: Any
    ) -> None:
        catalogue.path.unlink()
        assert daemon.tick() == []
        assert "videos.csv" in str(daemon.reason)

    def test_a_file_that_is_being_written_asks_for_nothing_and_neither_does_its_end(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        daemon.finish(corpus)
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
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        daemon.finish(corpus)
        whole = catalogue.path.read_bytes()
        for length in range(whole.rindex(b",")):
            catalogue.path.write_bytes(whole[:length])
            os.utime(catalogue.path, (0, 0))
            assert daemon.tick() == [], whole[:length]
        assert daemon.registered == {"one", "two"}

    def test_a_last_row_without_a_line_end_waits_until_the_file_rests(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        daemon.finish(corpus)
        catalogue.path.write_text("video_id,source,licence\ntwo,https://example.org/2,free")
        before = daemon.cursor
        assert daemon.tick() == []
        assert daemon.cursor == before
        os.utime(catalogue.path, (0, 0))
        assert keys(daemon.tick()) == ["two"]


@pytest.mark.usefixtures("with_base_model")
class TestManyRows:
    def test_they_come_in_batches_as_runs_end_and_none_is_lost_by_a_restart(
        self, catalogue: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch
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
        self, catalogue: Any, daemon: Any
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
        self, catalogue: Any, daemon: Any, corpus: CorpusStore, ending: str
    ) -> None:
        catalogue.write()
        daemon.tick()
        catalogue.write(*(f"v{i},https://example.org/{i},,pt,,," for i in range(4)))
        assert keys(daemon.tick(killed_after=2)) == ["v0", "v1"]
        if ending == "run":
            daemon.prepare(corpus, "v0")
        daemon.end(daemon.waiting[0])
        daemon.restart()
        assert keys(daemon.tick()) == ["v2", "v3"]
        assert daemon.tick() == []
        catalogue.write(*(f"v{i},https://example.org/{i},new,pt,,," for i in range(4)))
        assert keys(daemon.tick()) == ["v0"]

    def test_the_cursor_does_not_grow_with_the_rows_that_are_prepared(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write(*(f"v{i},https://example.org/{i},,pt,,," for i in range(6)))
        daemon.tick()
        daemon.prepare(corpus)
        daemon.tick()
        assert json.loads(str(daemon.cursor))["rows"] == {}


@pytest.mark.usefixtures("with_base_model")
class TestEarlierVersions:
    def test_a_corpus_that_one_prepared_is_not_prepared_again(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        """The hash is one that the first version wrote: a column that is new and empty does not
        change it."""
        catalogue.write("one,https://example.org/1,A title,pt-BR,ana,CC BY,auto")
        write_json(corpus.video("one"), {"row_hash": FIRST_VERSIONS_HASH})
        assert daemon.tick() == []

    def test_the_cursor_of_one_is_understood(
        self, catalogue: Any, daemon: Any, corpus: CorpusStore
    ) -> None:
        catalogue.write(
            *(f"{name},https://example.org/{name},,pt,,," for name in ("made", "failed", "changed"))
        )
        daemon.prepare(corpus)
        hashes = {name: read_json(corpus.video(name))["row_hash"] for name in ("made", "failed")}
        corpus.video("failed").unlink()
        corpus.video("changed").unlink()
        daemon.cursor = json.dumps(
            {"generation": 7, "rows": {**hashes, "changed": "0" * 64}, "base_model": "tiny"}
        )
        assert keys(daemon.tick()) == ["changed"]

    def test_a_cursor_of_something_else_is_refused(self, catalogue: Any, daemon: Any) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,")
        for cursor in ("42", "{", '{"page": 3}'):
            daemon.cursor = cursor
            with pytest.raises(CatalogueError, match="Reset it"):
                daemon.tick()


def test_new_rows_wait_for_the_base_model_which_is_asked_for_once(
    catalogue: Any, daemon: Any
) -> None:
    catalogue.write("one,https://example.org/1,,pt,,,")
    assert [request.job_name for request in daemon.tick()] == ["prepare_base_model"]
    assert daemon.registered == {"one"}
    assert daemon.tick() == []


@pytest.mark.usefixtures("with_base_model")
def test_another_base_model_than_the_one_that_is_there_is_asked_for(
    catalogue: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer would judge the clips."""
    monkeypatch.setenv("XTTS_BASE_MODEL", "xtts_v2")
    catalogue.write("one,https://example.org/1,,pt,,,")
    assert [request.job_name for request in daemon.tick()] == ["prepare_base_model"]
