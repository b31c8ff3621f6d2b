"""The two losses of XTTS, as coqui-tts's `gpt(...)` gives them, with the conditioning span left
out in the right unit."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from xtts_core.training.codes import CODE_SAMPLES
from xtts_core.training.data import Batch
from xtts_core.training.mel import LogMel

_STOPS = 4
"""How many stop codes gpt.py scores after a clip's own codes (code_lengths is their number + 3, and
targets up to code_lengths + 1 count)."""
_IGNORED = -1


def text_and_audio_loss(gpt: Any, mel: LogMel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross entropy in nats of the text tokens and of the audio codes.

    Args:
        gpt: coqui-tts's `TTS.tts.layers.xtts.gpt.GPT`.
        mel: the spectrogram of the conditioning spans.

    coqui-tts's forward masks the span of the batch's last clip only, and in units of 256 samples
    (see `unscored_codes`), so it is called without spans, and where a span is to be left out the
    audio loss is computed here from the logits it returns.
    """
    with torch.no_grad():
        voice = mel(batch.conditioning)[:, None]
    text_loss, audio_loss, logits = gpt(
        batch.text, batch.text_lengths, batch.codes, batch.wav_lengths, cond_mels=voice
    )
    if any(end > start for start, end in batch.unscored):
        targets = audio_targets(batch, stop=gpt.stop_audio_token, length=logits.shape[-1])
        audio_loss = F.cross_entropy(logits, targets, ignore_index=_IGNORED)
    return text_loss, audio_loss


def audio_targets(batch: Batch, *, stop: int, length: int) -> Tensor:
    """(batch, length) int64: each clip's codes, its stops, and -1 where nothing is scored."""
    targets = torch.full((len(batch.clip_ids), length), _IGNORED, device=batch.codes.device)
    for row, codes, samples, (start, end) in zip(
        targets, batch.codes, batch.wav_lengths.tolist(), batch.unscored, strict=True
    ):
        n = ceil(samples / CODE_SAMPLES)
        row[:n] = codes[:n]
        row[n : n + _STOPS] = stop
        row[start:end] = _IGNORED
    return targets
