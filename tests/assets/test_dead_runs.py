"""What a killed `xtts` leaves on the instance, and who tidies it up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from xtts_assets.cli.instance import open_instance
from xtts_assets.runs import PROCESS_TAG, process_name


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
