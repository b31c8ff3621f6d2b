"""Starts a training process, follows it, and never outlives or loses it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xtts_core.errors import TrainingError, XttsError
from xtts_core.settings import TrainingSettings
from xtts_core.stage import Progress
from xtts_core.store import write_json
from xtts_core.training.job import TrainingJob, TrainingReport


def run_training(
    job: TrainingJob, progress: Progress, log: Callable[[str], None]
) -> TrainingReport:
    """Run `python -m xtts_core.training` on `job` to its end, in as many processes as it asks for.

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
    failed: Mapping[str, Any] | None = None
    with (
        log_file.open("ab") as stderr,
        subprocess.Popen(
            [*_launcher(job.settings), "-m", "xtts_core.training", job_file, "--end-with-stdin"],
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
                if last["event"] == "failed":
                    # The first one: the others fail because it is gone.
                    failed = failed or last
                _follow(last, job, progress, log)
            # Before the block closes its stdin, which would end it early.
            process.wait()
        except BaseException:
            process.kill()
            raise
    if failed:
        raise _error(failed, log_file)
    if process.returncode or last["event"] != "done":
        raise TrainingError(
            f"The training process ended with exit code {process.returncode}",
            where=str(log_file),
            remedy="Read its log; -9 mostly means that memory ran out: lower batch_size. "
            "Started again, it goes on from its last saved state",
        )
    return TrainingReport.read(job.report)


def _launcher(settings: TrainingSettings) -> list[str]:
    """The program that starts one process, or several that know of each other."""
    processes = settings.processes
    if processes == "auto":
        import torch

        gpus = 0 if settings.device == "cpu" else torch.cuda.device_count()
        processes = max(1, min(gpus, settings.optimisation.gradient_accumulation))
    if processes == 1:
        return [sys.executable]
    # `--multi_gpu` is what accelerate calls torch's launcher, for CPUs too; every value that it
    # would otherwise warn about is given.
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ]


def _follow(
    event: Mapping[str, Any], job: TrainingJob, progress: Progress, log: Callable[[str], None]
) -> None:
    match event["event"]:
        case "start":
            progress(event["step"], event["steps"], "steps")
            log(
                f"training on {event['train_clips']} clips, {event['val_clips']} held out, "
                f"{event['trainable_parameters']} parameters, {event['device']}, "
                f"{event['precision']}, {_counted(event['processes'])}, from step "
                f"{event['step'] + 1} of {event['steps']}"
            )
        case "prepared":
            progress(event["done"], event["total"], event["unit"])
        case "warning":
            log(f"warning: {event['what']}")
        case "step":
            progress(event["step"], event["steps"], "steps")
            if event["step"] % job.settings.logging.log_every_steps == 0:
                log(f"step {event['step']}: loss {event['loss']:.4f}, rate {event['lr']:.3g}")
        case "epoch":
            trained = "base model" if event["train"] is None else f"train {event['train']:.4f}"
            log(f"epoch {event['epoch']}: {trained}, validation {event['validation']:.4f}")
        case "saved":
            log(f"saved the state after step {event['step']}")


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _error(event: Mapping[str, Any], log_file: Path) -> XttsError:
    """The error of the training process, as the class it had there."""
    kinds = {kind.reason: kind for kind in XttsError.__subclasses__()}
    return kinds.get(event["reason"], TrainingError)(
        event["what"], where=event["where"] or str(log_file), remedy=event["remedy"]
    )
