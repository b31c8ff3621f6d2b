"""Starts a training process, follows it, and never outlives or loses it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xtts_core.errors import TrainingError, XttsError
from xtts_core.stage import Progress
from xtts_core.store import write_json
from xtts_core.training.job import TrainingJob, TrainingReport


def run_training(
    job: TrainingJob, progress: Progress, log: Callable[[str], None]
) -> TrainingReport:
    """Run `python -m xtts_core.training` on `job` to its end.

    `job.run_dir` keeps `job.json` and the process's own log, `training.log`. When this process is
    interrupted, the training process is killed; when it is killed, the training process ends by
    itself. Either way the next run goes on from the last saved state.

    Raises:
        XttsError: what ended the training, of the kind that it had there.
    """
    job_file = job.run_dir / "job.json"
    write_json(job_file, job.to_json())
    log_file = job.run_dir / "training.log"
    last: Mapping[str, Any] = {"event": "none"}
    with (
        log_file.open("ab") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "xtts_core.training", str(job_file), "--end-with-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = json.loads(line)
                _follow(last, job, progress, log)
            # Before the block closes its stdin, which would end it early.
            process.wait()
        except BaseException:
            process.kill()
            raise
    if last["event"] == "failed":
        raise _error(last, log_file)
    if process.returncode or last["event"] != "done":
        raise TrainingError(
            f"The training process ended with exit code {process.returncode}",
            where=str(log_file),
            remedy="Read its log; -9 mostly means that memory ran out: lower batch_size. "
            "Started again, it goes on from its last saved state",
        )
    return TrainingReport.read(job.report)


def _follow(
    event: Mapping[str, Any], job: TrainingJob, progress: Progress, log: Callable[[str], None]
) -> None:
    match event["event"]:
        case "start":
            progress(event["step"], event["steps"], "steps")
            log(
                f"training on {event['train_clips']} clips, {event['val_clips']} held out, "
                f"{event['trainable_parameters']} parameters, {event['device']}, "
                f"{event['precision']}, from epoch {event['epoch'] + 1} of {event['epochs']}"
            )
        case "step":
            progress(event["step"], event["steps"], "steps")
            if event["step"] % job.settings.logging.log_every_steps == 0:
                log(f"step {event['step']}: loss {event['loss']:.4f}, rate {event['lr']:.3g}")
        case "epoch":
            trained = "base model" if event["train"] is None else f"train {event['train']:.4f}"
            log(f"epoch {event['epoch']}: {trained}, validation {event['validation']:.4f}")
        case "saved":
            log(f"saved the state of epoch {event['epoch']}")


def _error(event: Mapping[str, Any], log_file: Path) -> XttsError:
    """The error of the training process, as the class it had there."""
    kinds = {kind.reason: kind for kind in XttsError.__subclasses__()}
    return kinds.get(event["reason"], TrainingError)(
        event["what"], where=event["where"] or str(log_file), remedy=event["remedy"]
    )
