"""The log file of each run, below the corpus root."""

from __future__ import annotations

import logging

import dagster as dg

from xtts_core.settings import Environment
from xtts_core.store import CorpusStore


@dg.logger(description="Writes <corpus root>/logs/<job>-<run id>.log.")
def corpus_file_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """A logger of one run that writes to a file of its own."""
    job = context.job_name or "run"
    run = (context.run_id or "").split("-")[0]
    path = CorpusStore(Environment.load().corpus_root).logs_dir / f"{job}-{run}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.Logger(f"xtts.{job}.{run}", level=logging.DEBUG)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger
