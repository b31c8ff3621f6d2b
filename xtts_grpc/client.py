"""A typed client of the synthesis service. Needs grpc and protobuf alone.

with SynthesisClient("127.0.0.1:50051") as client:
    voice = client.clone_voice([Path("reference.wav").read_bytes()])
    speech = client.synthesize("Bom dia!", voice_id=voice.voice_id)
    Path("bom-dia.wav").write_bytes(speech.audio)
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, cast

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from xtts_core.errors import XttsError
from xtts_grpc.v1 import synthesis_pb2 as pb
from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["SynthesisService"].full_name
REASON_KEY = "xtts-reason"
"""The trailing metadata that carries the service's `XttsError.reason`."""


class ServiceError(XttsError):
    """A call that the service refused or could not answer.

    `code` is the gRPC status; `service_reason` the service's own name of the problem
    (`XttsError.reason` there), or "" where the service did not answer itself.
    """

    reason = "service_refused"

    def __init__(
        self, what: str, *, where: str, code: grpc.StatusCode, service_reason: str
    ) -> None:
        super().__init__(what, where=where)
        self.code = code
        self.service_reason = service_reason


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


@dataclass(frozen=True)
class ClientTls:
    """Certificates in PEM.

    Attributes:
        ca: what the service's certificate was signed with (None: the system's own).
        certificate, key: the caller's, where the service asks for one.
    """

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What a channel is opened with."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


class SynthesisClient:
    """A connection to one service.

    Every call raises `ServiceError` where the service refuses it, and `ServiceDownError` where
    the service cannot be reached.

    Args:
        address: `host:port`.
        timeout_s: the deadline of each call, in seconds.
        token: what the service knows its callers by.
        tls: the certificates to call with (None: the call is not encrypted).
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 300.0,
        token: str | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        # A reply holds a whole utterance, which can exceed gRPC's default of 4 MB.
        options = [("grpc.max_receive_message_length", -1)]
        if tls:
            self._channel = grpc.secure_channel(address, tls.credentials(), options=options)
        else:
            self._channel = grpc.insecure_channel(address, options=options)
        self._stub = cast(Any, pb_grpc).SynthesisServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def wait_until_serving(self, timeout_s: float) -> None:
        """Return once the service is up and a model serves.

        Raises:
            ServiceError: that did not happen within `timeout_s` seconds.
        """
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        with self._reported():
            watch = health_pb2_grpc.HealthStub(self._channel).Watch(
                request, timeout=timeout_s, wait_for_ready=True
            )
            for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    def synthesize(
        self,
        text: str,
        *,
        voice_id: str,
        language: str = "pt-BR",
        speed: float | None = None,
        sampling: SamplingOptions | None = None,
        seed: int | None = None,
        encoding: Encoding = Encoding.WAV,
        sample_rate_hz: int = 0,
    ) -> Speech:
        """Speak a text; see SynthesizeRequest for units and ranges."""
        request = pb.SynthesizeRequest(
            utterance=_utterance(text, language, speed, sampling, seed),
            voice_id=voice_id,
            format=_format(encoding, sample_rate_hz),
        )
        with self._reported():
            response = self._stub.Synthesize(
                request, timeout=self._timeout_s, metadata=self._metadata
            )
        return _speech(response.speech)

    def stream(
        self,
        text: str,
        *,
        voice_id: str,
        language: str = "pt-BR",
        speed: float | None = None,
        sampling: SamplingOptions | None = None,
        seed: int | None = None,
        encoding: Encoding = Encoding.PCM16,
        sample_rate_hz: int = 0,
    ) -> Iterator[StreamStart | bytes | StreamEnd]:
        """Speak a text: one `StreamStart`, the audio's bytes, one `StreamEnd`.

        Closing the iterator cancels the call.
        """
        request = pb.SynthesizeStreamRequest(
            utterance=_utterance(text, language, speed, sampling, seed),
            voice_id=voice_id,
            format=_format(encoding, sample_rate_hz),
        )
        with self._reported():
            call = self._stub.SynthesizeStream(
                request, timeout=self._timeout_s, metadata=self._metadata
            )
            try:
                for response in call:
                    yield _stream_part(response)
            finally:
                call.cancel()

    def clone_voice(
        self,
        references: Sequence[bytes],
        *,
        label: str = "",
        consent: str = "",
        text: str | None = None,
        language: str = "pt-BR",
        speed: float | None = None,
        sampling: SamplingOptions | None = None,
        seed: int | None = None,
        encoding: Encoding = Encoding.WAV,
        sample_rate_hz: int = 0,
    ) -> ClonedVoice:
        """Keep recordings of one speaker (whole files) as a voice; say `text` in it if given."""
        request = pb.CloneVoiceRequest(
            references=references,
            label=label,
            consent=consent,
            utterance=None if text is None else _utterance(text, language, speed, sampling, seed),
            format=_format(encoding, sample_rate_hz),
        )
        with self._reported():
            response = self._stub.CloneVoice(
                request, timeout=self._timeout_s, metadata=self._metadata
            )
        return ClonedVoice(
            voice_id=response.voice_id,
            reference_s=response.reference_s,
            speech=_speech(response.speech) if response.HasField("speech") else None,
        )

    def list_voices(self) -> Iterator[VoiceInfo]:
        """The cloned voices in the order of their ids, fetched a page at a time."""
        token = ""
        while True:
            request = pb.ListVoicesRequest(page_token=token)
            with self._reported():
                response = self._stub.ListVoices(
                    request, timeout=self._timeout_s, metadata=self._metadata
                )
            yield from map(_voice, response.voices)
            token = response.next_page_token
            if not token:
                return

    def get_voice(self, voice_id: str) -> VoiceInfo:
        """One cloned voice."""
        request = pb.GetVoiceRequest(voice_id=voice_id)
        with self._reported():
            return _voice(
                self._stub.GetVoice(request, timeout=self._timeout_s, metadata=self._metadata).voice
            )

    def delete_voice(self, voice_id: str) -> None:
        """Remove a cloned voice and its reference audio for good."""
        request = pb.DeleteVoiceRequest(voice_id=voice_id)
        with self._reported():
            self._stub.DeleteVoice(request, timeout=self._timeout_s, metadata=self._metadata)

    def get_model(self) -> ModelInfo:
        """The model that serves, and what became of the last attempt to load another."""
        with self._reported():
            response = self._stub.GetModel(
                pb.GetModelRequest(), timeout=self._timeout_s, metadata=self._metadata
            )
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

    def reload_model(self) -> Reloaded:
        """Have the service load the newest release now; returns when it serves."""
        with self._reported():
            response = self._stub.ReloadModel(
                pb.ReloadModelRequest(), timeout=self._timeout_s, metadata=self._metadata
            )
        return Reloaded(response.model_version, response.release, response.changed)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: Any) -> ServiceError:
        trailing = dict(error.trailing_metadata() or ())
        code = error.code()
        kind = ServiceDownError if code is grpc.StatusCode.UNAVAILABLE else ServiceError
        return kind(
            error.details() or code.name,
            where=self._address,
            code=code,
            service_reason=str(trailing.get(REASON_KEY, "")),
        )


def _utterance(
    text: str,
    language: str,
    speed: float | None,
    sampling: SamplingOptions | None,
    seed: int | None,
) -> pb.Utterance:
    options = sampling or SamplingOptions()
    return pb.Utterance(
        text=text,
        language=language,
        speed=speed,
        sampling=pb.SamplingSettings(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.repetition_penalty,
            max_audio_tokens=options.max_audio_tokens,
        ),
        seed=seed,
    )


def _format(encoding: Encoding, sample_rate_hz: int) -> pb.AudioFormat:
    return pb.AudioFormat(
        encoding=cast(pb.AudioEncoding, int(encoding)), sample_rate_hz=sample_rate_hz
    )


def _speech(speech: pb.Speech) -> Speech:
    return Speech(
        audio=speech.audio,
        encoding=Encoding(speech.format.encoding),
        sample_rate_hz=speech.format.sample_rate_hz,
        duration_s=speech.duration_s,
        model_version=speech.model_version,
        seed=speech.seed,
        real_time_factor=speech.real_time_factor,
    )


def _voice(voice: pb.Voice) -> VoiceInfo:
    return VoiceInfo(
        voice_id=voice.voice_id,
        label=voice.label,
        consent=voice.consent,
        reference_s=voice.reference_s,
        reference_count=voice.reference_count,
        created_at=voice.created_at.ToDatetime(tzinfo=UTC),
    )


def _stream_part(response: pb.SynthesizeStreamResponse) -> StreamStart | bytes | StreamEnd:
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
        return StreamEnd(response.end.duration_s, response.end.real_time_factor)
    return response.audio


def _moment(response: pb.GetModelResponse, field: str) -> datetime | None:
    if not response.HasField(cast(Any, field)):
        return None
    stamp: Timestamp = getattr(response, field)
    return stamp.ToDatetime(tzinfo=UTC)
