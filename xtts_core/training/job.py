"""What a training process is given, and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xtts_core.settings import TrainingSettings
from xtts_core.store import read_json

Tell = Callable[[Mapping[str, Any]], None]
"""Told each event of a run, a JSON object with the key `event`: prepared, start, warning,
step, epoch, saved."""


@dataclass(frozen=True)
class TrainingJob:
    """One training run.

    `codes` are the indexes of `audio_codes`; `left_out` the clip ids in them that are not to be
    used; `run_dir` keeps the states a killed run resumes from, the TensorBoard events, and at the
    end `result/`.
    """

    base_dir: Path
    codes: tuple[Path, ...]
    left_out: tuple[str, ...]
    run_dir: Path
    settings: TrainingSettings

    def to_json(self) -> dict[str, Any]:
        return {
            "base_dir": str(self.base_dir),
            "codes": [str(path) for path in self.codes],
            "left_out": list(self.left_out),
            "run_dir": str(self.run_dir),
            "settings": self.settings.model_dump(mode="json"),
        }

    @classmethod
    def read(cls, path: Path) -> TrainingJob:
        raw = read_json(path)
        return cls(
            base_dir=Path(raw["base_dir"]),
            codes=tuple(map(Path, raw["codes"])),
            left_out=tuple(raw["left_out"]),
            run_dir=Path(raw["run_dir"]),
            settings=TrainingSettings.model_validate_json(json.dumps(raw["settings"])),
        )

    @property
    def states_dir(self) -> Path:
        return self.run_dir / "states"

    @property
    def best_dir(self) -> Path:
        return self.run_dir / "best"

    @property
    def probes(self) -> Path:
        """What the base model said before training."""
        return self.run_dir / f"probes-{self.settings.forgetting.sentences}.safetensors"

    @property
    def result_dir(self) -> Path:
        return self.run_dir / "result"

    @property
    def weights(self) -> Path:
        """The trained GPT, adapters merged, under the names of the base's model.safetensors."""
        return self.result_dir / "weights.safetensors"

    @property
    def adapter(self) -> Path | None:
        """The adapter as peft reads it, where LoRA is on."""
        return self.result_dir / "adapter" if self.settings.lora.enabled else None

    @property
    def report(self) -> Path:
        return self.result_dir / "report.json"


@dataclass(frozen=True)
class EpochLosses:
    """Mean losses of one epoch; epoch 0 is the base model before any step.

    `train` and `validation` are the weighted sums that training minimises; the other two are the
    parts of `validation`, in nats a token.
    """

    epoch: int
    train: float | None
    validation: float
    validation_text: float
    validation_audio: float


@dataclass(frozen=True)
class ProbeLosses:
    """The audio loss on what the base model said in a language in a voice of its own, in nats a
    code: of the base model, and of what training made of it."""

    language: str
    before: float
    after: float


@dataclass(frozen=True)
class TrainingReport:
    """What came out. `history` starts with the base model's own losses; `train_clips` counts the
    different clips that an epoch trained on."""

    history: tuple[EpochLosses, ...]
    probes: tuple[ProbeLosses, ...]
    best_epoch: int
    steps: int
    train_clips: int
    val_clips: int
    trainable_parameters: int
    device: str
    precision: str
    processes: int
    seconds: float

    @property
    def base_val_loss(self) -> float:
        return self.history[0].validation

    @property
    def val_loss(self) -> float:
        return self.history[self.best_epoch].validation

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> TrainingReport:
        raw = read_json(path)
        history = tuple(EpochLosses(**row) for row in raw["history"])
        probes = tuple(ProbeLosses(**row) for row in raw["probes"])
        return cls(**{**raw, "history": history, "probes": probes})
