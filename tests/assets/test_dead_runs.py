"""What a killed `xtts` leaves on the instance, and who tidies it up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from xtts_assets.cli.instance import open_instance
from xtts_assets.definitions import defs
from xtts_assets.runs import PROCESS_TAG, process_name
from xtts_assets.sensors import dead_runs_sensor


@dg.asset(pool="gpu")
def pooled() -> None: ...


@pytest.fixture
def home(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(project / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_process_that_is_gone() -> str:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        return process_name(process.pid)


def start_run(instance: dg.DagsterInstance, process: str) -> str:
    """A run of `process` that has started and holds the gpu pool."""
    job = dg.Definitions(assets=[pooled]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, tags={PROCESS_TAG: process})
    instance.handle_new_event(
        dg.EventLogEntry(
            error_info=None,
            user_message="",
            level="debug",
            run_id=run.run_id,
            timestamp=0.0,
            dagster_event=dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name
            ),
        )
    )
    instance.event_log_storage.set_concurrency_slots("gpu", 1)
    claim = instance.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "pooled")
    assert claim.is_claimed
    return str(run.run_id)


def free_slots(instance: dg.DagsterInstance) -> int:
    info = instance.event_log_storage.get_concurrency_info("gpu")
    return info.slot_count - info.active_slot_count


def test_a_run_whose_process_is_gone_fails_and_gives_its_slot_back(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        run_id = start_run(instance, a_process_that_is_gone())
        assert free_slots(instance) == 0
    with open_instance() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert free_slots(instance) == 1


def test_the_sensor_does_the_same_for_runs_of_dagster_dev(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        run_id = start_run(instance, a_process_that_is_gone())
        tick = dead_runs_sensor(dg.build_sensor_context(instance=instance))
        assert run_id in str(tick.skip_message)
        assert free_slots(instance) == 1
        again = dead_runs_sensor(dg.build_sensor_context(instance=instance))
        assert run_id not in str(again.skip_message)


def test_every_run_says_which_process_works_on_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that `dagster dev` launches are tagged by the asset that they begin with."""
    monkeypatch.setenv("XTTS_CORPUS_ROOT", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "videos.csv").write_text("video_id,source\none,gone.wav\n")
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("videos", ["one"])
        result = defs.resolve_job_def("prepare_video").execute_in_process(
            instance=instance, partition_key="one", raise_on_error=False
        )
        run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[PROCESS_TAG] == process_name()


def test_a_run_whose_process_lives_is_left_alone(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        run_id = start_run(instance, process_name())
    with open_instance() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.STARTED
        assert free_slots(instance) == 0


def test_everything_of_the_instance_lies_below_one_ignored_folder(home: Path) -> None:
    with open_instance() as instance:
        dg.materialize([pooled], instance=instance)
    assert {path.name for path in home.iterdir()} == {"dagster.yaml", ".dagster"}
