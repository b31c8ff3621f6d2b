"""Fine-tunes the GPT of an XTTS model: a plain loop on Hugging Face Accelerate.

The objective is coqui-tts's (`GPTTrainer.train_step`). Every draw follows from the seed, the epoch
and the batch alone, so a killed run that goes on, and a run that several processes share, have the
curve of an unbroken one in one process.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from time import monotonic
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from xtts_core.errors import DatasetError, SettingsError, TrainingError
from xtts_core.model.loading import MODEL_FILE, load_mel_stats, load_model, resolve_device
from xtts_core.settings import OptimisationSettings, TrainingSettings
from xtts_core.store import atomic_dir, write_json
from xtts_core.training.augmentation import PITCH_WARNING, Augmenter
from xtts_core.training.data import (
    Batch,
    Clip,
    Span,
    epoch_batches,
    held_out_spans,
    make_batch,
    read_clips,
    tokenise,
    training_spans,
)
from xtts_core.training.forgetting import Probes, speak_probes
from xtts_core.training.job import EpochLosses, ProbeLosses, Tell, TrainingJob, TrainingReport
from xtts_core.training.layers import lighten
from xtts_core.training.lora import add_lora, merge_lora, save_adapter
from xtts_core.training.loss import text_and_audio_loss
from xtts_core.training.mel import LogMel, conditioning_mel
from xtts_core.training.preview import speak_samples
from xtts_core.training.states import Curve, States, needed_bytes, require_room

ADAM_BETAS = (0.9, 0.96)
"""From coqui-tts's recipe (recipes/ljspeech/xtts_v2/train_gpt_xtts.py)."""


def train(job: TrainingJob, tell: Tell) -> TrainingReport:
    """Train, and leave the merged weights, the adapter and the report in `job.result_dir`.

    Where `accelerate launch` started several processes, each runs this; the main one tells, saves
    and exports.

    Raises:
        DatasetError: there is nothing to train on, or nothing to judge it by.
        SettingsError: two settings do not go together, or not with this machine.
        TrainingError: a loss is not a finite number; memory or the disk is too small.
    """
    if job.report.is_file():
        return TrainingReport.read(job.report)
    with _memory_explained(), _lost_process_explained():
        return _train(job, tell)


def _train(job: TrainingJob, tell: Tell) -> TrainingReport:
    settings = job.settings
    optimisation = settings.optimisation
    accelerator = start_accelerator(settings)
    device = accelerator.device
    leads = accelerator.is_main_process
    tell = tell if leads else _nobody

    data = read_data(job)
    model = load_model(job.base_dir, str(device))
    gpt = model.gpt
    gpt_bytes = _bytes(gpt.parameters())
    torch.manual_seed(optimisation.seed)
    adapter = add_lora(gpt, settings.lora) if settings.lora.enabled else None
    if optimisation.gradient_checkpointing:
        # coqui-tts took the transformer's own embeddings away; transformers would look for them.
        gpt.gpt.main_input_name = "inputs_embeds"
        gpt.gpt.activation_checkpointing_enable({"use_reentrant": False})
    mel = conditioning_mel(load_mel_stats(job.base_dir)).to(device)
    learner = Learner.create(gpt, mel, settings, accelerator)
    base_bytes = (job.base_dir / MODEL_FILE).stat().st_size
    require_room(
        job,
        needed_bytes(
            _bytes(learner.trainable.values()), gpt_bytes, base_bytes, settings.checkpoints
        ),
    )
    probes = _probes(job, model, data, tell) if leads and settings.forgetting.sentences else None
    untrained = learner.probe_losses(probes)
    if leads:
        States.tidy(job)
    states = States.of(job)
    curve = states.resume(learner)
    accelerator.wait_for_everyone()

    total_steps = optimisation.epochs * data.steps_per_epoch
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
            "device": device.type,
            "precision": learner.precision,
            "processes": accelerator.num_processes,
        }
    )
    if settings.augmentation.share and settings.augmentation.max_pitch_semitones:
        tell({"event": "warning", "what": PITCH_WARNING})
    board = Board(job, curve.step) if leads else None
    started = monotonic() - curve.seconds

    if not curve.history:
        curve = curve.after_epoch(learner.held_out_losses(data, train=None, epoch=0))
        _tell_epoch(board, curve, tell)

    while not curve.ended(settings):
        epoch = curve.epoch + 1
        seen: set[str] = set()
        gpt.train()
        for number, group in enumerate(data.epoch(epoch)):
            seen.update(clip.clip_id for clips in group for clip in clips)
            if number < curve.epoch_steps:
                continue
            rate = learner.set_learning_rate(curve.step, total_steps)
            begun = monotonic()
            loss, gradient_norm = learner.step(data, group, epoch)
            curve = curve.after_step(loss, monotonic() - started)
            done = {
                "loss": loss,
                "lr": rate,
                "gradient_norm": gradient_norm,
                "clips_per_second": sum(map(len, group)) / (monotonic() - begun),
            }
            tell(
                {"event": "step", "epoch": epoch, "step": curve.step, "steps": total_steps, **done}
            )
            if board:
                board.step(curve.step, done)
            if leads and states.due:
                states.save(learner, curve)
                tell({"event": "saved", "epoch": epoch, "step": curve.step})

        losses = learner.held_out_losses(
            data, train=curve.loss_sum / curve.epoch_steps, epoch=epoch
        )
        curve = curve.after_epoch(losses, clips=len(seen))
        _tell_epoch(board, curve, tell)
        if leads and curve.best_epoch == epoch:
            states.save_best(learner, curve)
        if board and settings.logging.samples and epoch % settings.logging.sample_every_epochs == 0:
            speak_samples(board.writer, model, job, [*data.trained, *data.held_out], curve.step)

    if leads:
        learner.load_trainable(states.best(curve))
    report = TrainingReport(
        history=curve.history,
        probes=tuple(
            ProbeLosses(language, untrained[language], after)
            for language, after in learner.probe_losses(probes).items()
        ),
        best_epoch=curve.best_epoch or 0,
        steps=curve.step,
        train_clips=curve.clips,
        val_clips=len(data.held_out),
        trainable_parameters=learner.trainable_parameters,
        device=device.type,
        precision=learner.precision,
        processes=accelerator.num_processes,
        seconds=round(curve.seconds, 3),
    )
    if board:
        board.writer.close()
        _export(job, gpt, adapter, report)
    accelerator.wait_for_everyone()
    return report


def _probes(job: TrainingJob, model: Any, data: Data, tell: Tell) -> Probes:
    def progress(done: float, total: float | None, unit: str) -> None:
        tell({"event": "prepared", "done": done, "total": total, "unit": unit})

    if not job.probes.is_file():
        sentences = job.settings.forgetting.sentences
        speak_probes(model, job.base_dir, data.trained, sentences, job.probes, progress)
    return Probes(job.probes, job.base_dir)


def start_accelerator(settings: TrainingSettings) -> Accelerator:
    """What knows the device, the precision and the other processes.

    Raises:
        SettingsError: fp16 without a GPU.
    """
    device = torch.device(resolve_device(settings.device))
    precision = settings.optimisation.precision
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision == "fp16" and device.type == "cpu":
        raise SettingsError(
            "fp16 needs a GPU",
            where="optimisation.precision in training.yaml",
            remedy="Use auto, fp32 or bf16",
        )
    # It is a singleton, whose precision an earlier run in this process may have set.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        # The others wait while the main process speaks samples and exports.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=4))],
    )


# --- data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """The clips of both sides, their tokens, and what their voices are taken from."""

    trained: Sequence[Clip]
    held_out: Sequence[Clip]
    tokens: dict[str, Tensor]
    settings: OptimisationSettings
    augment: Callable[[Clip, int], Clip]
    span: Callable[[Clip, int], Span]
    held_out_span: Callable[[Clip], Span]

    @property
    def steps_per_epoch(self) -> int:
        batches = math.ceil(len(self.trained) / self.settings.batch_size)
        return math.ceil(batches / self.settings.gradient_accumulation)

    def epoch(self, epoch: int) -> Iterator[list[list[Clip]]]:
        """The batches of each optimiser step: every training clip once."""
        batches = epoch_batches(
            self.trained, self.settings.batch_size, seed=self.settings.seed, epoch=epoch
        )
        accumulated = self.settings.gradient_accumulation
        for first in range(0, len(batches), accumulated):
            yield batches[first : first + accumulated]

    def batch(self, clips: Sequence[Clip], epoch: int) -> Batch:
        """Training clips, augmented where that is set, each with a span of its voice."""
        clips = [self.augment(clip, epoch) for clip in clips]
        return make_batch(clips, [self.span(clip, epoch) for clip in clips], self.tokens)

    def validation(self, first: int = 0, stride: int = 1) -> Iterator[Batch]:
        """Every held-out clip by itself, so that its loss depends on no other; of several
        processes, each takes its share of them."""
        for clip in self.held_out[first::stride]:
            yield make_batch([clip], [self.held_out_span(clip)], self.tokens)


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
    settings = job.settings.optimisation
    return Data(
        trained,
        held_out,
        tokenise(clips, job.base_dir),
        settings,
        Augmenter(job.base_dir, job.settings.augmentation, settings.seed),
        training_spans(trained, settings.conditioning, seed=settings.seed),
        held_out_spans(clips),
    )


# --- learning ---------------------------------------------------------------------------------


@dataclass
class Learner:
    """The GPT with what changes it."""

    gpt: Any
    mel: LogMel
    accelerator: Accelerator
    optimiser: Any
    settings: TrainingSettings

    @classmethod
    def create(
        cls, gpt: Any, mel: LogMel, settings: TrainingSettings, accelerator: Accelerator
    ) -> Learner:
        lighten(gpt, frozen=settings.lora.enabled)
        groups = _parameter_groups(gpt, settings.optimisation.weight_decay)
        # Fused, and the norm below over all gradients at once: they are a tenth of a CPU's step.
        optimiser = accelerator.prepare(torch.optim.AdamW(groups, betas=ADAM_BETAS, fused=True))
        return cls(gpt, mel, accelerator, optimiser, settings)

    @property
    def precision(self) -> str:
        mixed = str(self.accelerator.mixed_precision)
        return "fp32" if mixed == "no" else mixed

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

    def optimiser_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "optimiser": self.optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }

    def load_optimiser(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def set_learning_rate(self, step: int, total: int) -> float:
        optimisation = self.settings.optimisation
        peak = (
            optimisation.learning_rate_lora
            if self.settings.lora.enabled
            else optimisation.learning_rate_full
        )
        rate = peak * learning_rate_factor(step, total, optimisation.warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def step(self, data: Data, group: Sequence[Sequence[Clip]], epoch: int) -> tuple[float, float]:
        """One optimiser step on the mean gradient of some batches, of which each process computes
        its share.

        Returns:
            Their mean loss, and the norm of the gradient before it was clipped.
        Raises:
            TrainingError: a loss or the gradient is not a finite number.
        """
        accelerator, optimisation = self.accelerator, self.settings.optimisation
        total = torch.zeros((), device=accelerator.device)
        broken = torch.zeros(len(group), device=accelerator.device)
        for index in range(accelerator.process_index, len(group), accelerator.num_processes):
            batch = data.batch(group[index], epoch)
            # Dropout is drawn by the batch, not by the process or by what ran before it.
            torch.manual_seed(_draw(optimisation.seed, epoch, batch.clip_ids))
            loss = self._weighted(*self._losses(batch))
            broken[index] = ~loss.isfinite()
            accelerator.backward(loss / len(group))
            total += loss.detach()
        self._share([total, broken, *self._gradients()])
        self._refuse_broken(broken, group)
        accelerator.unscale_gradients(self.optimiser)
        norm = nn.utils.clip_grad_norm_(
            self.trainable.values(), optimisation.max_gradient_norm, foreach=True
        )
        if accelerator.scaler is None and not norm.isfinite():
            self._refuse_broken(torch.ones(len(group)), group)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return total.item() / len(group), norm.item()

    @torch.no_grad()
    def held_out_losses(self, data: Data, *, train: float | None, epoch: int) -> EpochLosses:
        """Mean losses over the held-out clips, without dropout.

        Raises:
            TrainingError: one is not a finite number.
        """
        accelerator = self.accelerator
        self.gpt.eval()
        losses = torch.zeros(len(data.held_out), 2, device=accelerator.device)
        first, stride = accelerator.process_index, accelerator.num_processes
        for row, batch in zip(losses[first::stride], data.validation(first, stride), strict=True):
            row[:] = torch.stack(self._losses(batch))
        self._share([losses])
        self._refuse_broken((~losses.isfinite()).any(dim=1), [[clip] for clip in data.held_out])
        text, audio = losses.double().mean(dim=0)
        return EpochLosses(
            epoch=epoch,
            train=train,
            validation=self._weighted(text, audio).item(),
            validation_text=text.item(),
            validation_audio=audio.item(),
        )

    @torch.no_grad()
    def probe_losses(self, probes: Probes | None) -> dict[str, float]:
        """The mean audio loss of each language, in nats a code, without dropout."""
        self.gpt.eval()
        if probes is None:
            return {}
        found = {
            language: [self._losses(batch)[1].item() for batch in probes.batches(language)]
            for language in probes.languages
        }
        return {language: sum(losses) / len(losses) for language, losses in found.items()}

    def _weighted(self, text: Tensor, audio: Tensor) -> Tensor:
        optimisation = self.settings.optimisation
        return optimisation.text_loss_weight * text + optimisation.audio_loss_weight * audio

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.accelerator.autocast():
            return text_and_audio_loss(self.gpt, self.mel, batch.to(self.accelerator.device))

    def _gradients(self) -> list[Tensor]:
        """Those of every trained weight, nought where this process had no batch."""
        for parameter in self.trainable.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self.trainable.values() if p.grad is not None]

    def _share(self, tensors: Sequence[Tensor]) -> None:
        """Sum over the processes, in place. Unlike DistributedDataParallel this takes batches
        that do not divide evenly, and frozen weights."""
        if self.accelerator.num_processes > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def _refuse_broken(self, broken: Tensor, batches: Sequence[Sequence[Clip]]) -> None:
        found = [
            clip.clip_id
            for clips, bad in zip(batches, broken.tolist(), strict=True)
            for clip in clips
            if bad
        ]
        if found:
            raise TrainingError(
                "The loss or its gradient is not a finite number",
                where="clips " + ", ".join(found),
                remedy="Listen to these clips; or lower the learning rate, or set "
                "optimisation.precision to fp32",
            )


def _draw(seed: int, epoch: int, clip_ids: Sequence[str]) -> int:
    digest = hashlib.sha256(f"{seed}:{epoch}:{','.join(clip_ids)}".encode()).digest()
    return int.from_bytes(digest[:4])


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


# --- what a person sees, and what comes out -----------------------------------------------------


class Board:
    """The TensorBoard of a run."""

    def __init__(self, job: TrainingJob, step: int) -> None:
        self.writer = SummaryWriter(str(job.run_dir / "tensorboard"), purge_step=step + 1)
        self._every = job.settings.logging.log_every_steps

    def step(self, step: int, values: dict[str, float]) -> None:
        names = {"lr": "learning_rate"}
        if step % self._every == 0:
            for name, value in values.items():
                self.writer.add_scalar(f"train/{names.get(name, name)}", value, step)

    def epoch(self, step: int, losses: EpochLosses) -> None:
        if losses.train is not None:
            self.writer.add_scalar("train/epoch_loss", losses.train, step)
        self.writer.add_scalar("validation/loss", losses.validation, step)
        self.writer.add_scalar("validation/text_loss", losses.validation_text, step)
        self.writer.add_scalar("validation/audio_loss", losses.validation_audio, step)
        self.writer.flush()


def _tell_epoch(board: Board | None, curve: Curve, tell: Tell) -> None:
    if board:
        board.epoch(curve.step, curve.history[-1])
    tell({"event": "epoch", "step": curve.step, **asdict(curve.history[-1])})


def _nobody(event: Mapping[str, Any]) -> None:
    """A `Tell` of a process that is not the main one."""


def _export(job: TrainingJob, gpt: Any, adapter: Any, report: TrainingReport) -> None:
    with atomic_dir(job.result_dir) as aside:
        if adapter is not None:
            save_adapter(adapter, gpt, aside / "adapter")
            merge_lora(adapter)
        state = {f"gpt.{name}": tensor.contiguous() for name, tensor in gpt.state_dict().items()}
        save_file(state, aside / job.weights.name)
        write_json(aside / job.report.name, report.to_json())


@contextmanager
def _memory_explained() -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU torch has no class of its own for it.
        if type(error) is RuntimeError and "DefaultCPUAllocator" not in str(error):
            raise
        raise TrainingError(
            f"Memory ran out: {str(error).splitlines()[0]}",
            where="optimisation.batch_size in training.yaml",
            remedy="Lower it and raise gradient_accumulation by as much; then set "
            "gradient_checkpointing: true; then train an adapter (lora.enabled) of a lower rank. "
            "The run goes on from its last state",
        ) from error


@contextmanager
def _lost_process_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # What torch's two ways between processes raise has no class of its own.
        if not torch.distributed.is_initialized() or not re.search("gloo|NCCL", str(error)):
            raise
        raise TrainingError(
            f"Another process of this run ended: {str(error).splitlines()[0]}",
            where="processes in training.yaml",
            remedy="Read the run's log. A process that was killed mostly means that memory ran "
            "out: lower batch_size or processes. Started again, it goes on from its last state",
        ) from error


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
