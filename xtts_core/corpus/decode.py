"""Any media file to 22 050 Hz mono 16-bit WAV, in a stream: memory does not grow with the length.

PyAV decodes and mixes to mono; `soxr` resamples (the FFmpeg in PyAV's wheels has no soxr), at its
HQ setting, whose noise lies below 16 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.levels import CLIPPED, FULL_SCALE, peak_dbfs, power_dbfs
from xtts_core.errors import DecodeError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import Progress, silent
from xtts_core.store import atomic_file

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]

MIN_GAP_S = 0.05
MAX_GAP_S = 30.0
"""Holes in the timestamps between these bounds become silence, so that subtitles stay in step
(FFmpeg does the same with `aresample=async`). Shorter ones are rounding (Matroska counts in
milliseconds); a longer one is a broken clock."""
MAX_CORRUPT_SHARE = 0.01
TRUNCATION_TOLERANCE_S = 1.0
_DECLARES_DURATION = ("matroska", "mov", "flac")
"""Containers that state how long a track is. For others FFmpeg derives it from the size of the
file, which proves no truncation."""
_CLOCK = re.compile(r"(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")


@dataclass(frozen=True)
class DecodedAudio:
    """What was decoded, and how loud it came out (`clipped_samples` are at full scale)."""

    container: str
    codec: str
    source_rate_hz: int
    source_channels: int
    corrupt_packets: int
    n_samples: int
    rms_dbfs: float
    peak_dbfs: float
    clipped_samples: int

    @property
    def duration_s(self) -> float:
        return self.n_samples / SAMPLE_RATE_HZ


def decode(source: Path, target: Path, progress: Progress = silent) -> DecodedAudio:
    """Write the best audio track of `source` to `target`, which appears only when it is whole.

    Raises:
        DecodeError: the file is empty, no media, has no audio track, cannot be decoded (an
            unknown codec, DRM, more than 1 % damaged packets), or ends before its track does.
    """
    import av
    import soundfile as sf

    if source.stat().st_size == 0:
        raise DecodeError("The file is empty", where=str(source), remedy="Fetch it again")
    try:
        with (
            av.open(str(source), options={"protocol_whitelist": "file"}) as container,
            atomic_file(target) as aside,
            sf.SoundFile(
                aside, "w", SAMPLE_RATE_HZ, channels=1, subtype="PCM_16", format="WAV"
            ) as wav,
        ):
            track = _Track(source, container)
            meter = _Meter()
            for block in _resampled(track.mono()):
                wav.write(meter.measure(block))
                progress(track.position_s, track.declared_s, "s")
            track.check(meter.n_samples)
    except av.FFmpegError as error:
        raise DecodeError(
            f"The file cannot be decoded: {error.strerror}",
            where=str(source),
            remedy="It is damaged or no media file; check that a player takes it",
        ) from error
    return DecodedAudio(
        container=track.container_name,
        codec=track.codec,
        source_rate_hz=track.rate_hz,
        source_channels=track.channels,
        corrupt_packets=track.corrupt,
        n_samples=meter.n_samples,
        rms_dbfs=round(power_dbfs(meter.energy / max(meter.n_samples, 1)), 3),
        peak_dbfs=round(peak_dbfs(meter.peak), 3),
        clipped_samples=meter.clipped,
    )


class _Track:
    """The audio track of an open container, and how far it has been read."""

    def __init__(self, source: Path, container: Any) -> None:
        stream = container.streams.best("audio")
        if stream is None:
            raise DecodeError(
                "The file has no audio track",
                where=str(source),
                remedy="Take a recording with sound",
            )
        if stream.codec_context is None:
            raise DecodeError(
                "No decoder knows the audio track",
                where=str(source),
                remedy="It may be protected (DRM); convert it to a common format",
            )
        self.source = source
        self.container_name = str(container.format.name)
        self.codec = str(stream.codec_context.name)
        self.rate_hz = int(stream.codec_context.sample_rate or 0)
        self.channels = int(stream.codec_context.channels or 0)
        self.declared_s = _declared_s(container, stream)
        self.position_s = 0.0
        self.corrupt = 0
        self._packets = 0
        self._container = container
        self._stream = stream
        self._start_s = (container.start_time or 0) / 1_000_000

    def mono(self) -> Iterator[tuple[int, Float32]]:
        """The sound as (rate in Hz, samples scaled to ±1), about a second at a time."""
        import av

        mixer: Any = None
        shape = None
        for frame in self._frames():
            missing_s = self._missing_s(frame)
            if mixer is not None and (shape != _shape(frame) or missing_s):
                yield from _drain(mixer, None)
                mixer = None
            if missing_s:
                rate = frame.sample_rate
                yield rate, np.zeros(round(missing_s * rate), np.float32)
                self.position_s += missing_s
            if mixer is None:
                shape = _shape(frame)
                mixer = av.AudioResampler(
                    format="flt",
                    layout="mono",
                    rate=frame.sample_rate,
                    frame_size=frame.sample_rate,
                    # Without it a mix into float samples may come out over full scale.
                    options={"rematrix_maxval": "1.0"},
                )
            self.position_s += frame.samples / frame.sample_rate
            yield from _drain(mixer, frame)
        if mixer is not None:
            yield from _drain(mixer, None)

    def check(self, n_samples: int) -> None:
        if n_samples == 0:
            raise DecodeError(
                "The audio track holds no sound that can be decoded",
                where=str(self.source),
                remedy="It is damaged or protected (DRM); take another copy",
            )
        if self.corrupt > MAX_CORRUPT_SHARE * self._packets:
            raise DecodeError(
                f"{self.corrupt} of {self._packets} packets are damaged",
                where=str(self.source),
                remedy="Take another copy",
            )
        if (
            self.declared_s is not None
            and self.position_s < self.declared_s - TRUNCATION_TOLERANCE_S
        ):
            raise DecodeError(
                f"The file is truncated: {self.position_s:.1f} s of {self.declared_s:.1f} s",
                where=str(self.source),
                remedy="Fetch it again",
            )

    def _frames(self) -> Iterator[Any]:
        import av

        for packet in self._container.demux(self._stream):
            self._packets += 1
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                self.corrupt += 1

    def _missing_s(self, frame: Any) -> float:
        if frame.time is None:
            return 0.0
        gap = frame.time - self._start_s - self.position_s
        return gap if MIN_GAP_S < gap <= MAX_GAP_S else 0.0


class _Meter:
    def __init__(self) -> None:
        self.n_samples = 0
        self.energy = 0.0
        self.peak = 0
        self.clipped = 0

    def measure(self, block: Float32) -> Int16:
        """The block as 16-bit samples, counted."""
        scaled = np.clip(np.rint(block * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
        peak = int(max(scaled.max(initial=0), -scaled.min(initial=0)))
        self.n_samples += len(scaled)
        self.energy += float(np.dot(scaled, scaled)) / FULL_SCALE**2
        self.peak = max(self.peak, peak)
        if peak >= CLIPPED:
            self.clipped += int(np.count_nonzero(np.abs(scaled) >= CLIPPED))
        return scaled.astype(np.int16)


def _shape(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _drain(mixer: Any, frame: Any) -> Iterator[tuple[int, Float32]]:
    for mixed in mixer.resample(frame):
        yield mixed.sample_rate, mixed.to_ndarray()[0]


def _resampled(blocks: Iterator[tuple[int, Float32]]) -> Iterator[Float32]:
    import soxr

    stream: Any = None
    rate_hz = 0
    nothing = np.zeros(0, np.float32)
    for rate, block in blocks:
        if rate != rate_hz:
            if stream is not None:
                yield stream.resample_chunk(nothing, last=True)
            stream = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
            rate_hz = rate
        yield stream.resample_chunk(block)
    if stream is not None:
        yield stream.resample_chunk(nothing, last=True)


def _declared_s(container: Any, stream: Any) -> float | None:
    """How long the container says that the audio track is, or None where it does not say."""
    if not container.format.name.startswith(_DECLARES_DURATION):
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if clock is not None:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if len(container.streams) == 1 and container.duration is not None:
        return float(container.duration) / 1_000_000
    return None
