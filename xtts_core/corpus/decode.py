"""Any media file to 22 050 Hz mono 16-bit WAV, in a stream: memory does not grow with the length.

PyAV decodes and mixes to mono; `soxr` resamples (the FFmpeg in PyAV's wheels has no soxr), at its
HQ setting, whose noise lies below 16 bits. Decoding runs in a thread of its own, one block ahead
of the rest: FFmpeg, soxr and NumPy let go of the interpreter's lock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.ahead import ahead
from xtts_core.corpus.containers import (
    PLAYLISTS,
    ends_inside_a_page,
    is_protected,
    stated_duration_s,
)
from xtts_core.corpus.levels import CLIPPED, FULL_SCALE, peak_dbfs, power_dbfs
from xtts_core.corpus.loudness import LoudnessMeter
from xtts_core.errors import DecodeError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import Progress, silent
from xtts_core.store import atomic_file

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]

BLOCK_VALUES = 1 << 20
"""Frames are gathered to blocks of this many values (samples times channels), at most 8 MB, 11 s
of 48 kHz stereo: with short blocks the threads wait for the interpreter's lock more often than
they work side by side (measured from 1 to 20 s)."""
MIN_GAP_S = 0.05
MAX_GAP_S = 30.0
"""Holes in the timestamps between these bounds become silence, so that subtitles stay in step
(FFmpeg does the same with `aresample=async`). Shorter ones are rounding (Matroska counts in
milliseconds); a longer one, ahead or back, is a clock that was set anew, except before the first
sound, as a track may begin late in the file, and where the bytes of the hole are there."""
MAX_PAUSE_S = 0.5
MAX_OGG_PAUSE_S = 1.25
"""Nothing need be missing in a hole up to this long: an encoder with discontinuous transmission
(DTX) sends a packet each 0.4 s of a pause, which is all that many recorders write. In Ogg FFmpeg
gives the times of pages, so that the holes of one, of a second, come as one."""
DTX_BYTES = 2
DTX_REACH_S = 1.0
"""An Opus packet of at most this size says that a pause begins, however long it lasts (RFC 6716,
3.1; WebRTC sends the first of them). It may lie a page of Ogg before the hole."""
MIN_UNREAD_SHARE = 0.25
"""Where the file goes on for this share of a hole's bytes, by its rate so far, they are damaged. In
damaged files the share was about 1; where the clock is set anew it is that of one packet."""
MAX_HOLES = 1_000
"""How many are listed."""
MAX_CORRUPT_SHARE = 0.01
TOLERANCE_S = 1.0
"""How much of the stated length, or of a span, may be missing at the end: containers round."""


class DamagedError(DecodeError):
    """A file that is damaged or cut, so that another copy of it may be whole."""


@dataclass(frozen=True)
class DecodedAudio:
    """What was decoded, and how loud it came out (`clipped_samples` are at full scale).

    `filled_s` seconds of silence stand for what is missing in the recording; the first
    `MAX_HOLES` of these `holes` are listed as (start, end) in seconds of the written file.
    `paused_s` seconds stand for silence that is merely left out of the recording: before a track
    that begins late, and in pauses. Up to the end the clock was set anew `clock_jumps` times.
    `recording_s` is how far the recording was read.
    """

    container: str
    codec: str
    source_rate_hz: int
    source_channels: int
    packets: int
    corrupt_packets: int
    holes: tuple[tuple[float, float], ...]
    filled_s: float
    paused_s: float
    clock_jumps: int
    recording_s: float
    n_samples: int
    rms_dbfs: float
    peak_dbfs: float
    loudness_lufs: float
    clipped_samples: int

    @property
    def duration_s(self) -> float:
        return self.n_samples / SAMPLE_RATE_HZ


def decode(
    source: Path,
    target: Path,
    progress: Progress = silent,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
) -> DecodedAudio:
    """Write the best audio track of `source` to `target`, which appears only when it is whole.

    With `start_s` or `end_s` (seconds of the recording) the result is exactly that part of what
    the whole recording gives, from sample `round(22 050 start_s)` up to `round(22 050 end_s)`.
    Everything before it is decoded too, since seeking is not exact in every container; what
    comes after the end is not looked at.

    Raises:
        DamagedError: the file is empty, no media or damaged (more than 1 % of its packets), or
            ends before its track does.
        DecodeError: it is a playlist, protected (DRM), has no audio track or one of an unknown
            codec, or does not hold the span.
    """
    import av
    import soundfile as sf

    if source.stat().st_size == 0:
        raise DamagedError("The file is empty", where=str(source), remedy="Fetch it again")
    span = _Span(start_s, end_s)
    try:
        with (
            av.open(str(source), options={"protocol_whitelist": "file"}) as container,
            atomic_file(target) as aside,
            sf.SoundFile(
                aside, "w", SAMPLE_RATE_HZ, channels=1, subtype="PCM_16", format="WAV"
            ) as wav,
        ):
            track = _Track(source, container, _Holes(start_s, end_s), _Holes(start_s, end_s))
            meter = _Meter()
            with closing(ahead(track.blocks())) as blocks:
                for sound in span.cut(_resampled(_mono(blocks))):
                    wav.write(meter.measure(sound))
                    progress(span.position_s, end_s or track.stated_s, "s")
            track.check()
            if not span.ended:
                track.check_end()
                span.check(source)
    except av.FFmpegError as error:
        broken = isinstance(error, (av.error.InvalidDataError, av.error.EOFError))
        raise (DamagedError if broken else DecodeError)(
            f"The file cannot be decoded: {error.strerror}",
            where=str(source),
            remedy="It is damaged, truncated or no media file; check that a player takes it",
        ) from error
    return DecodedAudio(
        container=track.container_name,
        codec=track.codec,
        source_rate_hz=track.rate_hz,
        source_channels=track.channels,
        packets=track.packets,
        corrupt_packets=track.corrupt,
        holes=tuple(track.holes.listed),
        filled_s=round(track.holes.total_s, 3),
        paused_s=round(track.pauses.total_s, 3),
        clock_jumps=track.clock_jumps,
        recording_s=round(span.position_s, 6),
        n_samples=meter.n_samples,
        rms_dbfs=round(power_dbfs(meter.energy / max(meter.n_samples, 1)), 3),
        peak_dbfs=round(peak_dbfs(meter.peak), 3),
        loudness_lufs=round(meter.loudness.integrated_lufs(), 2),
        clipped_samples=meter.clipped,
    )


@dataclass(frozen=True)
class _Silence:
    """A hole in the timestamps."""

    sample_rate: int
    samples: int


class _Holes:
    """Stretches of the recording, as far as they lie in the span, in seconds from its start."""

    def __init__(self, start_s: float | None, end_s: float | None) -> None:
        self._start_s = start_s or 0.0
        self.end_s = math.inf if end_s is None else end_s
        self.listed: list[tuple[float, float]] = []
        self.total_s = 0.0

    def add(self, start_s: float, end_s: float) -> None:
        first_s = max(start_s, self._start_s) - self._start_s
        last_s = min(end_s, self.end_s) - self._start_s
        if first_s >= last_s:
            return
        self.total_s += last_s - first_s
        if len(self.listed) < MAX_HOLES:
            self.listed.append((round(first_s, 3), round(last_s, 3)))


class _Track:
    """The audio track of an open container, and how far it has been read.

    What is missing of it goes to `holes`, what is merely left out to `pauses`.
    """

    def __init__(self, source: Path, container: Any, holes: _Holes, pauses: _Holes) -> None:
        self._source = source
        self.container_name = str(container.format.name)
        if self.container_name in PLAYLISTS:
            raise self._error(
                f"The file is a playlist ({self.container_name}), not a recording",
                "Take the recording that it points to",
            )
        stream = container.streams.best("audio")
        if stream is None:
            raise self._error(
                f"The file has no audio track ({self.container_name})",
                "Take a recording with sound",
            )
        if is_protected(source, container, stream):
            raise self._protected()
        if stream.codec_context is None:
            raise self._error(
                "No decoder knows the audio track",
                "It may be protected (DRM); convert it to a common format",
            )
        self.codec = str(stream.codec_context.name)
        if self.codec == "flac":
            # Unasked, FFmpeg gives the noise that a packet with a wrong checksum decodes to.
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self.rate_hz = int(stream.codec_context.sample_rate or 0)
        self.channels = int(stream.codec_context.channels or 0)
        self.stated_s = stated_duration_s(source, container, stream)
        self.packets = 0
        self.corrupt = 0
        self.holes = holes
        self.pauses = pauses
        self.clock_jumps = 0
        self._container = container
        self._stream = stream
        self._start_s = (container.start_time or 0) / 1_000_000
        self._container_s = (container.duration or 0) / 1_000_000
        self._bytes_per_s = source.stat().st_size / self._container_s if self._container_s else 0.0
        self._position_s = 0.0
        self._clock_s = 0.0
        self._byte = 0
        self._bytes_on = 0
        self._corrupt_before = 0
        self._pause_announced_s = -math.inf

    def blocks(self) -> Iterator[Any]:
        """The sound as frames of one form, about `BLOCK_VALUES`, with `_Silence` between them."""
        import av

        gathered: Any = None
        form = None
        for frame in self._frames():
            hole = self._hole(frame)
            changed = form != (frame.format.name, frame.layout.name, frame.sample_rate)
            if gathered is not None and (changed or hole):
                yield from _all_of(gathered)
            if hole:
                yield hole
            if changed:
                form = (frame.format.name, frame.layout.name, frame.sample_rate)
                gathered = av.AudioFifo()
            self._position_s += frame.samples / frame.sample_rate
            # The queue would refuse times that do not follow each other.
            frame.pts = None
            gathered.write(frame)
            if gathered.samples * frame.layout.nb_channels >= BLOCK_VALUES:
                yield from _all_of(gathered)
        if gathered is not None:
            yield from _all_of(gathered)

    def check(self) -> None:
        """Refuse a track of which nothing, or not enough, could be decoded."""
        # One alone is the last packet of a file that was cut, or the header of one in the middle.
        if self.corrupt > max(1, MAX_CORRUPT_SHARE * self.packets):
            raise self._damaged(
                f"{self.corrupt} of {self.packets} packets are damaged",
                "It is damaged or protected (DRM); take another copy",
            )
        if self._position_s == 0:
            raise self._damaged(
                "The audio track holds no sound that can be decoded",
                "It is damaged or protected (DRM); take another copy",
            )

    def check_end(self) -> None:
        """Refuse a track that has been read to its end and is shorter than it states."""
        reached_s = max(self._position_s, self._clock_s)
        if self.stated_s is not None and reached_s < self.stated_s - TOLERANCE_S:
            raise self._damaged(
                f"The file is truncated: {reached_s:.1f} s of {self.stated_s:.1f} s",
                "Fetch it again",
            )
        if self.container_name == "ogg" and ends_inside_a_page(self._source):
            raise self._damaged(
                f"The file is truncated: it ends inside a page, after {reached_s:.1f} s",
                "Fetch it again",
            )

    def _frames(self) -> Iterator[Any]:
        import av

        for packet in self._container.demux(self._stream):
            # The last packet is an empty one that asks the decoder for what it holds back.
            if packet.size:
                self.packets += 1
            if self.packets == 1 and packet.has_sidedata("encryption_info"):
                raise self._protected()
            if packet.pos is not None:
                self._byte, self._bytes_on = packet.pos, packet.pos - self._byte
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self.corrupt += 1
            if self.codec == "opus" and packet.size <= DTX_BYTES:
                self._pause_announced_s = self._position_s

    def _hole(self, frame: Any) -> _Silence | None:
        if frame.time is None:
            return None
        if self._position_s == 0 and self._lacks_beginning(frame.time):
            # FFmpeg takes the first time that it finds for the start.
            self._start_s = 0.0
        gap = frame.time - self._start_s - self._position_s
        longest = self._container_s if self._position_s == 0 else MAX_GAP_S
        ordinary = -MAX_GAP_S <= gap <= max(longest, MAX_GAP_S)
        if not ordinary and not self._is_unread(gap):
            self.clock_jumps += self._position_s < self.holes.end_s
            self._start_s += gap
            gap = 0.0
        self._clock_s = max(self._clock_s, frame.time + frame.samples / frame.sample_rate)
        lost_packets, self._corrupt_before = self.corrupt - self._corrupt_before, self.corrupt
        if gap <= MIN_GAP_S:
            return None
        stretches = self.holes if lost_packets or self._is_missing(gap) else self.pauses
        stretches.add(self._position_s, self._position_s + gap)
        self._position_s += gap
        return _Silence(frame.sample_rate, round(gap * frame.sample_rate))

    def _is_missing(self, gap: float) -> bool:
        """Whether there was sound in a hole of the timestamps, and not a pause."""
        if self._position_s == 0:
            return self._lacks_beginning(gap)
        if self._position_s - self._pause_announced_s <= DTX_REACH_S:
            return False
        return gap > (MAX_OGG_PAUSE_S if self.container_name == "ogg" else MAX_PAUSE_S)

    def _lacks_beginning(self, gap: float) -> bool:
        # With a picture, the bytes before the first sound may be the picture's. Where the first
        # cluster is damaged, FFmpeg lists the one track twice.
        streams = self._container.streams
        alone = len(streams.audio) == len(streams) and self.container_name.startswith("matroska")
        return alone and gap > MAX_PAUSE_S and self._is_unread(gap)

    def _is_unread(self, gap: float) -> bool:
        """Whether the bytes of what a hole lacks lie in the file before the last packet."""
        if self._position_s == 0:
            bytes_per_s = self._bytes_per_s
        else:
            bytes_per_s = (self._byte - self._bytes_on) / self._position_s
        return 0 < MIN_UNREAD_SHARE * gap * bytes_per_s <= self._bytes_on

    def _protected(self) -> DecodeError:
        return self._error(
            "The audio is protected (DRM): its track is encrypted",
            "Take a copy that is not protected",
        )

    def _error(self, what: str, remedy: str) -> DecodeError:
        return DecodeError(what, where=str(self._source), remedy=remedy)

    def _damaged(self, what: str, remedy: str) -> DamagedError:
        return DamagedError(what, where=str(self._source), remedy=remedy)


class _Span:
    """The part of the resampled recording that is wanted."""

    def __init__(self, start_s: float | None, end_s: float | None) -> None:
        self._start_s = start_s
        self._end_s = end_s
        self._first = round((start_s or 0.0) * SAMPLE_RATE_HZ)
        self._last = None if end_s is None else round(end_s * SAMPLE_RATE_HZ)
        self._position = 0

    @property
    def position_s(self) -> float:
        return self._position / SAMPLE_RATE_HZ

    @property
    def ended(self) -> bool:
        return self._last is not None and self._position >= self._last

    def cut(self, blocks: Iterator[Float32]) -> Iterator[Float32]:
        """Nothing is asked of `blocks` once the span has ended."""
        for block in blocks:
            last = len(block) if self._last is None else self._last - self._position
            wanted = block[max(0, self._first - self._position) : last]
            self._position += len(block)
            yield wanted
            if self.ended:
                return

    def check(self, source: Path) -> None:
        """Refuse a span of which the recording, read to its end, holds nothing or not the end."""
        if self._first >= self._position:
            outside = f"starts at {self._start_s:g} s"
        elif self._end_s is not None and self._end_s - TOLERANCE_S > self.position_s:
            outside = f"ends at {self._end_s:g} s"
        else:
            return
        raise DecodeError(
            f"The span {outside}, and the recording has {self.position_s:.2f} s",
            where=str(source),
            remedy="Correct `start` and `end` of its row",
        )


class _Meter:
    def __init__(self) -> None:
        self.n_samples = 0
        self.energy = 0.0
        self.peak = 0
        self.clipped = 0
        self.loudness = LoudnessMeter()

    def measure(self, block: Float32) -> Int16:
        """The block as 16-bit samples, counted."""
        scaled = np.clip(np.rint(block * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
        peak = int(max(scaled.max(initial=0), -scaled.min(initial=0)))
        self.n_samples += len(scaled)
        self.energy += float(np.square(scaled).sum(dtype=np.float64)) / FULL_SCALE**2
        self.peak = max(self.peak, peak)
        if peak >= CLIPPED:
            self.clipped += int(np.count_nonzero(np.abs(scaled) >= CLIPPED))
        samples = scaled.astype(np.int16)
        self.loudness.feed(samples)
        return samples


def _all_of(gathered: Any) -> Iterator[Any]:
    if gathered.samples:
        yield gathered.read()


def _mono(blocks: Iterator[Any]) -> Iterator[tuple[int, Float32]]:
    """The blocks mixed to one channel, as (rate in Hz, samples scaled to ±1)."""
    import av

    mixer: Any = None
    form = None
    for block in blocks:
        if isinstance(block, _Silence):
            yield block.sample_rate, np.zeros(block.samples, np.float32)
            continue
        if (block.format.name, block.layout.name) == ("fltp", "stereo"):
            # What most codecs give: the samples of FFmpeg's mixer, in a fifth of its time.
            left, right = (
                np.frombuffer(plane, np.float32, block.samples) for plane in block.planes
            )
            yield block.sample_rate, (left + right) * np.float32(0.5)
            continue
        if form != (block.format.name, block.layout.name, block.sample_rate):
            form = (block.format.name, block.layout.name, block.sample_rate)
            mixer = av.AudioResampler(
                format="flt",
                layout="mono",
                rate=block.sample_rate,
                # Without it a mix into float samples may come out over full scale.
                options={"rematrix_maxval": "1.0"},
            )
        for mixed in mixer.resample(block):
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
