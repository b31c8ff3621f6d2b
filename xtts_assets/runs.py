"""Which process works on a run, and what to do when it is gone.

Dagster's default launcher cannot tell whether a run's process lives: one that was killed would
stay STARTED for ever and keep its slot of a pool, and the next run would wait for it.
"""

from __future__ import annotations

import socket

import dagster as dg
import psutil

PROCESS_TAG = "xtts/process"


def mark_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Note on a run that this process works on it."""
    name = process_name()
    if run.tags.get(PROCESS_TAG) != name and instance.has_run(run.run_id):
        instance.add_run_tags(run.run_id, {PROCESS_TAG: name})


def process_name(pid: int | None = None) -> str:
    """This machine, the process and when it started: names one process for ever."""
    process = psutil.Process(pid)
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose process on this machine is gone, and free their pool slots.

    Returns the ids of the runs it failed.
    """
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        name = run.tags.get(PROCESS_TAG)
        if name and name.startswith(f"{socket.gethostname()}:") and not _alive(name):
            instance.report_run_failed(run, "The process that worked on this run is gone")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead


def _alive(name: str) -> bool:
    pid = int(name.split(":")[1])
    return psutil.pid_exists(pid) and process_name(pid) == name
