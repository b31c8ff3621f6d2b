"""Fine-tunes the GPT of an XTTS model: a plain torch loop that a killed run picks up again.

The objective is coqui-tts's (`GPTTrainer.train_step`). A state is saved every few epochs; a run
that is started again goes on from the last one, with the same draws and so the same curve.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from xtts_core.errors import DatasetError, TrainingError
from xtts_core.model.loading import load_mel_stats, load_model, resolve_device
from xtts_core.settings import OptimisationSettings, TrainingSettings
from xtts_core.store import atomic_dir, atomic_file, read_json, write_json
from xtts_core.training.data import (
    Batch,
    Clip,
    epoch_batches,
    held_out_spans,
    make_batch,
    read_clips,
    tokenise,
    training_span,
)
from xtts_core.training.job import EpochLosses, Tell, TrainingJob, TrainingReport
from xtts_core.training.lora import add_lora, merge_lora, save_adapter
from xtts_core.training.loss import text_and_audio_loss
from xtts_core.training.mel import LogMel, conditioning_mel
from xtts_core.training.preview import speak_samples

ADAM_BETAS = (0.9, 0.96)
"""From coqui-tts's recipe (recipes/ljspeech/xtts_v2/train_gpt_xtts.py)."""


def train(job: TrainingJob, tell: Tell) -> TrainingReport:
    """Train, and leave the merged weights, the adapter and the report in `job.result_dir`.

    Raises:
        DatasetError: there is nothing to train on, or nothing to judge it by.
        TrainingError: a loss is not a finite number.
    """
    if job.report.is_file():
        return TrainingReport.read(job.report)
    settings = job.settings
    optimisation = settings.optimisation
    data = read_data(job)

    device = torch.device(resolve_device(settings.device))
    model = load_model(job.base_dir, str(device))
    gpt = model.gpt
    torch.manual_seed(optimisation.seed)
    adapter = add_lora(gpt, settings.lora) if settings.lora.enabled else None
    learner = Learner.create(gpt, conditioning_mel(load_mel_stats(job.base_dir)), settings, device)

    total_steps = optimisation.epochs * data.steps_per_epoch(optimisation)
    curve = _resume(job, learner)
    tell(
        {
            "event": "start",
            "epoch": curve.epoch,
            "epochs": optimisation.epochs,
            "step": curve.step,
            "steps": total_steps,
            "train_clips": len(data.trained),
            "val_clips": len(data.held_out),
            "trainable_parameters": learner.trainable_parameters,
            "device": str(device),
            "precision": learner.precision,
        }
    )
    writer = SummaryWriter(str(job.run_dir / "tensorboard"), purge_step=curve.step + 1)
    started = monotonic() - curve.seconds

    if not curve.history:
        curve = curve.after_epoch(learner.held_out_losses(data, train=None, epoch=0))
        _log_epoch(writer, curve, tell)

    while not curve.ended(settings):
        epoch = curve.epoch + 1
        losses: list[float] = []
        seen: set[str] = set()
        gpt.train()
        for group in data.epoch(epoch, optimisation):
            rate = learner.set_learning_rate(curve.step, total_steps, settings)
            loss, gradient_norm = learner.step(group, optimisation)
            curve = replace(curve, step=curve.step + 1)
            losses.append(loss)
            seen.update(clip_id for batch in group for clip_id in batch.clip_ids)
            tell(
                {
                    "event": "step",
                    "epoch": epoch,
                    "step": curve.step,
                    "steps": total_steps,
                    "loss": loss,
                    "lr": rate,
                }
            )
            if curve.step % settings.logging.log_every_steps == 0:
                writer.add_scalar("train/loss", loss, curve.step)
                writer.add_scalar("train/learning_rate", rate, curve.step)
                writer.add_scalar("train/gradient_norm", gradient_norm, curve.step)

        curve = curve.after_epoch(
            learner.held_out_losses(data, train=sum(losses) / len(losses), epoch=epoch)
        )
        curve = replace(curve, clips=len(seen), seconds=monotonic() - started)
        if curve.best_epoch == epoch:
            with atomic_file(_best(job, epoch)) as aside:
                save_file(learner.trainable_state(), aside)
        _log_epoch(writer, curve, tell)
        if settings.logging.samples and epoch % settings.logging.sample_every_epochs == 0:
            speak_samples(writer, model, job, [*data.trained, *data.held_out], curve.step)
        if curve.ended(settings) or epoch % settings.checkpoints.save_every_epochs == 0:
            _save(job, learner, curve)
            tell({"event": "saved", "epoch": epoch, "step": curve.step})
    writer.close()

    learner.load_trainable(load_file(_best(job, curve.best_epoch), device=str(device)))
    report = TrainingReport(
        history=curve.history,
        best_epoch=curve.best_epoch,
        steps=curve.step,
        train_clips=curve.clips,
        val_clips=len(data.held_out),
        trainable_parameters=learner.trainable_parameters,
        device=str(device),
        precision=learner.precision,
        seconds=round(curve.seconds, 3),
    )
    _export(job, gpt, adapter, report)
    return report


# --- data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """The clips of both sides, their tokens, and how held-out ones are conditioned."""

    trained: Sequence[Clip]
    held_out: Sequence[Clip]
    tokens: dict[str, Tensor]

    def epoch(self, epoch: int, settings: OptimisationSettings) -> Iterator[list[Batch]]:
        """The batches of each optimiser step: every training clip once, each conditioned on a
        span of itself."""
        batches = epoch_batches(self.trained, settings.batch_size, seed=settings.seed, epoch=epoch)
        accumulated = settings.gradient_accumulation
        for first in range(0, len(batches), accumulated):
            yield [
                make_batch(
                    clips,
                    [training_span(clip, seed=settings.seed, epoch=epoch) for clip in clips],
                    self.tokens,
                )
                for clips in batches[first : first + accumulated]
            ]

    def steps_per_epoch(self, settings: OptimisationSettings) -> int:
        batches = math.ceil(len(self.trained) / settings.batch_size)
        return math.ceil(batches / settings.gradient_accumulation)

    def validation(self) -> Iterator[Batch]:
        """Every held-out clip by itself, so that its loss depends on no other."""
        span = held_out_spans([*self.trained, *self.held_out])
        for clip in self.held_out:
            yield make_batch([clip], [span(clip)], self.tokens)


def read_data(job: TrainingJob) -> Data:
    """Every clip of the job that is not left out.

    Raises:
        DatasetError: there is nothing to train on, or nothing to judge it by.
    """
    left_out = set(job.left_out)
    clips = [clip for clip in read_clips(job.codes) if clip.clip_id not in left_out]
    trained = [clip for clip in clips if clip.split == "train"]
    held_out = [clip for clip in clips if clip.split == "val"]
    if not trained or not held_out:
        raise DatasetError(
            f"There are {len(trained)} clips to train on and {len(held_out)} to judge it by",
            where=", ".join(str(path) for path in job.codes),
            remedy="Add videos, or raise split.val_share in dataset.yaml where none is held out",
        )
    return Data(trained, held_out, tokenise(clips, job.base_dir))


# --- learning ---------------------------------------------------------------------------------


@dataclass
class Learner:
    """The GPT with what changes it."""

    gpt: Any
    mel: LogMel
    device: torch.device
    autocast: torch.dtype | None
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    text_weight: float
    audio_weight: float

    @classmethod
    def create(
        cls, gpt: Any, mel: LogMel, settings: TrainingSettings, device: torch.device
    ) -> Learner:
        autocast = None
        if settings.optimisation.mixed_precision and device.type == "cuda":
            autocast = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return cls(
            gpt=gpt,
            mel=mel.to(device),
            device=device,
            autocast=autocast,
            optimiser=torch.optim.AdamW(
                _parameter_groups(gpt, settings.optimisation.weight_decay), betas=ADAM_BETAS
            ),
            # Half precision alone has too small a range for unscaled gradients.
            scaler=torch.amp.GradScaler(device.type, enabled=autocast is torch.float16),
            text_weight=settings.optimisation.text_loss_weight,
            audio_weight=settings.optimisation.audio_loss_weight,
        )

    @property
    def precision(self) -> str:
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.autocast]

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.gpt.named_parameters() if p.requires_grad}

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.trainable.values())

    def trainable_state(self) -> dict[str, Tensor]:
        return {name: p.detach().contiguous() for name, p in self.trainable.items()}

    def load_trainable(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(state[name])

    def set_learning_rate(self, step: int, total: int, settings: TrainingSettings) -> float:
        optimisation = settings.optimisation
        peak = (
            optimisation.learning_rate_lora
            if settings.lora.enabled
            else optimisation.learning_rate_full
        )
        rate = peak * learning_rate_factor(step, total, optimisation.warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def step(self, batches: Sequence[Batch], settings: OptimisationSettings) -> tuple[float, float]:
        """One optimiser step on the mean gradient of some batches.

        Returns:
            Their mean loss, and the norm of the gradient before it was clipped.
        """
        total = 0.0
        for batch in batches:
            text, audio = self._losses(batch)
            loss = self.text_weight * text + self.audio_weight * audio
            scaled: Any = self.scaler.scale(loss / len(batches))
            scaled.backward()
            total += loss.item()
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.trainable.values(), settings.max_gradient_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        return total / len(batches), norm.item()

    @torch.no_grad()
    def held_out_losses(self, data: Data, *, train: float | None, epoch: int) -> EpochLosses:
        """Mean losses over the held-out clips, without dropout."""
        self.gpt.eval()
        pairs = [self._losses(batch) for batch in data.validation()]
        text = sum(text.item() for text, _ in pairs) / len(pairs)
        audio = sum(audio.item() for _, audio in pairs) / len(pairs)
        return EpochLosses(
            epoch=epoch,
            train=train,
            validation=self.text_weight * text + self.audio_weight * audio,
            validation_text=text,
            validation_audio=audio,
        )

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        batch = batch.to(self.device)
        with torch.autocast(
            self.device.type, dtype=self.autocast, enabled=self.autocast is not None
        ):
            text, audio = text_and_audio_loss(self.gpt, self.mel, batch)
        if not torch.isfinite(text + audio):
            raise TrainingError(
                f"The loss is not a finite number (text {text.item()}, audio {audio.item()})",
                where="clips " + ", ".join(batch.clip_ids),
                remedy="Listen to these clips; or lower the learning rate, or set "
                "mixed_precision to false",
            )
        return text, audio


def learning_rate_factor(step: int, total: int, warmup: int) -> float:
    """The share of the peak rate at a step (from 0): a linear rise, then a cosine to 0.

    The rise takes at most half of the steps, or a short run would never reach its rate.
    """
    warmup = min(warmup, total // 2)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _parameter_groups(gpt: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and embeddings do not (coqui-tts's recipe:
    optimizer_wd_only_on_weights)."""
    embeddings = {
        id(p)
        for module in gpt.modules()
        if isinstance(module, nn.Embedding)
        for p in module.parameters()
    }
    trained = [p for p in gpt.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in embeddings]
    rest = [p for p in trained if p.ndim <= 1 or id(p) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


# --- the curve, and the states it is saved with -----------------------------------------------


@dataclass(frozen=True)
class Curve:
    """How far a run is: the losses of every epoch so far, the base model's first, and how many
    different clips the last one trained on."""

    step: int = 0
    clips: int = 0
    history: tuple[EpochLosses, ...] = ()
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        return max(len(self.history) - 1, 0)

    @property
    def best_epoch(self) -> int:
        """The trained epoch with the lowest validation loss; the base model does not count."""
        return min(self.history[1:], key=lambda losses: losses.validation).epoch

    def after_epoch(self, losses: EpochLosses) -> Curve:
        return replace(self, history=(*self.history, losses))

    def ended(self, settings: TrainingSettings) -> bool:
        if self.epoch == 0:
            return False
        return (
            self.epoch >= settings.optimisation.epochs
            or self.epoch - self.best_epoch >= settings.checkpoints.patience_epochs
        )


def _save(job: TrainingJob, learner: Learner, curve: Curve) -> None:
    """Save all that a resumed run needs, then drop the states and weights no longer needed."""
    with atomic_dir(job.states_dir / f"epoch-{curve.epoch:05d}") as aside:
        save_file(learner.trainable_state(), aside / "weights.safetensors")
        torch.save(
            {
                "optimiser": learner.optimiser.state_dict(),
                "scaler": learner.scaler.state_dict(),
                "cpu_rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all(),
            },
            aside / "optimiser.pt",
        )
        write_json(aside / "curve.json", asdict(curve))
    states = sorted(job.states_dir.iterdir())
    kept = states[-job.settings.checkpoints.keep :]
    for old in states[: -len(kept)]:
        shutil.rmtree(old)
    needed = {_best(job, _read_curve(state).best_epoch) for state in kept}
    for file in set(job.best_dir.iterdir()) - needed:
        file.unlink()


def _resume(job: TrainingJob, learner: Learner) -> Curve:
    """Put the last saved state back, or start."""
    _drop_unfinished(job)
    states = sorted(job.states_dir.glob("epoch-*"))
    if not states:
        return Curve()
    state = states[-1]
    learner.load_trainable(load_file(state / "weights.safetensors", device=str(learner.device)))
    rest = torch.load(state / "optimiser.pt", map_location=learner.device, weights_only=True)
    learner.optimiser.load_state_dict(rest["optimiser"])
    learner.scaler.load_state_dict(rest["scaler"])
    torch.set_rng_state(rest["cpu_rng"].cpu())
    if learner.device.type == "cuda":
        torch.cuda.set_rng_state_all([state.cpu() for state in rest["cuda_rng"]])
    return _read_curve(state)


def _drop_unfinished(job: TrainingJob) -> None:
    """Remove what a killed run was writing, which still has a name that starts with a dot."""
    for folder in (job.run_dir, job.states_dir, job.best_dir):
        for unfinished in folder.glob(".*"):
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink()


def _read_curve(state: Path) -> Curve:
    raw = read_json(state / "curve.json")
    return Curve(**{**raw, "history": tuple(EpochLosses(**row) for row in raw["history"])})


def _best(job: TrainingJob, epoch: int) -> Path:
    return job.best_dir / f"epoch-{epoch:05d}.safetensors"


# --- what a person sees, and what comes out -----------------------------------------------------


def _log_epoch(writer: SummaryWriter, curve: Curve, tell: Tell) -> None:
    losses = curve.history[-1]
    if losses.train is not None:
        writer.add_scalar("train/epoch_loss", losses.train, curve.step)
    writer.add_scalar("validation/loss", losses.validation, curve.step)
    writer.add_scalar("validation/text_loss", losses.validation_text, curve.step)
    writer.add_scalar("validation/audio_loss", losses.validation_audio, curve.step)
    writer.flush()
    tell({"event": "epoch", "step": curve.step, **asdict(losses)})


def _export(job: TrainingJob, gpt: Any, adapter: Any, report: TrainingReport) -> None:
    with atomic_dir(job.result_dir) as aside:
        if adapter is not None:
            save_adapter(adapter, aside / "adapter")
            merge_lora(adapter)
        state = {f"gpt.{name}": tensor.contiguous() for name, tensor in gpt.state_dict().items()}
        save_file(state, aside / job.weights.name)
        write_json(aside / job.report.name, report.to_json())
