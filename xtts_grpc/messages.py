"""What clients send and get: plain dataclasses beside the protocol's messages."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict, cast

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from xtts_core.errors import XttsError
from xtts_grpc.v1 import synthesis_pb2 as pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["SynthesisService"].full_name
REASON_KEY = "xtts-reason"
"""The trailing metadata that carries the service's `XttsError.reason`."""
RETRY_KEY = "grpc-retry-pushback-ms"
"""The trailing metadata that tells a refused caller when to try again, in milliseconds; gRPC's own
clients heed it where their retry policy says so (gRFC A6)."""

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 48_000
OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
"""The rates of RFC 6716, section 2; libsndfile's Opus encoder takes no other."""


class ServiceError(XttsError):
    """A call that the service refused or could not answer.

    `code` is the gRPC status; `service_reason` the service's own name of the problem
    (`XttsError.reason` there), or "" where the service did not answer itself; `retry_after_s`
    the seconds after which an overloaded service hopes to have room, else None.
    """

    reason = "service_refused"

    def __init__(
        self,
        what: str,
        *,
        where: str,
        code: grpc.StatusCode,
        service_reason: str,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what, where=where)
        self.code = code
        self.service_reason = service_reason
        self.retry_after_s = retry_after_s


class ServiceDownError(ServiceError):
    """The service cannot be reached, or is shutting down."""

    reason = "service_down"
    retryable = True


class Encoding(enum.IntEnum):
    """How samples are packed into bytes (see the proto)."""

    PCM16 = pb.AUDIO_ENCODING_PCM16
    WAV = pb.AUDIO_ENCODING_WAV
    FLAC = pb.AUDIO_ENCODING_FLAC
    OGG_OPUS = pb.AUDIO_ENCODING_OGG_OPUS


@dataclass(frozen=True)
class SamplingOptions:
    """How audio tokens are drawn; None leaves a value to the service's settings."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    max_audio_tokens: int | None = None


@dataclass(frozen=True)
class Speech:
    """A spoken utterance: `audio` holds `duration_s` seconds in `encoding`."""

    audio: bytes
    encoding: Encoding
    sample_rate_hz: int
    duration_s: float
    model_version: str
    seed: int
    real_time_factor: float
    retried_sentences: int
    cut_sentences: int


@dataclass(frozen=True)
class StreamStart:
    """The first part of a stream."""

    encoding: Encoding
    sample_rate_hz: int
    model_version: str
    seed: int


@dataclass(frozen=True)
class StreamEnd:
    """The last part of a stream."""

    duration_s: float
    real_time_factor: float
    cut_sentences: int


@dataclass(frozen=True)
class ClonedVoice:
    """A voice, and what it said where a text was given."""

    voice_id: str
    reference_s: float
    speech: Speech | None


@dataclass(frozen=True)
class VoiceInfo:
    """A cloned voice, as it was described when it was cloned."""

    voice_id: str
    label: str
    consent: str
    reference_s: float
    reference_count: int
    created_at: datetime


@dataclass(frozen=True)
class ModelInfo:
    """The model that serves, and why the newest one does not (`last_error`, "" where it does).

    While nothing serves, `serving` is False and everything about a model is empty.
    """

    serving: bool
    model_version: str
    release: int
    source: str
    languages: tuple[str, ...]
    speakers: tuple[str, ...]
    native_sample_rate_hz: int
    loaded_at: datetime | None
    fallback_reason: str
    last_error: str
    last_error_at: datetime | None


@dataclass(frozen=True)
class Reloaded:
    """The model that serves after a reload, and whether another one served before."""

    model_version: str
    release: int
    changed: bool


class SpeechOptions(TypedDict, total=False):
    """How a text is spoken; see Utterance and AudioFormat in the proto for units and ranges.

    `language` is `pt-BR` where it is left out, `sample_rate_hz` the model's own, and `encoding`
    WAV, of a stream PCM16.
    """

    language: str
    speed: float | None
    sampling: SamplingOptions | None
    seed: int | None
    encoding: Encoding
    sample_rate_hz: int


def synthesize_request(text: str, voice_id: str, options: SpeechOptions) -> pb.SynthesizeRequest:
    """The request for a text as a whole."""
    return pb.SynthesizeRequest(
        utterance=_utterance(text, options),
        voice_id=voice_id,
        format=_audio_format(options, Encoding.WAV),
    )


def stream_request(text: str, voice_id: str, options: SpeechOptions) -> pb.SynthesizeStreamRequest:
    """The request for a text as a stream."""
    return pb.SynthesizeStreamRequest(
        utterance=_utterance(text, options),
        voice_id=voice_id,
        format=_audio_format(options, Encoding.PCM16),
    )


def clone_request(
    references: Sequence[bytes],
    label: str,
    consent: str,
    text: str | None,
    options: SpeechOptions,
) -> pb.CloneVoiceRequest:
    """The request for a voice, and for a text in it where there is one."""
    return pb.CloneVoiceRequest(
        references=references,
        label=label,
        consent=consent,
        utterance=None if text is None else _utterance(text, options),
        format=_audio_format(options, Encoding.WAV),
    )


def _utterance(text: str, options: SpeechOptions) -> pb.Utterance:
    sampling = options.get("sampling") or SamplingOptions()
    return pb.Utterance(
        text=text,
        language=options.get("language", "pt-BR"),
        speed=options.get("speed"),
        sampling=pb.SamplingSettings(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            max_audio_tokens=sampling.max_audio_tokens,
        ),
        seed=options.get("seed"),
    )


def _audio_format(options: SpeechOptions, encoding: Encoding) -> pb.AudioFormat:
    return pb.AudioFormat(
        encoding=cast(pb.AudioEncoding, int(options.get("encoding", encoding))),
        sample_rate_hz=options.get("sample_rate_hz", 0),
    )


def speech_of(speech: pb.Speech) -> Speech:
    """Audio with how it was made."""
    return Speech(
        audio=speech.audio,
        encoding=Encoding(speech.format.encoding),
        sample_rate_hz=speech.format.sample_rate_hz,
        duration_s=speech.duration_s,
        model_version=speech.model_version,
        seed=speech.seed,
        real_time_factor=speech.real_time_factor,
        retried_sentences=speech.retried_sentences,
        cut_sentences=speech.cut_sentences,
    )


def voice_of(voice: pb.Voice) -> VoiceInfo:
    """A voice that is kept."""
    return VoiceInfo(
        voice_id=voice.voice_id,
        label=voice.label,
        consent=voice.consent,
        reference_s=voice.reference_s,
        reference_count=voice.reference_count,
        created_at=voice.created_at.ToDatetime(tzinfo=UTC),
    )


def cloned_of(response: pb.CloneVoiceResponse) -> ClonedVoice:
    """A voice that was cloned."""
    return ClonedVoice(
        voice_id=response.voice_id,
        reference_s=response.reference_s,
        speech=speech_of(response.speech) if response.HasField("speech") else None,
    )


def model_of(response: pb.GetModelResponse) -> ModelInfo:
    """The model that serves."""
    source = pb.ModelSource.Name(response.source).removeprefix("MODEL_SOURCE_")
    return ModelInfo(
        serving=response.serving,
        model_version=response.model_version,
        release=response.release,
        source="" if response.source == 0 else source.lower().replace("_", "-"),
        languages=tuple(response.languages),
        speakers=tuple(response.speakers),
        native_sample_rate_hz=response.native_sample_rate_hz,
        loaded_at=_moment(response, "loaded_at"),
        fallback_reason=response.fallback_reason,
        last_error=response.last_error,
        last_error_at=_moment(response, "last_error_at"),
    )


def error_of(error: Any, address: str) -> ServiceError:
    """A call's failure, as the service told it."""
    trailing = dict(error.trailing_metadata() or ())
    code = error.code()
    kind = ServiceDownError if code is grpc.StatusCode.UNAVAILABLE else ServiceError
    pushback = str(trailing.get(RETRY_KEY, ""))
    return kind(
        error.details() or code.name,
        where=address,
        code=code,
        service_reason=str(trailing.get(REASON_KEY, "")),
        retry_after_s=int(pushback) / 1_000 if pushback.isdecimal() else None,
    )


def stream_part(response: pb.SynthesizeStreamResponse) -> StreamStart | bytes | StreamEnd:
    """One part of a stream."""
    part = response.WhichOneof("part")
    if part == "start":
        start = response.start
        return StreamStart(
            encoding=Encoding(start.format.encoding),
            sample_rate_hz=start.format.sample_rate_hz,
            model_version=start.model_version,
            seed=start.seed,
        )
    if part == "end":
        end = response.end
        return StreamEnd(end.duration_s, end.real_time_factor, end.cut_sentences)
    return response.audio


def _moment(response: pb.GetModelResponse, field: str) -> datetime | None:
    if not response.HasField(cast(Any, field)):
        return None
    stamp: Timestamp = getattr(response, field)
    return stamp.ToDatetime(tzinfo=UTC)
