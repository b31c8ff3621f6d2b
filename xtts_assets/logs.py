"""The log file of each run, below the corpus root."""

import logging

import dagster as dg

from xtts_core.settings import Environment
from xtts_core.store import CorpusStore


def _corpus_file_logger(context: dg.InitLoggerContext) -> logging.Logger:
    job = context.job_def.name if context.job_def else "run"
    run = (context.run_id or "").split("-")[0]
    path = CorpusStore(Environment.load().corpus_root).logs_dir / f"{job}-{run}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.Logger(f"xtts.{job}.{run}", level=logging.DEBUG)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger


corpus_file_logger = dg.LoggerDefinition(
    logger_fn=_corpus_file_logger, description="Writes <corpus root>/logs/<job>-<run id>.log."
)
