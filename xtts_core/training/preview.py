"""Held-out sentences spoken while training, for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from xtts_core.model.engine import Engine
from xtts_core.model.sampling import Sampling
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.training.data import Clip, held_out_spans
from xtts_core.training.job import TrainingJob
from xtts_core.training.mel import code_mel, pcm_to_float

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from TTS.tts.models.xtts import Xtts

_SAMPLING = Sampling(seed=0)


def speak_samples(
    writer: SummaryWriter, model: Xtts, job: TrainingJob, clips: Sequence[Clip], step: int
) -> None:
    """Speak the first held-out sentences in their speakers' voices, as sound and as a mel picture.

    Args:
        clips: every clip of the run; a voice comes from another clip than the one spoken.
    """
    engine = Engine(model, Tokenizer.load(job.base_dir), "in training", {})
    mel = code_mel(torch.ones(80))
    span_of = held_out_spans(clips)
    was_training = model.gpt.training
    model.gpt.eval()
    held_out = [clip for clip in clips if clip.split == "val"]
    for clip in held_out[: job.settings.logging.samples]:
        span = span_of(clip)
        reference = pcm_to_float(span.clip.audio(span.start, span.end)).numpy()
        audio = engine.synthesize(clip.text, clip.language, engine.latents([reference]), _SAMPLING)
        writer.add_audio(
            f"samples/{clip.clip_id}", audio[None], step, sample_rate=engine.sample_rate_hz
        )
        picture = _picture(mel(torch.from_numpy(audio)[None])[0].numpy())
        writer.add_image(f"samples/{clip.clip_id}", picture, step, dataformats="HW")
    model.gpt.train(was_training)


def _picture(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """A log mel (bands, frames) as a grey picture in [0, 1], low bands at the bottom."""
    low, high = mel.min(), mel.max()
    grey: NDArray[np.float32] = (mel[::-1] - low) / max(high - low, 1e-6)
    return grey
