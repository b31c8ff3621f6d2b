"""The Dagster instance that `xtts` runs on, and what killed runs left behind on it."""

from __future__ import annotations

import os

import dagster as dg

from xtts_assets.runs import bury_dead_runs
from xtts_core.store import project_root


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
