"""From samples to the bytes that a call asked for."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import soundfile
import soxr

from xtts_core.errors import ModelError, RequestError
from xtts_grpc.messages import MAX_RATE_HZ, MIN_RATE_HZ, OPUS_RATES_HZ
from xtts_grpc.v1 import synthesis_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

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


def encode(
    audio: FloatArray,
    native_rate_hz: int,
    form: pb.AudioFormat,
    *,
    check: Callable[[], None] = lambda: None,
) -> tuple[bytes, float]:
    """The bytes of a whole utterance in a resolved format, and its length in seconds.

    Args:
        check: called for each second of audio (Opus takes 40 ms for one); what it raises ends the
            work.
    """
    resampled = soxr.resample(audio, native_rate_hz, form.sample_rate_hz)
    samples = to_pcm16(resampled)
    duration_s = len(samples) / form.sample_rate_hz
    if form.encoding == pb.AUDIO_ENCODING_PCM16:
        return samples.tobytes(), duration_s
    container, subtype = _LIBSNDFILE[form.encoding]
    file = io.BytesIO()
    rate_hz = form.sample_rate_hz
    with soundfile.SoundFile(file, "w", rate_hz, 1, subtype, format=container) as sound:
        for start in range(0, len(samples), rate_hz):
            check()
            sound.write(samples[start : start + rate_hz])
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
        samples = to_pcm16(resampled)
        self._samples += len(samples)
        if self._file is None:
            self._sink.write(samples.tobytes())
        else:
            self._file.write(samples)


def to_pcm16(audio: FloatArray) -> NDArray[np.int16]:
    """Samples of 16 bits; what is beyond -1 or 1 is cut.

    Raises:
        ModelError: a sample is no number.
    """
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
