"""The code location that `workspace.yaml` names."""

from __future__ import annotations

import dagster as dg

from xtts_assets.assets import corpus, dataset, release, training
from xtts_assets.jobs import JOBS
from xtts_assets.logs import corpus_file_logger
from xtts_assets.platform import Platform
from xtts_assets.sensors import dead_runs_sensor, release_sensor, videos_csv_sensor

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([corpus, dataset, training, release]),
    jobs=JOBS,
    sensors=[videos_csv_sensor, release_sensor, dead_runs_sensor],
    resources={"platform": Platform()},
    loggers={"corpus_file": corpus_file_logger},
)
