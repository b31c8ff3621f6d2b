"""One gain for a whole video, so that its dynamics survive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.levels import FULL_SCALE, gain_of, peak_dbfs, power_dbfs
from xtts_core.corpus.segmentation import Segment
from xtts_core.corpus.vad import Envelope
from xtts_core.settings import SAMPLE_RATE_HZ, LoudnessSettings

_USED = {
    "rms": {"method", "rms_dbfs", "peak_limit_dbfs"},
    "loudnorm": {"method", "loudnorm_lufs", "peak_limit_dbfs"},
    "off": {"method"},
}


def settings_in_use(settings: LoudnessSettings) -> dict[str, Any]:
    """The settings that the gain depends on, which the target of another method is not."""
    return settings.model_dump(mode="json", include=_USED[settings.method])


def voice_gain_db(
    path: Path,
    envelope: Envelope,
    speech: npt.NDArray[np.bool_],
    segments: Sequence[Segment],
    settings: LoudnessSettings,
) -> float:
    """The gain in dB that brings the speech of the clips to its target.

    Lowered where a sample of a clip would pass `peak_limit_dbfs`.

    Args:
        speech: for each frame of the envelope, whether it is speech.
    """
    inside = np.zeros(len(envelope.level_dbfs), np.bool_)
    for segment in segments:
        inside[envelope.frames(segment.start, segment.end)] = True
    if settings.method == "off" or not np.any(inside & speech):
        return 0.0
    if settings.method == "rms":
        power = np.power(10.0, envelope.level_dbfs[inside & speech].astype(np.float64) / 10)
        gain_db = settings.rms_dbfs - power_dbfs(float(power.mean()))
    else:
        gain_db = settings.loudnorm_lufs - _loudness_lufs(path, segments)
    # A frame that lies half in a clip counts: its peak may be on the inner side.
    edges = np.convolve(inside, np.ones(3), mode="same") > 0
    headroom_db = settings.peak_limit_dbfs - peak_dbfs(int(envelope.peak[edges].max()))
    return min(gain_db, headroom_db)


def apply_gain(samples: npt.NDArray[np.int16], gain_db: float) -> npt.NDArray[np.int16]:
    """The samples louder by `gain_db`, rounded, saturating at full scale."""
    scaled = np.rint(samples * np.float32(gain_of(gain_db)))
    louder: npt.NDArray[np.int16] = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return louder


def _loudness_lufs(path: Path, segments: Sequence[Segment]) -> float:
    """The loudness of the clips (ITU-R BS.1770-4 by pyloudnorm): each is measured by itself, so
    that memory does not grow with the video, and their energies are averaged over time."""
    import pyloudnorm
    import soundfile as sf

    meter = pyloudnorm.Meter(SAMPLE_RATE_HZ)
    energy = 0.0
    samples = 0
    with sf.SoundFile(path) as wav:
        for segment in segments:
            wav.seek(segment.start)
            clip = wav.read(segment.samples, dtype="float64")
            lufs = meter.integrated_loudness(clip)
            if np.isfinite(lufs):
                energy += len(clip) * 10 ** (lufs / 10)
                samples += len(clip)
    return power_dbfs(energy / samples if samples else 0.0)
