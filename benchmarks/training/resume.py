"""Saving and resuming the state of a full fine-tune of the public size, in seconds per GB.

The peer is what coqui-tts's trainer does (trainer/io.py): one `torch.save` of model and optimiser,
and `torch.load`; it neither syncs the file nor writes it aside. Limit: the state that is put back
is the one that was saved, weights, moments and place.

    python benchmarks/training/resume.py [--small]
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from speed import write_base

from xtts_core.model.loading import load_mel_stats, load_model
from xtts_core.settings import TrainingSettings
from xtts_core.training.job import EpochLosses, TrainingJob
from xtts_core.training.mel import conditioning_mel
from xtts_core.training.states import Curve, States
from xtts_core.training.trainer import Learner, start_accelerator

SETTINGS = TrainingSettings.model_validate(
    {"device": "cpu", "lora": {"enabled": False}, "optimisation": {"precision": "fp32"}}
)


def new_learner(base_dir: Path) -> Learner:
    """A learner that has taken a step, so that its optimiser has moments."""
    gpt = load_model(base_dir).gpt
    mel = conditioning_mel(load_mel_stats(base_dir))
    learner = Learner.create(gpt, mel, SETTINGS, start_accelerator(SETTINGS))
    for parameter in gpt.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    learner.optimiser.step()
    learner.optimiser.zero_grad(set_to_none=True)
    return learner


def main() -> int:
    small = "--small" in sys.argv
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        base_dir, run_dir = Path(name) / "base", Path(name) / "run"
        base_dir.mkdir()
        write_base(base_dir, small)
        job = TrainingJob(base_dir, (), (), run_dir, SETTINGS)
        curve = Curve(step=7, epoch_steps=3, history=(EpochLosses(0, None, 7.0, 6.0, 7.0),))
        learner = new_learner(base_dir)
        begun = time.perf_counter()
        States.of(job).save(learner, curve)
        saved_s = time.perf_counter() - begun
        size = sum(file.stat().st_size for file in job.states_dir.rglob("*") if file.is_file())

        weights = {name: tensor.clone() for name, tensor in learner.trainable_state().items()}
        moments = learner.optimiser_state()["optimiser"]["state"]
        kept = {key: value["exp_avg_sq"].clone() for key, value in moments.items()}
        for parameter in learner.trainable.values():
            parameter.data.zero_()
        begun = time.perf_counter()
        resumed = States.of(job).resume(learner)
        resumed_s = time.perf_counter() - begun
        found = learner.optimiser_state()["optimiser"]["state"]
        held = (
            resumed == curve
            and all(torch.equal(weights[name], t) for name, t in learner.trainable_state().items())
            and all(torch.equal(kept[key], found[key]["exp_avg_sq"]) for key in kept)
        )

        peer = Path(name) / "checkpoint.pth"
        state = {"model": learner.gpt.state_dict(), "optimizer": learner.optimiser.state_dict()}
        begun = time.perf_counter()
        torch.save(state, peer)
        peer_saved_s = time.perf_counter() - begun
        begun = time.perf_counter()
        loaded = torch.load(peer, weights_only=True)
        learner.gpt.load_state_dict(loaded["model"])
        learner.optimiser.load_state_dict(loaded["optimizer"])
        peer_resumed_s = time.perf_counter() - begun
    gigabytes = size / 1e9
    print(f"{gigabytes:.2f} GB{'':12} {'save s/GB':>10} {'resume s/GB':>12}")
    for name, save_s, resume_s in (
        ("torch.save", peer_saved_s, peer_resumed_s),
        ("xtts_core", saved_s, resumed_s),
    ):
        print(f"{name:19} {save_s / gigabytes:10.2f} {resume_s / gigabytes:12.2f}")
    print(f"the state is whole and at its step: {'held' if held else 'NOT HELD'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
