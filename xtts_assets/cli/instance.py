"""The Dagster instance that `xtts` runs on, and what killed runs left behind on it."""

from __future__ import annotations

import os
import socket

import dagster as dg
import psutil

from xtts_core.store import project_root

PROCESS_TAG = "xtts/process"


def open_instance() -> dg.DagsterInstance:
    """The instance of `DAGSTER_HOME`, which is set to the project root where it is unset.

    The working directory becomes `DAGSTER_HOME`: dagster.yaml keeps its storage in a relative
    folder, so that a clone runs wherever it lies.
    """
    home = project_root()
    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    os.chdir(home)
    instance = dg.DagsterInstance.get()
    bury_dead_runs(instance)
    return instance


def process_name(pid: int | None = None) -> str:
    """This machine, the process and when it started: names one process for ever."""
    process = psutil.Process(pid)
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose `xtts` process on this machine is gone, and free their pool slots.

    A killed in-process run leaves its slot taken, and the next run would wait for it for ever.
    Returns the ids of the runs it failed.
    """
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        name = run.tags.get(PROCESS_TAG)
        if name and name.startswith(f"{socket.gethostname()}:") and not _alive(name):
            instance.report_run_failed(run, "The xtts process that worked on this run is gone")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead


def _alive(name: str) -> bool:
    pid = int(name.split(":")[1])
    return psutil.pid_exists(pid) and process_name(pid) == name
