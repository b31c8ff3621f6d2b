"""Audio in and out of a call: reference files to samples, samples to the asked-for bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import soundfile
import soxr

from xtts_core.errors import DecodeError, ModelError, RequestError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_grpc.v1 import synthesis_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 48_000
OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
"""The rates of RFC 6716, section 2; libsndfile's Opus encoder takes no other."""

_MAX_REFERENCE_RATE_HZ = 192_000
_MAX_REFERENCE_CHANNELS = 2
_REFERENCE_MAGICS = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")
_OGG_PAGE = struct.Struct("<4sBB8xIIIB")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LOUDEST = 10.0
"""Full scale is 1: lossy codecs go over it by a little, integers that were stored as floats by
far."""
_SILENCE_DBFS = -60.0
_UNKNOWN_LENGTH = 0xFFFFFFFF
_LIBSNDFILE = {
    pb.AUDIO_ENCODING_WAV: ("WAV", "PCM_16"),
    pb.AUDIO_ENCODING_FLAC: ("FLAC", "PCM_16"),
    pb.AUDIO_ENCODING_OGG_OPUS: ("OGG", "OPUS"),
}


def resolve_format(asked: pb.AudioFormat, native_rate_hz: int) -> pb.AudioFormat:
    """`asked` with its zero values replaced by what they stand for.

    Raises:
        RequestError: a rate or an encoding that cannot be had.
    """
    rate_hz = asked.sample_rate_hz or native_rate_hz
    encoding = asked.encoding or pb.AUDIO_ENCODING_WAV
    if encoding not in pb.AudioEncoding.values():
        raise RequestError(
            f"The encoding {encoding} is not known",
            where="format.encoding",
            remedy=f"Ask for one of {', '.join(pb.AudioEncoding.keys()[1:])}",
        )
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise RequestError(
            f"{rate_hz} Hz is out of range",
            where="format.sample_rate_hz",
            remedy=f"Ask for {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz",
        )
    if encoding == pb.AUDIO_ENCODING_OGG_OPUS and rate_hz not in OPUS_RATES_HZ:
        raise RequestError(
            f"Opus cannot carry {rate_hz} Hz",
            where="format.sample_rate_hz",
            remedy=f"Ask for one of {', '.join(map(str, OPUS_RATES_HZ))} Hz, or another encoding",
        )
    return pb.AudioFormat(sample_rate_hz=rate_hz, encoding=encoding)


def encode(audio: FloatArray, native_rate_hz: int, form: pb.AudioFormat) -> tuple[bytes, float]:
    """The bytes of a whole utterance in a resolved format, and its length in seconds."""
    resampled = soxr.resample(audio, native_rate_hz, form.sample_rate_hz)
    samples = _to_pcm16(resampled)
    duration_s = len(samples) / form.sample_rate_hz
    if form.encoding == pb.AUDIO_ENCODING_PCM16:
        return samples.tobytes(), duration_s
    container, subtype = _LIBSNDFILE[form.encoding]
    file = io.BytesIO()
    soundfile.write(file, samples, form.sample_rate_hz, format=container, subtype=subtype)
    return file.getvalue(), duration_s


class StreamEncoder:
    """Encodes an utterance piece by piece; the pieces' bytes joined are one file.

    Args:
        native_rate_hz: the rate of the samples that come in.
        form: a resolved format.
    """

    def __init__(self, native_rate_hz: int, form: pb.AudioFormat) -> None:
        self._rate_hz = form.sample_rate_hz
        self._resampler = soxr.ResampleStream(
            native_rate_hz, form.sample_rate_hz, num_channels=1, dtype="float32"
        )
        self._samples = 0
        self._sink = _ForwardOnly()
        self._file: soundfile.SoundFile | None = None
        if form.encoding == pb.AUDIO_ENCODING_WAV:
            self._sink.write(_endless_wav_header(form.sample_rate_hz))
        elif form.encoding != pb.AUDIO_ENCODING_PCM16:
            container, subtype = _LIBSNDFILE[form.encoding]
            self._file = soundfile.SoundFile(
                cast(BinaryIO, self._sink),
                "w",
                samplerate=form.sample_rate_hz,
                channels=1,
                format=container,
                subtype=subtype,
            )

    @property
    def duration_s(self) -> float:
        """Seconds of audio encoded so far."""
        return self._samples / self._rate_hz

    def push(self, audio: FloatArray) -> bytes:
        """The bytes that are ready once `audio` (native rate) has come; may be empty."""
        self._write(self._resampler.resample_chunk(audio))
        return self._sink.take()

    def finish(self) -> bytes:
        """The bytes that were still held back."""
        self._write(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        if self._file is not None:
            self._file.close()
        return self._sink.take()

    def _write(self, resampled: FloatArray) -> None:
        samples = _to_pcm16(resampled)
        self._samples += len(samples)
        if self._file is None:
            self._sink.write(samples.tobytes())
        else:
            self._file.write(samples)


def decode_references(files: Sequence[bytes], max_s: float) -> list[NDArray[np.int16]]:
    """Each file's audio as mono 16-bit samples at 22 050 Hz.

    No more than `max_s` seconds of all files together are ever decoded, so that a small file
    that unpacks into a huge one does no harm.

    Raises:
        DecodeError: a file is no WAV, FLAC, Ogg, MP3 or AIFF that libsndfile reads, is silent,
            or holds samples that are no numbers or far over full scale.
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
        decoded.append(_to_pcm16(soxr.resample(audio, rate_hz, SAMPLE_RATE_HZ)))
    return decoded


def _read_mono(data: bytes, where: str, max_s: float) -> tuple[FloatArray, int]:
    """At most one sample more than `max_s` seconds, and the rate."""
    # libsndfile knows two dozen rare formats more, each a parser that a stranger's bytes would
    # reach; one of them (SDS) even prints on standard output.
    if not data.startswith(_REFERENCE_MAGICS) and not _is_mpeg_frame(data):
        raise _unreadable(where, "it is in none of these formats")
    if data.startswith(b"OggS") and not _has_ogg_headers(data):
        raise _unreadable(where, "its Ogg headers are damaged")
    try:
        with soundfile.SoundFile(cast(BinaryIO, _Within(data))) as file:
            rate_hz, channels = file.samplerate, file.channels
            if not MIN_RATE_HZ <= rate_hz <= _MAX_REFERENCE_RATE_HZ:
                raise DecodeError(
                    f"A rate of {rate_hz} Hz is out of range",
                    where=where,
                    remedy=f"Send {MIN_RATE_HZ} to {_MAX_REFERENCE_RATE_HZ} Hz",
                )
            if channels > _MAX_REFERENCE_CHANNELS:
                raise DecodeError(
                    f"{channels} channels are too many",
                    where=where,
                    remedy="Send mono or stereo",
                )
            frames = int(max_s * rate_hz) + 1
            audio = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(where, error.error_string.strip(". ")) from error
    if not np.isfinite(audio).all():
        raise DecodeError("The audio holds samples that are no numbers", where=where)
    if np.abs(audio).max(initial=0.0) > _LOUDEST:
        raise DecodeError(
            "The audio holds samples far over full scale, which is 1",
            where=where,
            remedy="Divide its samples by their largest, or send 16-bit samples",
        )
    return np.ascontiguousarray(audio.mean(axis=1, dtype=np.float32)), rate_hz


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
        remedy="Send WAV, FLAC, Ogg, MP3 or AIFF",
    )


def _require_sound(audio: FloatArray, where: str) -> None:
    rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
    if rms < 10 ** (_SILENCE_DBFS / 20):
        raise DecodeError(
            f"The audio is silent (below {_SILENCE_DBFS:g} dBFS)",
            where=where,
            remedy="Send a recording of speech",
        )


def _to_pcm16(audio: FloatArray) -> NDArray[np.int16]:
    if not np.isfinite(audio).all():
        raise ModelError("The audio holds samples that are no numbers")
    samples: NDArray[np.int16] = np.rint(np.clip(audio, -1.0, 1.0) * 32_767.0).astype("<i2")
    return samples


def _endless_wav_header(rate_hz: int) -> bytes:
    """RIFF WAVE, 16-bit mono, with the sizes that stand for "until the end of the stream"."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", _UNKNOWN_LENGTH, b"WAVE"),
        *(b"fmt ", 16, 1, 1, rate_hz, rate_hz * 2, 2, 16),
        *(b"data", _UNKNOWN_LENGTH),
    )


class _Within(io.BytesIO):
    """A file whose position stays within it, wherever a header sends libsndfile: an exception in
    libsndfile's callbacks would only be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        size = self.getbuffer().nbytes
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: size}[whence]
        return super().seek(min(max(start + offset, 0), size))


class _ForwardOnly:
    """A file for libsndfile whose bytes are taken while it grows.

    What libsndfile writes back over bytes that have gone out already (FLAC's length and checksum,
    when it closes the file) is left out: FLAC's header then says that the length is not known.
    """

    def __init__(self) -> None:
        self._position = 0
        self._end = 0
        self._ready = bytearray()

    def take(self) -> bytes:
        ready = bytes(self._ready)
        self._ready.clear()
        return ready

    def write(self, data: bytes) -> int:
        if self._position == self._end:
            self._ready += data
            self._end += len(data)
        self._position += len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return b""

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position
