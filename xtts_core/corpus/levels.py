"""Levels in dB of full scale: 0 dBFS is the greatest sample value, so a full sine has -3.01."""

from __future__ import annotations

import math

FULL_SCALE = 32_768
CLIPPED = 32_767
"""A 16-bit sample of this magnitude or more counts as clipped."""
SILENCE_DBFS = -120.0
"""The level of digital silence, in place of minus infinity, which JSON cannot hold."""


def power_dbfs(mean_square: float) -> float:
    """The level of a mean square of samples scaled to ±1."""
    return max(SILENCE_DBFS, 10 * math.log10(mean_square)) if mean_square > 0 else SILENCE_DBFS


def peak_dbfs(peak: int) -> float:
    """The level of the greatest magnitude of 16-bit samples."""
    return amplitude_dbfs(peak / FULL_SCALE)


def amplitude_dbfs(amplitude: float) -> float:
    """The level of an amplitude scaled to ±1."""
    return power_dbfs(amplitude**2)


def gain_of(db: float) -> float:
    """The factor on samples of a gain in dB."""
    return float(10 ** (db / 20))
