"""How far a run is, and the states on disk that a killed run goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_core.errors import TrainingError
from xtts_core.settings import CheckpointSettings, TrainingSettings
from xtts_core.store import atomic_dir, atomic_file, read_json, write_json
from xtts_core.training.job import EpochLosses, TrainingJob

ADAM_MOMENTS = 2
"""AdamW keeps two averages of each trained weight (Kingma and Ba, 2015)."""


class Trained(Protocol):
    """What a state is taken from and put back into."""

    def trainable_state(self) -> dict[str, Tensor]: ...

    def load_trainable(self, state: dict[str, Tensor]) -> None: ...

    def optimiser_state(self) -> dict[str, Any]: ...

    def load_optimiser(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Curve:
    """How far a run is.

    `history` has the losses of every epoch that ended, the base model's first; `epoch_steps` and
    `loss_sum` belong to the epoch that is under way. `clips` is how many different clips the last
    whole epoch trained on, `seconds` how long the run has taken.
    """

    step: int = 0
    epoch_steps: int = 0
    loss_sum: float = 0.0
    clips: int = 0
    history: tuple[EpochLosses, ...] = ()
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """Whole epochs so far."""
        return max(len(self.history) - 1, 0)

    @property
    def best_epoch(self) -> int | None:
        """The trained epoch with the lowest validation loss; the base model does not count."""
        trained = self.history[1:]
        return min(trained, key=lambda losses: losses.validation).epoch if trained else None

    def after_step(self, loss: float, seconds: float) -> Curve:
        return replace(
            self,
            step=self.step + 1,
            epoch_steps=self.epoch_steps + 1,
            loss_sum=self.loss_sum + loss,
            seconds=seconds,
        )

    def after_epoch(self, losses: EpochLosses, clips: int = 0) -> Curve:
        return replace(
            self, history=(*self.history, losses), clips=clips, epoch_steps=0, loss_sum=0.0
        )

    def ended(self, settings: TrainingSettings) -> bool:
        if self.best_epoch is None:
            return False
        return (
            self.epoch >= settings.optimisation.epochs
            or self.epoch - self.best_epoch >= settings.checkpoints.patience_epochs
        )


@dataclass
class States:
    """The states of a run, and the weights of its best epochs.

    A state is all that a resumed run needs: the trained weights, the optimiser, the curve. It is
    written aside and renamed, so that there is always a whole one. No random state is among it:
    every draw of a run follows from its seed and its place.
    """

    job: TrainingJob
    _saved_at: float

    @classmethod
    def of(cls, job: TrainingJob) -> States:
        """Those of a run."""
        return cls(job, monotonic())

    @staticmethod
    def tidy(job: TrainingJob) -> None:
        """Remove what a killed run was writing."""
        for folder in (job.run_dir, job.states_dir, job.best_dir):
            for unfinished in folder.glob(".*"):
                if unfinished.is_dir():
                    shutil.rmtree(unfinished)
                else:
                    unfinished.unlink()

    def resume(self, learner: Trained) -> Curve:
        """Put the last state back, or start."""
        found = self._found()
        if not found:
            return Curve()
        learner.load_trainable(load_file(found[-1] / "weights.safetensors"))
        learner.load_optimiser(
            torch.load(found[-1] / "optimiser.pt", map_location="cpu", weights_only=True)
        )
        return _read_curve(found[-1])

    @property
    def due(self) -> bool:
        """Whether a state is to be saved now."""
        minutes = self.job.settings.checkpoints.save_every_minutes
        return monotonic() - self._saved_at >= 60 * minutes

    def save(self, learner: Trained, curve: Curve) -> None:
        """Save a state, then drop the states and weights no longer needed.

        Raises:
            TrainingError: it cannot be written. The states before it stay.
        """
        target = self.job.states_dir / f"step-{curve.step:08d}"
        if target.is_dir():
            return
        with _written(target), atomic_dir(target) as aside:
            save_file(learner.trainable_state(), aside / "weights.safetensors")
            torch.save(learner.optimiser_state(), aside / "optimiser.pt")
            write_json(aside / "curve.json", asdict(curve))
        found = self._found()
        kept = found[-self.job.settings.checkpoints.keep :]
        for old in found[: -len(kept)]:
            shutil.rmtree(old)
        needed = {self._best(_read_curve(state).best_epoch) for state in kept}
        for file in set(self.job.best_dir.glob("*")) - needed:
            file.unlink()
        self._saved_at = monotonic()

    def save_best(self, learner: Trained, curve: Curve) -> None:
        """Save the weights of the epoch that just ended.

        Raises:
            TrainingError: they cannot be written. The states stay.
        """
        target = self._best(curve.epoch)
        with _written(target), atomic_file(target) as aside:
            save_file(learner.trainable_state(), aside)

    def best(self, curve: Curve) -> dict[str, Tensor]:
        """The trained weights of the best epoch."""
        return load_file(self._best(curve.best_epoch))

    def _found(self) -> list[Path]:
        return sorted(self.job.states_dir.glob("step-*"))

    def _best(self, epoch: int | None) -> Path:
        return self.job.best_dir / f"epoch-{epoch:05d}.safetensors" if epoch else Path()


def needed_bytes(trainable: int, gpt: int, base_model: int, settings: CheckpointSettings) -> int:
    """The room that a run takes at most: its states with the one being written, the weights of
    the best epochs, the trained GPT, and the checkpoint.

    Args:
        trainable, gpt, base_model: bytes of the trained weights, the GPT, and the base's files.
    """
    states = settings.keep + 1
    return states * trainable * (1 + ADAM_MOMENTS) + states * trainable + gpt + base_model


def require_room(job: TrainingJob, needed: int) -> None:
    """Refuse to start where the disk cannot hold the run.

    What an earlier attempt of the same run has written counts as room: it is replaced.

    Raises:
        TrainingError: too little room.
    """
    job.run_dir.mkdir(parents=True, exist_ok=True)
    written = sum(file.stat().st_size for file in job.run_dir.rglob("*") if file.is_file())
    free = shutil.disk_usage(job.run_dir).free + written
    if free < needed:
        raise TrainingError(
            f"The run needs {_gigabytes(needed)} on this disk, and {_gigabytes(free)} are free",
            where=str(job.run_dir),
            remedy="Free some, lower checkpoints.keep, train an adapter (lora.enabled), or put "
            "the corpus on a larger disk",
        )


@contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    # torch and safetensors tell of a full disk in their own classes.
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"It cannot be written: {str(error).splitlines()[0]}",
            where=str(target),
            remedy="Free room on this disk and train again: it goes on from the last whole state",
        ) from error


def _read_curve(state: Path) -> Curve:
    raw = read_json(state / "curve.json")
    return Curve(**{**raw, "history": tuple(EpochLosses(**row) for row in raw["history"])})


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
