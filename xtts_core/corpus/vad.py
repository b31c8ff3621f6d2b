"""Where somebody speaks: webrtcvad and the level, in a stream.

webrtcvad takes 8, 16, 32 or 48 kHz in frames of 10, 20 or 30 ms, so it judges a 16 kHz view of
the audio in frames of 10 ms. The level is measured on frames of `vad.frame_samples` samples of
the 22 050 Hz file itself, which are also the grid of everything found: a frame's voice flag is
webrtcvad's at the middle of the frame. webrtcvad takes most music for speech
(ROC-AUC 0.73 on mixed domains: silero-vad wiki, Quality-Metrics).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.levels import FULL_SCALE, SILENCE_DBFS
from xtts_core.settings import SAMPLE_RATE_HZ, VadSettings
from xtts_core.stage import Progress, silent

VAD_RATE_HZ = 16_000
VAD_FRAME = 160
"""10 ms at 16 kHz: the finest that webrtcvad takes."""

NOISE_PERCENTILE = 10
NOISE_REACH_S = 5
"""The background is the 10th percentile of the levels up to 5 s around: even fluent speech
pauses for a tenth of the time (minimum statistics, Martin 2001, use a few seconds too)."""
SEED_OVER_NOISE_DB = 12.0
EXTENT_OVER_NOISE_DB = 4.0
EXTENT_UNDER_FLOOR_DB = 5.0
"""Hysteresis: a region needs a voiced frame over the floor and 12 dB over the background; it
reaches as far as the lower thresholds hold, so that weak first and last sounds belong to it."""
MIN_DIP_S = 0.15
"""The shortest gap that a region which is too long may be split at; the closure of a stop
consonant is shorter (about 0.1 s)."""
MIN_VOICE_S = 0.1
"""Shorter sounds are clicks; the shortest syllables take about 0.1 s."""


STEADY_DB = 3.0
STEADY_FROM_S = 1.0
"""A region of a second and more whose levels spread by less than this (standard deviation) is
noise: syllables make speech rise and fall by 5 dB and more, also at a low signal-to-noise
ratio, while noise stays within 1.5 dB (both measured on the demo recordings)."""


@dataclass(frozen=True)
class Envelope:
    """A file seen frame by frame (`frame_samples` each; the last one may be shorter).

    About 22 kB a minute, the only thing that grows with a recording.
    """

    frame_samples: int
    n_samples: int
    level_dbfs: npt.NDArray[np.float32]
    peak: npt.NDArray[np.int32]
    voiced: npt.NDArray[np.bool_]

    def frames(self, start: int, end: int) -> slice:
        """The frames whose middle lies in samples `start` to `end`."""
        half = self.frame_samples // 2
        first = (start + half) // self.frame_samples
        last = (end + half) // self.frame_samples
        return slice(first, max(first, last))


@dataclass(frozen=True)
class Region:
    """Speech from sample `start` up to, not including, sample `end` of the 22 050 Hz file."""

    start: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.start


def measure(path: Path, settings: VadSettings, progress: Progress = silent) -> Envelope:
    """Read a 22 050 Hz mono 16-bit WAV once, `chunk_s` at a time (the result does not depend on
    `chunk_s`).

    With `enabled: false` nothing is asked of webrtcvad, and every frame counts as voiced.
    """
    import soundfile as sf

    frame = settings.frame_samples
    levels: list[npt.NDArray[np.float32]] = []
    peaks: list[npt.NDArray[np.int32]] = []
    judge = _WebRtc(settings.aggressiveness)
    with sf.SoundFile(path) as wav:
        n_samples = wav.frames
        block = max(1, round(settings.chunk_s * SAMPLE_RATE_HZ / frame)) * frame
        done = 0
        while len(samples := wav.read(block, dtype="int16")):
            if settings.enabled:
                judge.feed(samples)
            level, peak = _levels(samples, frame)
            levels.append(level)
            peaks.append(peak)
            done += len(samples)
            progress(done / SAMPLE_RATE_HZ, n_samples / SAMPLE_RATE_HZ, "s")
    level_dbfs = np.concatenate(levels) if levels else np.zeros(0, np.float32)
    voiced = np.ones(len(level_dbfs), np.bool_)
    if settings.enabled and n_samples:
        flags = judge.finish()
        middle_s = (np.arange(len(level_dbfs)) + 0.5) * frame / SAMPLE_RATE_HZ
        index = np.minimum((middle_s * VAD_RATE_HZ / VAD_FRAME).astype(int), len(flags) - 1)
        voiced = flags[index]
    return Envelope(
        frame_samples=frame,
        n_samples=n_samples,
        level_dbfs=level_dbfs,
        peak=np.concatenate(peaks) if peaks else np.zeros(0, np.int32),
        voiced=voiced,
    )


def voice_regions(envelope: Envelope, settings: VadSettings, longest: int) -> list[Region]:
    """The stretches of speech, in order.

    They lie at least `min_silence_s` apart, except that one of more than `longest` samples is
    split at its widest gaps, as far as it has any of `MIN_DIP_S`.
    """
    if envelope.n_samples == 0:
        return []
    if not settings.enabled:
        return [Region(0, envelope.n_samples)]
    clusters: list[list[Region]] = []
    for stretch in _stretches(envelope, settings):
        near = settings.min_silence_s * SAMPLE_RATE_HZ
        if clusters and stretch.start - clusters[-1][-1].end < near:
            clusters[-1].append(stretch)
        else:
            clusters.append([stretch])
    regions = [region for cluster in clusters for region in _fitted(cluster, longest)]
    return [region for region in regions if _lives(envelope, region)]


def _lives(envelope: Envelope, region: Region) -> bool:
    duration_s = region.samples / SAMPLE_RATE_HZ
    if duration_s < STEADY_FROM_S:
        return duration_s >= MIN_VOICE_S
    levels = envelope.level_dbfs[envelope.frames(region.start, region.end)]
    return float(levels.std()) >= STEADY_DB


def _stretches(envelope: Envelope, settings: VadSettings) -> list[Region]:
    noise = _background(envelope)
    level = envelope.level_dbfs
    floor = settings.floor_dbfs
    extent = level >= np.maximum(floor - EXTENT_UNDER_FLOOR_DB, noise + EXTENT_OVER_NOISE_DB)
    seed = envelope.voiced & (level >= np.maximum(floor, noise + SEED_OVER_NOISE_DB))
    seeds_before = np.concatenate(([0], np.cumsum(seed)))
    frame = envelope.frame_samples
    return [
        Region(first * frame, min(last * frame, envelope.n_samples))
        for first, last in _runs(extent)
        if seeds_before[last] > seeds_before[first]
    ]


def _fitted(cluster: list[Region], longest: int) -> list[Region]:
    """The cluster whole, or split at its widest gaps, the first of equal ones before the others."""
    gaps = np.array([after.start - before.end for before, after in pairwise(cluster)])
    fitted: list[Region] = []
    waiting = [(0, len(cluster) - 1)]
    while waiting:
        first, last = waiting.pop()
        whole = Region(cluster[first].start, cluster[last].end)
        inner = gaps[first:last]
        if whole.samples <= longest or inner.max(initial=0) < MIN_DIP_S * SAMPLE_RATE_HZ:
            fitted.append(whole)
            continue
        widest = first + int(inner.argmax())
        waiting += [(widest + 1, last), (first, widest)]
    return fitted


class _WebRtc:
    """webrtcvad over a stream of 22 050 Hz samples."""

    def __init__(self, aggressiveness: int) -> None:
        import soxr
        import webrtcvad

        self._vad = webrtcvad.Vad(aggressiveness)
        # In int16 soxr would dither, and the flags would depend on the size of the chunks.
        self._resampler = soxr.ResampleStream(
            SAMPLE_RATE_HZ, VAD_RATE_HZ, 1, dtype="float32", quality="MQ"
        )
        self._rest = np.zeros(0, np.int16)
        self._flags = bytearray()

    def feed(self, samples: npt.NDArray[np.int16], *, last: bool = False) -> None:
        resampled = self._resampler.resample_chunk(samples.astype(np.float32), last=last)
        limited = np.clip(np.rint(resampled), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
        view = np.concatenate((self._rest, limited))
        whole = len(view) // VAD_FRAME
        data = view[: whole * VAD_FRAME].tobytes()
        step = VAD_FRAME * 2
        is_speech = self._vad.is_speech
        self._flags.extend(
            is_speech(data[at : at + step], VAD_RATE_HZ) for at in range(0, len(data), step)
        )
        self._rest = view[whole * VAD_FRAME :]

    def finish(self) -> npt.NDArray[np.bool_]:
        """One flag for every 10 ms; the last, unfinished frame is filled up with silence."""
        self.feed(np.zeros(0, np.int16), last=True)
        if len(self._rest):
            padded = np.pad(self._rest, (0, VAD_FRAME - len(self._rest)))
            self._flags.append(self._vad.is_speech(padded.tobytes(), VAD_RATE_HZ))
        return np.frombuffer(bytes(self._flags), np.bool_)


def _levels(
    samples: npt.NDArray[np.int16], frame: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    starts = np.arange(0, len(samples), frame)
    wide = samples.astype(np.int32)
    counts = np.diff(np.append(starts, len(samples)))
    energy = np.add.reduceat((samples / FULL_SCALE) ** 2, starts) / counts
    floor = 10 ** (SILENCE_DBFS / 10)
    level = (10 * np.log10(np.maximum(energy, floor))).astype(np.float32)
    return level, np.maximum.reduceat(np.abs(wide), starts)


def _background(envelope: Envelope) -> npt.NDArray[np.float32]:
    """The level of the background at each frame, in dBFS; constant for a second each."""
    per_second = max(1, round(SAMPLE_RATE_HZ / envelope.frame_samples))
    level = envelope.level_dbfs
    noise = np.empty_like(level)
    for first in range(0, len(level), per_second):
        around = level[
            max(0, first - NOISE_REACH_S * per_second) : first + (NOISE_REACH_S + 1) * per_second
        ]
        noise[first : first + per_second] = np.percentile(around, NOISE_PERCENTILE)
    return noise


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The stretches of True as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
