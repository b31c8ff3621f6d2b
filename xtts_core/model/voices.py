"""Which training clips become the reference clips of a checkpoint's voices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2
from pathlib import Path

BEST_DURATION_S = 10.0
"""The GPT averages its conditioning over pieces of up to 6 s and the vocoder reads up to 30 s
(coqui-tts, `get_conditioning_latents`): longer clips carry more of a voice."""


@dataclass(frozen=True)
class Clip:
    """A training clip that may become a reference."""

    path: Path
    speaker: str
    duration_s: float
    snr_db: float


def select_references(clips: Iterable[Clip], most: int = 5) -> dict[str, list[Path]]:
    """For each speaker, by name, the `most` best clips, the best first.

    A clip is as good as its SNR less 3 dB for each halving of its duration below 10 s. Equal ones
    are ordered by their path, so the choice is always the same.
    """
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_speaker.setdefault(clip.speaker, []).append(clip)
    return {
        speaker: [clip.path for clip in sorted(of_one, key=_order)[:most]]
        for speaker, of_one in sorted(by_speaker.items())
    }


def _order(clip: Clip) -> tuple[float, str]:
    return (-_quality_db(clip), clip.path.as_posix())


def _quality_db(clip: Clip) -> float:
    return clip.snr_db + 3 * log2(min(clip.duration_s, BEST_DURATION_S) / BEST_DURATION_S)
