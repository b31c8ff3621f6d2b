"""Reference audio that callers send: files of any common format to samples.

What strangers send reaches a parser only where it is of a format that is taken: libsndfile reads
WAV, FLAC, Ogg, MP3 and AIFF, FFmpeg what telephones and browsers record (M4A, WebM).
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import soundfile
import soxr

from xtts_core.errors import DecodeError, RequestError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_grpc.audio import to_pcm16
from xtts_grpc.messages import MIN_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

_MAX_REFERENCE_RATE_HZ = 192_000
_MAX_REFERENCE_CHANNELS = 2
_REFERENCE_MAGICS = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")
_OGG_PAGE = struct.Struct("<4sBB8xIIIB")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LOUDEST = 10.0
"""Full scale is 1: lossy codecs go over it by a little, integers that were stored as floats by
far."""
_SILENCE_DBFS = -60.0
_TABLES = re.compile(rb"cmov|stsz|stz2|trun")
_MOST_STATED = 1_000_000
"""Six hours of AAC."""
_FFMPEG_CODECS = ("aac", "alac", "flac", "libopus", "mp3", "mp3float", "opus", "vorbis")
"""The decoders that a file in a container can reach, by FFmpeg's names."""


def decode_references(files: Sequence[bytes], max_s: float) -> list[NDArray[np.int16]]:
    """Each file's audio as mono 16-bit samples at 22 050 Hz.

    No more than `max_s` seconds of all files together are ever decoded, so that a small file
    that unpacks into a huge one does no harm.

    Raises:
        DecodeError: a file is of no format that is taken, is silent, or holds samples that are no
            numbers or far over full scale.
        RequestError: the files together are longer than `max_s`.
    """
    decoded = []
    left_s = max_s
    for index, data in enumerate(files):
        where = f"references[{index}]"
        audio, rate_hz = _read_mono(data, where, left_s)
        if len(audio) / rate_hz > left_s:
            raise RequestError(
                f"The reference audio is longer than {max_s:g} s",
                where=where,
                remedy="Send less of it; a few clear sentences are best",
            )
        left_s -= len(audio) / rate_hz
        _require_sound(audio, where)
        resampled = soxr.resample(audio, rate_hz, SAMPLE_RATE_HZ)
        # Brought down where it is over full scale: cut peaks would be heard in the voice.
        decoded.append(to_pcm16(resampled / np.abs(resampled).max(initial=1.0)))
    return decoded


def _read_mono(data: bytes, where: str, max_s: float) -> tuple[FloatArray, int]:
    """At most one sample more than `max_s` seconds, and the rate."""
    container = _container(data)
    if container == "mov" and _states_too_much(data):
        raise _unreadable(where, "it states more than it can hold")
    if container:
        audio, rate_hz = _read_container(data, container, where, max_s)
    # libsndfile knows two dozen rare formats more, each a parser that a stranger's bytes would
    # reach; one of them (SDS) even prints on standard output.
    elif not data.startswith(_REFERENCE_MAGICS) and not _is_mpeg_frame(data):
        raise _unreadable(where, "it is in none of these formats")
    elif data.startswith(b"OggS") and not _has_ogg_headers(data):
        raise _unreadable(where, "its Ogg headers are damaged")
    else:
        audio, rate_hz = _read_sound_file(data, where, max_s)
    if not np.isfinite(audio).all():
        raise DecodeError("The audio holds samples that are no numbers", where=where)
    if np.abs(audio).max(initial=0.0) > _LOUDEST:
        raise DecodeError(
            "The audio holds samples far over full scale, which is 1",
            where=where,
            remedy="Divide its samples by their largest, or send 16-bit samples",
        )
    return np.ascontiguousarray(audio.mean(axis=1, dtype=np.float32)), rate_hz


def _read_sound_file(data: bytes, where: str, max_s: float) -> tuple[FloatArray, int]:
    """What libsndfile reads, [samples, channels], and its rate."""
    try:
        with soundfile.SoundFile(cast(BinaryIO, _Within(data))) as file:
            _require_plain(file.samplerate, file.channels, where)
            frames = int(max_s * file.samplerate) + 1
            return file.read(frames, dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise _unreadable(where, error.error_string.strip(". ")) from error


def _read_container(
    data: bytes, container: str, where: str, max_s: float
) -> tuple[FloatArray, int]:
    """What FFmpeg reads of the first audio track, [samples, channels], and its rate."""
    import av

    try:
        opened: Any = av.open(
            io.BytesIO(data),
            format=container,
            options={"codec_whitelist": ",".join(_FFMPEG_CODECS)},
            metadata_errors="ignore",
        )
        with opened as file:
            if not file.streams.audio:
                raise _unreadable(where, "it has no audio track")
            track = file.streams.audio[0]
            codec = track.codec_context.name if track.codec_context else "unknown"
            if codec not in _FFMPEG_CODECS:
                raise _unreadable(where, f"its codec {codec} is not taken")
            frames = file.decode(track)
            first = next(frames)
            rate_hz = first.sample_rate
            _require_plain(rate_hz, first.layout.nb_channels, where)
            resampler = av.AudioResampler(format="fltp", layout=first.layout, rate=rate_hz)
            most, pieces = int(max_s * rate_hz) + 1, []
            for frame in itertools.chain([first], frames):
                pieces += [piece.to_ndarray() for piece in resampler.resample(frame)]
                most -= frame.samples
                if most <= 0:
                    break
    except StopIteration:
        raise _unreadable(where, "its audio track is empty") from None
    except (av.FFmpegError, ValueError) as error:
        raise _unreadable(where, getattr(error, "strerror", None) or str(error)) from error
    audio = np.concatenate(pieces, axis=1, dtype=np.float32).T
    return audio[: int(max_s * rate_hz) + 1], rate_hz


def _states_too_much(data: bytes) -> bool:
    """Whether an MP4 is packed (`cmov`), or states more samples than any recording has: FFmpeg
    makes room for each, 36 bytes, before it looks for them (ISO/IEC 14496-12, `stsz` and `trun`).

    FFmpeg finds these boxes in many others, so they are looked for everywhere but in the media.
    """
    stated = 0
    for start, stop in _outside_of_media(data):
        for found in _TABLES.finditer(data, start, stop):
            if found[0] == b"cmov":
                return True
            at = found.end() + (4 if found[0] == b"trun" else 8)
            stated += int.from_bytes(data[at : at + 4], "big")
    return stated > _MOST_STATED


def _outside_of_media(data: bytes) -> Iterator[tuple[int, int]]:
    """Where a file's top boxes lie that are no `mdat`, and all that follows what is no box."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:
            size = len(data) - at
        if size < 8:
            yield at, len(data)
            return
        if kind != b"mdat":
            yield at, min(at + size, len(data))
        at += size


def _require_plain(rate_hz: int, channels: int, where: str) -> None:
    if not MIN_RATE_HZ <= rate_hz <= _MAX_REFERENCE_RATE_HZ:
        raise DecodeError(
            f"A rate of {rate_hz} Hz is out of range",
            where=where,
            remedy=f"Send {MIN_RATE_HZ} to {_MAX_REFERENCE_RATE_HZ} Hz",
        )
    if channels > _MAX_REFERENCE_CHANNELS:
        raise DecodeError(
            f"{channels} channels are too many", where=where, remedy="Send mono or stereo"
        )


def _container(data: bytes) -> str | None:
    """FFmpeg's name of the container that begins so, where it is one that FFmpeg is to read."""
    if data[4:8] == b"ftyp":
        return "mov"
    return "matroska" if data.startswith(b"\x1aE\xdf\xa3") else None


def _is_mpeg_frame(data: bytes) -> bool:
    return len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0


def _has_ogg_headers(data: bytes) -> bool:
    """Whether the header packets of the first stream are whole (RFC 3533, section 6): three of
    Vorbis, else one.

    libsndfile 1.2.2 refuses a Vorbis file without them and never frees the comments that it has
    read, which can be as large as a message.
    """
    at = packets = 0
    wanted, unfinished = 1, False
    stream: tuple[int, int] | None = None
    while packets < wanted:
        if len(data) < at + _OGG_PAGE.size:
            return False
        magic, version, flags, serial, number, checksum, segments = _OGG_PAGE.unpack_from(data, at)
        body = at + _OGG_PAGE.size + segments
        sizes = data[at + _OGG_PAGE.size : body]
        page = data[at : body + sum(sizes)]
        follows = stream is None or stream == (serial, number)
        whole = len(page) == body - at + sum(sizes) and _ogg_checksum(page) == checksum
        if (magic, version, flags & 1) != (b"OggS", 0, unfinished) or not follows or not whole:
            return False
        if stream is None and data.startswith(b"\x01vorbis", body):
            wanted = 3
        packets += sum(size < 255 for size in sizes)
        unfinished = sizes[-1:] == b"\xff"
        stream = (serial, number + 1)
        at += len(page)
    return True


def _ogg_checksum(page: bytes) -> int:
    """zlib's, with all bits in the other order, from 0, and without its own field."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    return int(f"{zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _unreadable(where: str, why: str) -> DecodeError:
    return DecodeError(
        f"The file cannot be read as audio ({why})",
        where=where,
        remedy="Send WAV, FLAC, Ogg, MP3, M4A, WebM or AIFF",
    )


def _require_sound(audio: FloatArray, where: str) -> None:
    rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
    if rms < 10 ** (_SILENCE_DBFS / 20):
        raise DecodeError(
            f"The audio is silent (below {_SILENCE_DBFS:g} dBFS)",
            where=where,
            remedy="Send a recording of speech",
        )


class _Within(io.BytesIO):
    """A file whose position stays within it, wherever a header sends libsndfile: an exception in
    libsndfile's callbacks would only be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        size = self.getbuffer().nbytes
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: size}[whence]
        return super().seek(min(max(start + offset, 0), size))
