"""Where somebody speaks: Silero or webrtcvad, and the level, in a stream.

Both engines judge a 16 kHz view of the audio. Silero gives the probability of speech in each
32 ms; it is the ONNX model that faster-whisper carries, run by onnxruntime, about 700 times real
time here. webrtcvad says yes or no to each 10 ms, several times faster, and takes most music for
speech (ROC-AUC on mixed domains 0.73 against 0.96: silero-vad wiki, Quality-Metrics). The level
is measured on frames of `vad.frame_samples` samples of the 22 050 Hz file itself, which are also
the grid of everything found with webrtcvad: a frame takes the judgement at its middle.
"""

from __future__ import annotations

import importlib.util
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.ahead import ahead
from xtts_core.corpus.levels import FULL_SCALE, SILENCE_DBFS
from xtts_core.errors import SettingsError
from xtts_core.settings import SAMPLE_RATE_HZ, VadSettings
from xtts_core.stage import Progress, silent

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]

VAD_RATE_HZ = 16_000
WEBRTC_STEP = 160
"""10 ms at 16 kHz: the finest that webrtcvad takes."""
SILERO_STEP = 512
SILERO_CONTEXT = 64
"""Silero judges 512 samples at 16 kHz, and sees the 64 before them."""

SILERO_RELEASE = 0.15
SILERO_PAD_S = 0.03
"""A region ends where the probability falls this far below `vad.threshold`, and reaches this much
further on both sides (silero-vad's get_speech_timestamps: neg_threshold, speech_pad_ms)."""

NOISE_PERCENTILE = 10
NOISE_REACH_S = 5
"""The background is the 10th percentile of the levels up to 5 s around: even fluent speech
pauses for a tenth of the time (minimum statistics, Martin 2001, use a few seconds too)."""
NOISE_BLOCK_S = 600
"""It is taken of so many seconds at once, so that memory does not grow with the recording."""
SEED_OVER_NOISE_DB = 12.0
EXTENT_OVER_NOISE_DB = 4.0
EXTENT_UNDER_FLOOR_DB = 5.0
"""Hysteresis with webrtcvad: a region needs a voiced frame over the floor and 12 dB over the
background; it reaches as far as the lower thresholds hold, so that weak first and last sounds
belong to it."""
STEADY_DB = 3.0
STEADY_FROM_S = 1.0
"""With webrtcvad a region of a second and more whose levels spread by less than this (standard
deviation) is noise: syllables make speech rise and fall by 5 dB and more, also at a low
signal-to-noise ratio, while noise stays within 1.5 dB (both measured on the demo recordings)."""
LOWER_FLOOR_DB = 40.0
MIN_DIP_S = 0.15
"""The shortest gap that a region which is too long may be cut at; the closure of a stop
consonant is shorter (about 0.1 s)."""
MIN_VOICE_S = {"silero": 0.25, "webrtc": 0.1}
"""Shorter sounds are clicks, chords and coughs (silero-vad's min_speech_duration_ms; the shortest
syllables take about 0.1 s)."""


@dataclass(frozen=True)
class Envelope:
    """A file seen frame by frame (`frame_samples` each; the last one may be shorter).

    `speech` is the probability that a frame is speech; webrtcvad's is 0 or 1. About 31 kB a
    minute, the only thing that grows with a recording.
    """

    frame_samples: int
    n_samples: int
    level_dbfs: Float32
    peak: npt.NDArray[np.uint16]
    speech: Float32

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

    With `enabled: false` no engine is asked, and every frame counts as speech.
    """
    import soundfile as sf

    frame = settings.frame_samples
    block = max(1, round(settings.chunk_s * SAMPLE_RATE_HZ / frame)) * frame
    judge = _Judge(_engine(settings)) if settings.enabled else None
    with sf.SoundFile(path) as wav:
        n_samples = wav.frames
        level_dbfs = np.empty(-(-n_samples // frame), np.float32)
        peak = np.empty(len(level_dbfs), np.uint16)
        done = 0
        with closing(ahead(_chunks(wav, block, resampled=judge is not None))) as chunks:
            for samples, view in chunks:
                if judge is not None:
                    judge.feed(view)
                frames = slice(done // frame, -(-(done + len(samples)) // frame))
                level_dbfs[frames], peak[frames] = _levels(samples, frame)
                done += len(samples)
                progress(done / SAMPLE_RATE_HZ, n_samples / SAMPLE_RATE_HZ, "s")
    return Envelope(
        frame_samples=frame,
        n_samples=n_samples,
        level_dbfs=level_dbfs,
        peak=peak,
        speech=judge.of_frames(len(level_dbfs), frame)
        if judge is not None
        else np.ones(len(level_dbfs), np.float32),
    )


def voice_regions(envelope: Envelope, settings: VadSettings, longest: int) -> list[Region]:
    """The stretches of speech, in order.

    They lie at least `min_silence_s` apart, except that one of more than `longest` samples is
    given in pieces: it is divided at every gap of `MIN_DIP_S`.
    """
    if envelope.n_samples == 0:
        return []
    if not settings.enabled:
        return [Region(0, envelope.n_samples)]
    stretches = _STRETCHES[settings.engine](envelope, settings)
    regions: list[Region] = []
    for cluster in _clusters(stretches, settings.min_silence_s):
        whole = Region(cluster[0].start, cluster[-1].end)
        if not _lives(envelope, whole, settings):
            continue
        if whole.samples <= longest:
            regions.append(whole)
        else:
            pieces = _clusters(cluster, MIN_DIP_S)
            regions += [Region(piece[0].start, piece[-1].end) for piece in pieces]
    return regions


def speech_under_floor(envelope: Envelope, settings: VadSettings) -> float:
    """How much of what would be speech with `floor_dbfs` lower by 40 dB is too faint for it, as a
    share, 0 to 1."""
    if not settings.enabled:
        return 0.0
    lower = settings.model_copy(update={"floor_dbfs": settings.floor_dbfs - LOWER_FLOOR_DB})
    every, loud = (
        sum(region.samples for region in voice_regions(envelope, vad, envelope.n_samples))
        for vad in (lower, settings)
    )
    return max(0.0, 1 - loud / every) if every else 0.0


def _clusters(stretches: list[Region], gap_s: float) -> list[list[Region]]:
    """Stretches that lie less than `gap_s` apart, together."""
    clusters: list[list[Region]] = []
    for stretch in stretches:
        if clusters and stretch.start - clusters[-1][-1].end < gap_s * SAMPLE_RATE_HZ:
            clusters[-1].append(stretch)
        else:
            clusters.append([stretch])
    return clusters


def _lives(envelope: Envelope, region: Region, settings: VadSettings) -> bool:
    duration_s = region.samples / SAMPLE_RATE_HZ
    if duration_s < STEADY_FROM_S or settings.engine == "silero":
        return duration_s >= MIN_VOICE_S[settings.engine]
    levels = envelope.level_dbfs[envelope.frames(region.start, region.end)]
    return float(levels.std()) >= STEADY_DB


def _silero_stretches(envelope: Envelope, settings: VadSettings) -> list[Region]:
    floor = envelope.level_dbfs >= settings.floor_dbfs
    seed = (envelope.speech >= settings.threshold) & floor
    extent = envelope.speech >= max(settings.threshold - SILERO_RELEASE, 0.01)
    pad = round(SILERO_PAD_S * SAMPLE_RATE_HZ)
    return [
        Region(max(0, stretch.start - pad), min(envelope.n_samples, stretch.end + pad))
        for stretch in _seeded(envelope, seed, extent)
    ]


def _webrtc_stretches(envelope: Envelope, settings: VadSettings) -> list[Region]:
    noise = _background(envelope)
    level = envelope.level_dbfs
    floor = settings.floor_dbfs
    extent = level >= np.maximum(floor - EXTENT_UNDER_FLOOR_DB, noise + EXTENT_OVER_NOISE_DB)
    seed = (envelope.speech > 0) & (level >= np.maximum(floor, noise + SEED_OVER_NOISE_DB))
    return list(_seeded(envelope, seed, extent))


_STRETCHES = {"silero": _silero_stretches, "webrtc": _webrtc_stretches}


def _seeded(
    envelope: Envelope, seed: npt.NDArray[np.bool_], extent: npt.NDArray[np.bool_]
) -> Iterator[Region]:
    """The stretches of `extent` that hold a frame of `seed`."""
    seeds = np.flatnonzero(seed)
    frame = envelope.frame_samples
    for first, last in true_runs(extent):
        if np.searchsorted(seeds, first) < np.searchsorted(seeds, last):
            yield Region(first * frame, min(last * frame, envelope.n_samples))


class _Engine(Protocol):
    """Judges whole steps of `step` samples at 16 kHz, in order."""

    step: int

    def judge(self, view: Float32) -> Float32:
        """The probability of speech in each step of `view`, samples at the scale of 16 bits."""
        ...


def _engine(settings: VadSettings) -> _Engine:
    return _Silero() if settings.engine == "silero" else _WebRtc(settings.aggressiveness)


class _WebRtc:
    step = WEBRTC_STEP

    def __init__(self, aggressiveness: int) -> None:
        import webrtcvad

        self._vad = webrtcvad.Vad(aggressiveness)

    def judge(self, view: Float32) -> Float32:
        limited = np.clip(np.rint(view), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
        data = limited.tobytes()
        size = WEBRTC_STEP * limited.itemsize
        is_speech = self._vad.is_speech
        return np.fromiter(
            (is_speech(data[at : at + size], VAD_RATE_HZ) for at in range(0, len(data), size)),
            np.float32,
            len(view) // WEBRTC_STEP,
        )


class _Silero:
    step = SILERO_STEP

    def __init__(self) -> None:
        self._session = _silero_session()
        self._state: list[Float32] = [np.zeros((1, 1, 128), np.float32)] * 2
        self._context = np.zeros(SILERO_CONTEXT, np.float32)

    def judge(self, view: Float32) -> Float32:
        if len(view) == 0:
            return np.zeros(0, np.float32)
        steps = (view / np.float32(FULL_SCALE)).reshape(-1, SILERO_STEP)
        before = np.concatenate((self._context[None], steps[:-1, -SILERO_CONTEXT:]))
        probability, *self._state = self._session.run(
            None,
            {
                "input": np.concatenate((before, steps), axis=1),
                "h": self._state[0],
                "c": self._state[1],
            },
        )
        self._context = steps[-1, -SILERO_CONTEXT:]
        return np.asarray(probability, np.float32).reshape(-1)


@cache
def _silero_session() -> Any:
    """One thread: the steps follow one another, and two are slower than one."""
    import onnxruntime

    # Importing faster_whisper for its file would load ctranslate2 and more.
    package = importlib.util.find_spec("faster_whisper")
    if package is None or package.origin is None:
        raise SettingsError(
            "Silero's model is missing: faster-whisper carries it and is not installed",
            where="vad.engine",
            remedy="Install requirements.lock, or set vad.engine to webrtc",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(Path(package.origin).parent / "assets" / "silero_vad_v6.onnx"),
        sess_options=options,
        providers=["CPUExecutionProvider"],
    )


def _chunks(wav: Any, block: int, *, resampled: bool) -> Iterator[tuple[Int16, Float32]]:
    """The samples in blocks, each with what the engines see of it (nothing unless asked for)."""
    import soxr

    # In int16 soxr would dither, and the result would depend on the size of the chunks.
    stream = soxr.ResampleStream(SAMPLE_RATE_HZ, VAD_RATE_HZ, 1, dtype="float32", quality="MQ")
    last = False
    while not last:
        samples = wav.read(block, dtype="int16")
        last = len(samples) < block
        view = np.zeros(0, np.float32)
        if resampled:
            view = stream.resample_chunk(samples.astype(np.float32), last=last)
        yield samples, view


class _Judge:
    """An engine over a stream of 16 kHz samples."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._rest = np.zeros(0, np.float32)
        self._judged = array("f")

    def feed(self, resampled: Float32) -> None:
        view = np.concatenate((self._rest, resampled))
        whole = len(view) - len(view) % self._engine.step
        self._judged.frombytes(self._engine.judge(view[:whole]).tobytes())
        self._rest = view[whole:].copy()

    def of_frames(self, count: int, samples: int) -> Float32:
        """The judgement at the middle of each frame of so many 22 050 Hz samples.

        The last, unfinished step is filled up with silence.
        """
        if count == 0:
            return np.zeros(0, np.float32)
        if len(self._rest):
            self.feed(np.zeros(self._engine.step - len(self._rest), np.float32))
        # In integers and in place: hours of frames are millions.
        step = np.arange(count, dtype=np.int64)
        step *= 2 * samples
        step += samples
        step *= VAD_RATE_HZ
        step //= 2 * SAMPLE_RATE_HZ * self._engine.step
        np.minimum(step, len(self._judged) - 1, out=step)
        found: Float32 = np.frombuffer(self._judged, np.float32)[step]
        return found


def _levels(samples: Int16, frame: int) -> tuple[Float32, npt.NDArray[np.uint16]]:
    starts = np.arange(0, len(samples), frame)
    counts = np.diff(np.append(starts, len(samples)))
    squares = np.square(samples, dtype=np.float64)
    energy = np.add.reduceat(squares, starts) / counts / FULL_SCALE**2
    floor = 10 ** (SILENCE_DBFS / 10)
    level = (10 * np.log10(np.maximum(energy, floor))).astype(np.float32)
    # The magnitude of −32 768 is one more than 16 bits hold with a sign.
    magnitudes = np.abs(samples).view(np.uint16)
    return level, np.maximum.reduceat(magnitudes, starts)


def _background(envelope: Envelope) -> Float32:
    """The level of the background at each frame, in dBFS; constant for a second each."""
    second = max(1, round(SAMPLE_RATE_HZ / envelope.frame_samples))
    reach = NOISE_REACH_S * second
    width = reach + second + reach
    level = envelope.level_dbfs
    noise = np.empty_like(level)
    seconds = range(0, len(level), second)
    whole = [first for first in seconds if reach <= first and first + second + reach <= len(level)]
    for first in seconds:
        if not whole or not whole[0] <= first <= whole[-1]:
            around = level[max(0, first - reach) : first + second + reach]
            noise[first : first + second] = np.percentile(around, NOISE_PERCENTILE)
    for block in range(0, len(whole), NOISE_BLOCK_S):
        firsts = whole[block : block + NOISE_BLOCK_S]
        part = level[firsts[0] - reach : firsts[-1] + second + reach]
        around = np.lib.stride_tricks.sliding_window_view(part, width)[::second]
        found = np.percentile(around, NOISE_PERCENTILE, axis=1)
        noise[firsts[0] : firsts[-1] + second] = np.repeat(found, second)
    return noise


def true_runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The stretches of True as (first, one past the last)."""
    # Of booleans: hours have millions of frames.
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
