"""`python -m xtts_core.training JOB.json`: one training run in its own process, or under
`accelerate launch` in several.

Each line of stdout is a JSON object with the key `event`: start, step, epoch, saved, and at the
end `done` with the report, or `failed` with the error (exit code 1). What a person reads goes to
stderr. Of several processes the main one tells; a failure is told by each that has one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from xtts_core.errors import XttsError
from xtts_core.training.job import TrainingJob

logger = logging.getLogger("xtts_core.training")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m xtts_core.training", description=__doc__)
    parser.add_argument("job", type=Path, help="the job, as TrainingJob.to_json writes it")
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="end when stdin is closed, which the kernel does when the parent process dies",
    )
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    events = _claim_stdout()
    leads = os.environ.get("RANK", "0") == "0"
    if arguments.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()

    def tell(event: Mapping[str, Any]) -> None:
        # Logged first: who reads an event may end this process at once.
        if event["event"] != "step":
            logger.info("%s", " ".join(f"{name}={value}" for name, value in event.items()))
        events.write(json.dumps(event, ensure_ascii=False) + "\n")
        events.flush()

    try:
        from filelock import FileLock

        from xtts_core.training.trainer import train

        job = TrainingJob.read(arguments.job)
        job.run_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(job.run_dir / "lock") if leads else nullcontext():
            report = train(job, tell)
    except Exception as error:
        logger.exception("Training failed")
        tell({"event": "failed", **_describe(error)})
        return 1
    if leads:
        tell({"event": "done", "report": report.to_json()})
    return 0


def _claim_stdout() -> TextIO:
    """The process's stdout for events alone; what libraries print goes to stderr."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _describe(error: Exception) -> dict[str, Any]:
    if isinstance(error, XttsError):
        return {
            "reason": error.reason,
            "what": error.what,
            "where": error.where,
            "remedy": error.remedy,
        }
    return {
        "reason": "internal",
        "what": f"{type(error).__name__}: {error}",
        "where": None,
        "remedy": None,
    }


if __name__ == "__main__":
    sys.exit(main())
