"""The sensor that evaluates a new checkpoint and requests its release."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform
from xtts_assets.sensors import VERSION_TAG, release_sensor
from xtts_core.stage import CheckSpec, Outcome, Stage, run_stage
from xtts_core.store import WHOLE, CorpusStore, write_text


def record(store: CorpusStore, asset: str, key: str, version: str = "") -> None:
    """What a stage leaves behind, with the version that its metadata names."""
    stage = Stage(asset, "1", (CheckSpec("there", "error", "it is there"),))
    path = store.root / asset / f"{key}.txt"

    def build(fingerprint: str) -> Outcome:
        write_text(path, f"{asset} {key} {version}")
        return Outcome(path, [path], [stage.verdict("there", True)], {"version": version})

    run_stage(store, stage, key, inputs={"version": version}, build=build)


class Ticks:
    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def __call__(self) -> list[tuple[str | None, str | None]]:
        """The (job, partition) of each run that the tick requests."""
        result = self.result()
        requests = [] if isinstance(result, dg.SkipReason) else result.run_requests
        return [(request.job_name, request.partition_key) for request in requests]

    def result(self) -> Any:
        context = dg.build_sensor_context(
            instance=self.instance, resources={"platform": Platform()}
        )
        return release_sensor(context)

    def run(self, key: str, version: str, status: dg.DagsterRunStatus) -> None:
        """A run of `evaluate_video` that the daemon launched earlier."""
        self.instance.add_run(
            dg.DagsterRun(
                job_name="evaluate_video",
                run_id=str(uuid4()),
                status=status,
                tags={VERSION_TAG: version, "dagster/partition": key},
            )
        )


@pytest.fixture
def tick(instance: dg.DagsterInstance, corpus: CorpusStore, catalogue: Any) -> Ticks:
    """Two prepared videos and a trained checkpoint, version v1."""
    catalogue.write("one,https://example.org/1,,,,,", "two,https://example.org/2,,,,,")
    for key in ("one", "two"):
        record(corpus, "train_val_splits", key)
    instance.add_dynamic_partitions(str(videos_partitions.name), ["one", "two"])
    record(corpus, "finetuned_checkpoint", WHOLE, "v1")
    return Ticks(instance)


EVALUATE_BOTH = [("evaluate_video", "one"), ("evaluate_video", "two")]
RELEASE = [("release_voice", None)]


def test_without_a_checkpoint_there_is_nothing_to_do(
    instance: dg.DagsterInstance, corpus: CorpusStore
) -> None:
    result = Ticks(instance).result()
    assert isinstance(result, dg.SkipReason)
    assert "finetuned_checkpoint has not been made" in str(result.skip_message)


def test_a_new_checkpoint_is_evaluated_on_every_video_first(tick: Ticks) -> None:
    assert tick() == EVALUATE_BOTH


def test_the_release_waits_for_evaluations_that_still_run(tick: Ticks, corpus: CorpusStore) -> None:
    record(corpus, "evaluation_samples", "one", "v1")
    tick.run("one", "v1", dg.DagsterRunStatus.SUCCESS)
    tick.run("two", "v1", dg.DagsterRunStatus.STARTED)
    assert tick() == []


def test_the_release_follows_when_every_video_is_evaluated(
    tick: Ticks, corpus: CorpusStore
) -> None:
    for key in ("one", "two"):
        record(corpus, "evaluation_samples", key, "v1")
    assert tick() == RELEASE


def test_an_evaluation_that_failed_does_not_hold_the_release_up(
    tick: Ticks, corpus: CorpusStore
) -> None:
    record(corpus, "evaluation_samples", "one", "v1")
    tick.run("two", "v1", dg.DagsterRunStatus.FAILURE)
    assert tick() == RELEASE


def test_evaluations_of_an_older_version_do_not_count(tick: Ticks, corpus: CorpusStore) -> None:
    for key in ("one", "two"):
        record(corpus, "evaluation_samples", key, "v0")
        tick.run(key, "v0", dg.DagsterRunStatus.SUCCESS)
    assert tick() == EVALUATE_BOTH


def test_a_video_whose_row_was_removed_is_not_evaluated(tick: Ticks, catalogue: Any) -> None:
    catalogue.write("two,https://example.org/2,,,,,")
    assert tick() == [("evaluate_video", "two")]


def test_a_catalogue_that_is_being_written_is_left_to_the_next_tick(
    tick: Ticks, catalogue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the tick waits"))
    catalogue.path.write_text("video_id,source,licence\none,https://example.org/1,fr")
    result = tick.result()
    assert isinstance(result, dg.SkipReason)
    assert "may be half written" in str(result.skip_message)


def test_a_released_version_is_left_alone(tick: Ticks, corpus: CorpusStore) -> None:
    record(corpus, "served_release", WHOLE, "v1")
    assert tick() == []
