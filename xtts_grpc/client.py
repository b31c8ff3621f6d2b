"""Typed clients of the synthesis service. They need grpc and protobuf alone.

with SynthesisClient("127.0.0.1:50051") as client:
    voice = client.clone_voice([Path("reference.wav").read_bytes()])
    speech = client.synthesize("Bom dia!", voice_id=voice.voice_id)
    Path("bom-dia.wav").write_bytes(speech.audio)

`AsyncSynthesisClient` has the same calls to be awaited.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, Unpack, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from xtts_grpc import messages
from xtts_grpc.messages import (
    REASON_KEY,
    SERVICE_NAME,
    ClonedVoice,
    Encoding,
    ModelInfo,
    Reloaded,
    SamplingOptions,
    ServiceDownError,
    ServiceError,
    Speech,
    SpeechOptions,
    StreamEnd,
    StreamStart,
    VoiceInfo,
)
from xtts_grpc.v1 import synthesis_pb2 as pb
from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc

__all__ = [
    "REASON_KEY",
    "SERVICE_NAME",
    "AsyncSynthesisClient",
    "ClientTls",
    "ClonedVoice",
    "Encoding",
    "ModelInfo",
    "Reloaded",
    "SamplingOptions",
    "ServiceDownError",
    "ServiceError",
    "Speech",
    "SpeechOptions",
    "StreamEnd",
    "StreamStart",
    "SynthesisClient",
    "VoiceInfo",
]

# A reply holds a whole utterance, which can exceed gRPC's default of 4 MB.
_OPTIONS = [("grpc.max_receive_message_length", -1)]


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


class _Client:
    """What both clients do alike."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 300.0,
        token: str | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._address = address
        self._call = {
            "timeout": timeout_s,
            "metadata": (("authorization", f"Bearer {token}"),) if token else (),
        }
        self._channel: Any = self._connect(tls.credentials() if tls else None)
        self._stub = cast(Any, pb_grpc).SynthesisServiceStub(self._channel)

    def _connect(self, credentials: grpc.ChannelCredentials | None) -> Any:
        if credentials:
            return grpc.secure_channel(self._address, credentials, options=_OPTIONS)
        return grpc.insecure_channel(self._address, options=_OPTIONS)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise messages.error_of(error, self._address) from error

    def _watch(self, timeout_s: float) -> Any:
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        return health_pb2_grpc.HealthStub(self._channel).Watch(
            request, timeout=timeout_s, wait_for_ready=True
        )


class SynthesisClient(_Client):
    """A connection to one service.

    Every call raises `ServiceError` where the service refuses it, and `ServiceDownError` where
    the service cannot be reached.

    Args:
        address: `host:port`.
        timeout_s: the deadline of each call, in seconds.
        token: what the service knows its callers by.
        tls: the certificates to call with (None: the call is not encrypted).
    """

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
        with self._reported():
            watch = self._watch(timeout_s)
            for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    def synthesize(self, text: str, *, voice_id: str, **options: Unpack[SpeechOptions]) -> Speech:
        """Speak a text."""
        request = messages.synthesize_request(text, voice_id, options)
        with self._reported():
            return messages.speech_of(self._stub.Synthesize(request, **self._call).speech)

    def stream(
        self, text: str, *, voice_id: str, **options: Unpack[SpeechOptions]
    ) -> Iterator[StreamStart | bytes | StreamEnd]:
        """Speak a text: one `StreamStart`, the audio's bytes, one `StreamEnd`.

        Closing the iterator cancels the call.
        """
        request = messages.stream_request(text, voice_id, options)
        with self._reported():
            call = self._stub.SynthesizeStream(request, **self._call)
            try:
                for response in call:
                    yield messages.stream_part(response)
            finally:
                call.cancel()

    def clone_voice(
        self,
        references: Sequence[bytes],
        *,
        label: str = "",
        consent: str = "",
        text: str | None = None,
        **options: Unpack[SpeechOptions],
    ) -> ClonedVoice:
        """Keep recordings of one speaker (whole files) as a voice; say `text` in it if given."""
        request = messages.clone_request(references, label, consent, text, options)
        with self._reported():
            return messages.cloned_of(self._stub.CloneVoice(request, **self._call))

    def list_voices(self) -> Iterator[VoiceInfo]:
        """The cloned voices in the order of their ids, fetched a page at a time."""
        token = ""
        while True:
            with self._reported():
                page = self._stub.ListVoices(pb.ListVoicesRequest(page_token=token), **self._call)
            yield from map(messages.voice_of, page.voices)
            token = page.next_page_token
            if not token:
                return

    def get_voice(self, voice_id: str) -> VoiceInfo:
        """One cloned voice."""
        request = pb.GetVoiceRequest(voice_id=voice_id)
        with self._reported():
            return messages.voice_of(self._stub.GetVoice(request, **self._call).voice)

    def delete_voice(self, voice_id: str) -> None:
        """Remove a cloned voice and its reference audio for good."""
        with self._reported():
            self._stub.DeleteVoice(pb.DeleteVoiceRequest(voice_id=voice_id), **self._call)

    def get_model(self) -> ModelInfo:
        """The model that serves, and what became of the last attempt to load another."""
        with self._reported():
            return messages.model_of(self._stub.GetModel(pb.GetModelRequest(), **self._call))

    def reload_model(self) -> Reloaded:
        """Have the service load the newest release now; returns when it serves."""
        with self._reported():
            response = self._stub.ReloadModel(pb.ReloadModelRequest(), **self._call)
        return Reloaded(response.model_version, response.release, response.changed)


class AsyncSynthesisClient(_Client):
    """A connection to one service for asyncio, with the arguments and the calls of
    `SynthesisClient`. A call whose task is cancelled ends on the service too."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _connect(self, credentials: grpc.ChannelCredentials | None) -> Any:
        if credentials:
            return grpc.aio.secure_channel(self._address, credentials, options=_OPTIONS)
        return grpc.aio.insecure_channel(self._address, options=_OPTIONS)

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def wait_until_serving(self, timeout_s: float) -> None:
        """Return once the service is up and a model serves.

        Raises:
            ServiceError: that did not happen within `timeout_s` seconds.
        """
        with self._reported():
            watch = self._watch(timeout_s)
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    async def synthesize(
        self, text: str, *, voice_id: str, **options: Unpack[SpeechOptions]
    ) -> Speech:
        """Speak a text."""
        request = messages.synthesize_request(text, voice_id, options)
        with self._reported():
            response = await self._stub.Synthesize(request, **self._call)
        return messages.speech_of(response.speech)

    async def stream(
        self, text: str, *, voice_id: str, **options: Unpack[SpeechOptions]
    ) -> AsyncIterator[StreamStart | bytes | StreamEnd]:
        """Speak a text: one `StreamStart`, the audio's bytes, one `StreamEnd`.

        Closing the iterator (`aclose`) cancels the call.
        """
        request = messages.stream_request(text, voice_id, options)
        with self._reported():
            call = self._stub.SynthesizeStream(request, **self._call)
            try:
                async for response in call:
                    yield messages.stream_part(response)
            finally:
                call.cancel()

    async def clone_voice(
        self,
        references: Sequence[bytes],
        *,
        label: str = "",
        consent: str = "",
        text: str | None = None,
        **options: Unpack[SpeechOptions],
    ) -> ClonedVoice:
        """Keep recordings of one speaker (whole files) as a voice; say `text` in it if given."""
        request = messages.clone_request(references, label, consent, text, options)
        with self._reported():
            return messages.cloned_of(await self._stub.CloneVoice(request, **self._call))

    async def list_voices(self) -> AsyncIterator[VoiceInfo]:
        """The cloned voices in the order of their ids, fetched a page at a time."""
        token = ""
        while True:
            request = pb.ListVoicesRequest(page_token=token)
            with self._reported():
                page = await self._stub.ListVoices(request, **self._call)
            for voice in page.voices:
                yield messages.voice_of(voice)
            token = page.next_page_token
            if not token:
                return

    async def get_voice(self, voice_id: str) -> VoiceInfo:
        """One cloned voice."""
        request = pb.GetVoiceRequest(voice_id=voice_id)
        with self._reported():
            return messages.voice_of((await self._stub.GetVoice(request, **self._call)).voice)

    async def delete_voice(self, voice_id: str) -> None:
        """Remove a cloned voice and its reference audio for good."""
        with self._reported():
            await self._stub.DeleteVoice(pb.DeleteVoiceRequest(voice_id=voice_id), **self._call)

    async def get_model(self) -> ModelInfo:
        """The model that serves, and what became of the last attempt to load another."""
        with self._reported():
            return messages.model_of(await self._stub.GetModel(pb.GetModelRequest(), **self._call))

    async def reload_model(self) -> Reloaded:
        """Have the service load the newest release now; returns when it serves."""
        with self._reported():
            response = await self._stub.ReloadModel(pb.ReloadModelRequest(), **self._call)
        return Reloaded(response.model_version, response.release, response.changed)
