"""The audio of a sentence in pieces while its latents come, the same as of all of them at once.

A resampling and the vocoder look only so far on either side, so a piece is computed from a window
of latents, and the work grows linearly with a text's length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]

VOCODER_CONTEXT_FRAMES = 13
"""How far the public vocoder looks on either side of a frame of 256 samples."""


class AnyVocoder(Protocol):
    """What `vocode` needs of a vocoder."""

    scales: tuple[float, ...]

    def __call__(
        self,
        frames: Tensor,
        speaker: Tensor,
        check: Callable[[], None],
        context: tuple[int, int] = (0, 0),
    ) -> Tensor: ...


def vocode(
    vocoder: AnyVocoder,
    latents: Iterator[Tensor],
    speaker: Tensor,
    speed: float,
    *,
    first: int,
    following: int,
    check: Callable[[], None],
) -> Iterator[FloatArray]:
    """The audio of a sentence in pieces while its latents come.

    Joined, the pieces equal the audio of all latents at once up to rounding: a piece ends before
    the frames that later latents or the vocoder's view of them would change. The work and what is
    kept do not grow with what came before.

    Args:
        latents: shape [1, 1, channels] each.
        speaker: shape [1, 512, 1].
        speed: above 1 faster, below 1 slower.
        first: latents before the first piece; it comes once they and those that it has to wait
            for are there.
        following: latents from one piece to the next.
        check: called often; what it raises ends the work.

    Yields:
        Float32 samples. Nothing where the latents are too few for one frame.
    """
    scales = (1 / speed, *vocoder.scales)
    held: list[Tensor] = []
    dropped = done = 0
    due = first

    def piece(stop: int) -> FloatArray:
        n = dropped + len(held)
        start = max(0, done - VOCODER_CONTEXT_FRAMES)
        end = min(stop + VOCODER_CONTEXT_FRAMES, frame_count(n, scales))
        window = torch.cat(held, dim=1).transpose(1, 2)
        frames = frames_between(window, dropped, n, scales, start, end)
        wave = vocoder(frames, speaker, check, (done - start, end - stop))
        audio: FloatArray = wave.float().cpu().numpy()
        return audio

    for latent in latents:
        held.append(latent)
        n = dropped + len(held)
        if n < due:
            continue
        ready = _settled(n, scales) - VOCODER_CONTEXT_FRAMES
        if ready <= done:
            continue
        yield piece(ready)
        done, due = ready, n + following
        needed = _sources(n, scales, max(0, done - VOCODER_CONTEXT_FRAMES), done)[0].start
        del held[: needed - dropped]
        dropped = needed
    if (count := frame_count(dropped + len(held), scales)) > done:
        yield piece(count)


def frame_count(n: int, scales: Sequence[float]) -> int:
    """How many frames n latents give after linear resamplings by `scales`."""
    for scale in scales:
        n = math.floor(n * scale)
    return n


def frames_between(
    window: Tensor, first: int, n: int, scales: Sequence[float], start: int, stop: int
) -> Tensor:
    """The frames `start` to `stop` of `functional.interpolate(…, scale_factor=…, mode="linear")`
    by each of `scales` in turn, from only the latents that they are made of.

    torch copies where a resampling keeps the number of values, as a speed just below 1 does with
    few latents. The first one is computed all the same: a stream cannot know how many will come.

    Args:
        window: shape [1, channels, any]; its first latent is number `first` of `n`.

    Returns:
        Shape [1, channels, stop - start].
    """
    sources = _sources(n, scales, start, stop)
    frames = window[:, :, sources[0].start - first : sources[0].stop - first]
    for source in sources:
        low, high, weight = (
            part.to(window.device) for part in (source.low, source.high, source.weight)
        )
        frames = frames[:, :, low] * (1 - weight) + frames[:, :, high] * weight
    return frames


@dataclass(frozen=True)
class _Source:
    """What a stretch of a linear resampling is made of: its values are (1 - weight) of the input
    at `low` and weight of that at `high`, which count from the input `start`."""

    start: int
    stop: int
    low: Tensor
    high: Tensor
    weight: Tensor


def _sources(n: int, scales: Sequence[float], start: int, stop: int) -> list[_Source]:
    """For each of the resamplings of `n` latents by `scales`, what the frames `start` to `stop`
    need of its input, with the rounding of torch's `upsample_linear1d`."""
    counts = [frame_count(n, scales[:number]) for number in range(len(scales))]
    found: list[_Source] = []
    for number, scale, count in reversed(list(zip(itertools.count(), scales, counts))):
        middle = torch.arange(start, stop, dtype=torch.float64) + 0.5
        # One rounding, as torch's fused multiply-add has: at frame 2 000 a second one moves the
        # position by 1e-4.
        step = torch.tensor(1 / scale, dtype=torch.float32).double()
        position = (step * middle - 0.5).float().clamp_(min=0)
        if number and frame_count(count, (scale,)) == count:
            position = torch.arange(start, stop, dtype=torch.float32)
        low = position.long().clamp_(max=count - 1)
        high = (low + 1).clamp_(max=count - 1)
        weight = (position - low).clamp_(0, 1)
        start, stop = int(low[0]), int(high[-1]) + 1
        found.insert(0, _Source(start, stop, low - start, high - start, weight))
    return found


def _settled(n: int, scales: Sequence[float]) -> int:
    """How many frames n latents fix: output i of a linear resampling by s reads the inputs
    around (i + 0.5) / s - 0.5, and past the last one that may still move."""
    for scale in scales:
        n = max(0, math.floor(scale * (n - 0.5) - 0.5))
    return n
