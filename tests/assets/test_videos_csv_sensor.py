"""The sensor that sees new and changed rows."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform
from xtts_assets.sensors import MAX_REQUESTS_PER_TICK, videos_csv_sensor
from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.stage import CheckSpec, Outcome, Stage, run_stage
from xtts_core.store import WHOLE, CorpusStore, write_json, write_text

BASE_MODEL = Stage("base_model", "1", (CheckSpec("there", "error", "it is there"),))


@pytest.fixture
def with_base_model(corpus: CorpusStore) -> None:
    """A recorded base model; its content is of no concern to a sensor."""
    path = corpus.base_model("tiny") / "config.json"

    def build(fingerprint: str) -> Outcome:
        write_text(path, "{}")
        return Outcome(path.parent, [path], [BASE_MODEL.verdict("there", True)], {})

    run_stage(corpus, BASE_MODEL, WHOLE, inputs={}, build=build)


class Ticks:
    """Runs the sensor as the daemon does: the cursor goes from tick to tick, requested partitions
    are registered, and a run key is used once."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self.used: set[str] = set()

    def __call__(self) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"platform": Platform()}
        )
        result: Any = videos_csv_sensor(context)
        if isinstance(result, dg.SkipReason):
            return []
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(
                request.partitions_def_name, list(request.partition_keys)
            )
        requests = [r for r in result.run_requests or [] if r.run_key not in self.used]
        self.used |= {str(request.run_key) for request in requests}
        return requests

    @property
    def registered(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions(str(videos_partitions.name)))


@pytest.fixture
def tick(instance: dg.DagsterInstance) -> Ticks:
    return Ticks(instance)


def keys(requests: list[dg.RunRequest]) -> list[str | None]:
    return [request.partition_key for request in requests]


def prepare(corpus: CorpusStore) -> None:
    """What the `videos` asset writes for every row that stands in the file now."""
    for row in read_catalogue(corpus.root / "videos.csv").rows:
        write_json(corpus.video(row.video_id), {"row_hash": row.row_hash})


@pytest.mark.usefixtures("with_base_model")
class TestRows:
    def test_a_new_row_is_registered_and_prepared_once(self, catalogue: Any, tick: Ticks) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        assert keys(tick()) == ["one"]
        assert tick.registered == {"one"}
        assert tick() == []

    def test_a_row_that_joins_later_does_not_repeat_the_others(
        self, catalogue: Any, tick: Ticks
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        tick()
        catalogue.write("one,https://example.org/1,,pt,ana,,", "two,https://example.org/2,,pt,,,")
        assert keys(tick()) == ["two"]

    def test_a_changed_row_is_prepared_again_and_so_is_the_undone_change(
        self, catalogue: Any, tick: Ticks, corpus: CorpusStore
    ) -> None:
        for title in ("first", "second", "first"):
            catalogue.write(f"one,https://example.org/1,{title},pt,ana,,")
            assert keys(tick()) == ["one"], title
            prepare(corpus)
        assert tick() == []

    def test_an_edit_undone_before_its_run_and_made_again_is_seen(
        self, catalogue: Any, tick: Ticks, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        tick()
        prepare(corpus)
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert keys(tick()) == ["one"]
        catalogue.write("one,https://example.org/1,first,pt,ana,,")
        assert tick() == []
        catalogue.write("one,https://example.org/1,second,pt,ana,,")
        assert keys(tick()) == ["one"]

    def test_a_row_that_was_prepared_by_hand_is_not_prepared_again(
        self, catalogue: Any, tick: Ticks, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        prepare(corpus)
        assert tick() == []

    def test_a_failed_row_is_not_asked_for_at_every_tick(self, catalogue: Any, tick: Ticks) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        tick()
        assert [tick(), tick()] == [[], []]

    @pytest.mark.parametrize("content", ["", "video_id,source\n\x00", "no header at all\n"])
    def test_a_file_that_cannot_be_read_deletes_nothing(
        self, catalogue: Any, tick: Ticks, content: str
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,ana,,")
        tick()
        cursor = tick.cursor
        catalogue.path.write_text(content)
        assert tick() == []
        assert tick.registered == {"one"}
        assert tick.cursor == cursor

    def test_a_row_that_disappears_keeps_its_partition(self, catalogue: Any, tick: Ticks) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,", "two,https://example.org/2,,pt,,,")
        tick()
        catalogue.write("two,https://example.org/2,,pt,,,")
        assert tick() == []
        assert tick.registered == {"one", "two"}

    def test_a_bad_row_does_not_stop_the_good_ones(self, catalogue: Any, tick: Ticks) -> None:
        catalogue.write("bad/id,https://example.org/1,,pt,,,", "good,https://example.org/2,,pt,,,")
        assert keys(tick()) == ["good"]
        assert tick.registered == {"good"}

    def test_many_rows_come_in_batches_and_none_is_lost(self, catalogue: Any, tick: Ticks) -> None:
        count = MAX_REQUESTS_PER_TICK + 50
        catalogue.write(*(f"v{i},https://example.org/{i},,pt,,," for i in range(count)))
        first, second, third = tick(), tick(), tick()
        assert (len(first), len(second), third) == (MAX_REQUESTS_PER_TICK, 50, [])
        assert tick.registered == {f"v{i}" for i in range(count)}

    def test_a_lost_cursor_asks_again_only_for_what_was_not_made(
        self, catalogue: Any, tick: Ticks, corpus: CorpusStore
    ) -> None:
        catalogue.write("one,https://example.org/1,,pt,,,")
        tick()
        prepare(corpus)
        catalogue.write("one,https://example.org/1,,pt,,,", "two,https://example.org/2,,pt,,,")
        tick.cursor = None
        assert keys(tick()) == ["two"]


def test_new_rows_wait_for_the_base_model_which_is_asked_for_once(
    catalogue: Any, tick: Ticks
) -> None:
    catalogue.write("one,https://example.org/1,,pt,,,")
    assert [request.job_name for request in tick()] == ["prepare_base_model"]
    assert tick.registered == {"one"}
    assert tick() == []


@pytest.mark.usefixtures("with_base_model")
def test_another_base_model_than_the_one_that_is_there_is_asked_for(
    catalogue: Any, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer would judge the clips."""
    monkeypatch.setenv("XTTS_BASE_MODEL", "xtts_v2")
    catalogue.write("one,https://example.org/1,,pt,,,")
    assert [request.job_name for request in tick()] == ["prepare_base_model"]


def test_a_missing_file_is_a_reason_to_skip_and_no_error(
    corpus: CorpusStore, instance: dg.DagsterInstance
) -> None:
    context = dg.build_sensor_context(instance=instance, resources={"platform": Platform()})
    result: Any = videos_csv_sensor(context)
    assert isinstance(result, dg.SkipReason)
    assert "videos.csv" in str(result.skip_message)
