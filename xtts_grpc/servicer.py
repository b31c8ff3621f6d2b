"""The calls of `xtts.v1.SynthesisService`."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from xtts_core.errors import (
    DecodeError,
    ModelError,
    NotReadyError,
    OverloadedError,
    ReleaseError,
    RequestError,
    VoiceNotFoundError,
    VoicesFullError,
    XttsError,
)
from xtts_core.model.engine import Chunks, Delivery
from xtts_grpc.audio import StreamEncoder, encode, resolve_format
from xtts_grpc.client import REASON_KEY
from xtts_grpc.logs import ended_as, tell
from xtts_grpc.messages import RETRY_KEY
from xtts_grpc.model_store import Source
from xtts_grpc.places import CallEndedError, Places
from xtts_grpc.v1 import synthesis_pb2 as pb
from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc
from xtts_grpc.validation import Task, check_page_size, check_spoken_length, check_utterance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xtts_core.model.engine import Latents
    from xtts_core.settings import ServiceSettings
    from xtts_grpc.metrics import Metrics
    from xtts_grpc.model_store import Model, ModelStore
    from xtts_grpc.reload import ReleaseFollower
    from xtts_grpc.voices import Voice, VoiceStore

    FloatArray = NDArray[np.float32]

STATUS_CODES: dict[str, grpc.StatusCode] = {
    RequestError.reason: grpc.StatusCode.INVALID_ARGUMENT,
    DecodeError.reason: grpc.StatusCode.INVALID_ARGUMENT,
    VoiceNotFoundError.reason: grpc.StatusCode.NOT_FOUND,
    NotReadyError.reason: grpc.StatusCode.FAILED_PRECONDITION,
    ReleaseError.reason: grpc.StatusCode.FAILED_PRECONDITION,
    OverloadedError.reason: grpc.StatusCode.RESOURCE_EXHAUSTED,
    VoicesFullError.reason: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ModelError.reason: grpc.StatusCode.INTERNAL,
}

_SOURCES: dict[Source, pb.ModelSource] = {
    "release": pb.MODEL_SOURCE_RELEASE,
    "custom-checkpoint": pb.MODEL_SOURCE_CUSTOM_CHECKPOINT,
    "base-model": pb.MODEL_SOURCE_BASE_MODEL,
}

_MOST_RELOADS = 4
"""Of `ReloadModel` at one time."""

log = logging.getLogger(__name__)


class SynthesisServicer(pb_grpc.SynthesisServiceServicer):
    """Answers calls with the model that `store` holds.

    Args:
        follower: what ReloadModel asks; None where one fixed checkpoint serves.
    """

    def __init__(
        self,
        store: ModelStore,
        voices: VoiceStore,
        settings: ServiceSettings,
        follower: ReleaseFollower | None,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._voices = voices
        self._settings = settings
        self._follower = follower
        self._metrics = metrics
        server = settings.server
        engine = settings.engine
        self._chunks = Chunks(engine.first_chunk_tokens, engine.stream_chunk_tokens)
        self._places = Places(server.max_concurrent_calls, server.max_waiting_calls)
        self._reloads = threading.BoundedSemaphore(_MOST_RELOADS)
        metrics.queue(lambda: self._places.waiting)

    def Synthesize(  # noqa: N802 (the name is the protocol's)
        self, request: pb.SynthesizeRequest, context: grpc.ServicerContext
    ) -> pb.SynthesizeResponse:
        with _answering(context), self._places.one(context), self._store.lease() as model:
            form = resolve_format(request.format, model.engine.sample_rate_hz)
            task = self._check(request.utterance, model)
            latents = model.latents(request.voice_id, _waited_for(context))
            tell(voice_id=request.voice_id)
            speech = self._speech(model, task, latents, form, context)
            return pb.SynthesizeResponse(speech=speech)

    def SynthesizeStream(  # noqa: N802
        self, request: pb.SynthesizeStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SynthesizeStreamResponse]:
        return _while_read(
            self._stream(request, context), context, self._settings.server.max_unread_s
        )

    def CloneVoice(  # noqa: N802
        self, request: pb.CloneVoiceRequest, context: grpc.ServicerContext
    ) -> pb.CloneVoiceResponse:
        with _answering(context), self._places.one(context), self._store.lease() as model:
            form = resolve_format(request.format, model.engine.sample_rate_hz)
            speaks = request.HasField("utterance")
            task = self._check(request.utterance, model) if speaks else None
            voice = self._voices.add(
                request.references, label=request.label, consent=request.consent
            )
            latents = model.latents(voice.voice_id, _waited_for(context))
            tell(voice_id=voice.voice_id, reference_s=round(voice.reference_s, 3))
            return pb.CloneVoiceResponse(
                voice_id=voice.voice_id,
                reference_s=voice.reference_s,
                speech=self._speech(model, task, latents, form, context) if task else None,
            )

    def ListVoices(  # noqa: N802
        self, request: pb.ListVoicesRequest, context: grpc.ServicerContext
    ) -> pb.ListVoicesResponse:
        with _answering(context):
            size = check_page_size(request.page_size)
            ids = [voice_id for voice_id in self._voices.ids() if voice_id > request.page_token]
            response = pb.ListVoicesResponse(
                next_page_token=ids[size - 1] if len(ids) > size else ""
            )
            for voice_id in ids[:size]:
                # Another call may be deleting it.
                with contextlib.suppress(VoiceNotFoundError):
                    response.voices.append(_voice(self._voices.get(voice_id)))
            return response

    def GetVoice(  # noqa: N802
        self, request: pb.GetVoiceRequest, context: grpc.ServicerContext
    ) -> pb.GetVoiceResponse:
        with _answering(context):
            return pb.GetVoiceResponse(voice=_voice(self._voices.get(request.voice_id)))

    def DeleteVoice(  # noqa: N802
        self, request: pb.DeleteVoiceRequest, context: grpc.ServicerContext
    ) -> pb.DeleteVoiceResponse:
        with _answering(context):
            self._voices.delete(request.voice_id)
            if model := self._store.serving:
                model.forget(request.voice_id)
            tell(voice_id=request.voice_id)
            return pb.DeleteVoiceResponse()

    def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.ServicerContext
    ) -> pb.GetModelResponse:
        with _answering(context):
            response = pb.GetModelResponse()
            if failure := self._store.failure:
                response.last_error = failure.message
                response.last_error_at.CopyFrom(_timestamp(failure.at))
            if model := self._store.serving:
                response.serving = True
                response.model_version = model.version
                response.release = model.checkpoint.release
                response.source = _SOURCES[model.checkpoint.source]
                response.languages.extend(model.languages)
                response.speakers.extend(model.speakers)
                response.native_sample_rate_hz = model.engine.sample_rate_hz
                response.loaded_at.CopyFrom(_timestamp(model.loaded_at))
                response.fallback_reason = model.checkpoint.fallback_reason
            return response

    def ReloadModel(  # noqa: N802
        self, request: pb.ReloadModelRequest, context: grpc.ServicerContext
    ) -> pb.ReloadModelResponse:
        with _answering(context):
            if self._follower is None:
                raise ReleaseError(
                    "The service was started with one fixed checkpoint",
                    where="XTTS_CUSTOM_CHECKPOINT",
                    remedy="Unset it and start the service again to follow releases",
                )
            before = self._store.checkpoint
            with self._reload_places():
                self._follower.check(now=True, wanted=_waited_for(context))
            with self._store.lease() as model:
                return pb.ReloadModelResponse(
                    model_version=model.version,
                    release=model.checkpoint.release,
                    changed=model.checkpoint != before,
                )

    @contextlib.contextmanager
    def _reload_places(self) -> Iterator[None]:
        """Keeps threads for other calls while a release comes up."""
        if not self._reloads.acquire(blocking=False):
            retry_after_s = self._settings.reload.poll_s
            raise OverloadedError(
                f"{_MOST_RELOADS} calls wait for a release already",
                remedy=f"Try again in {retry_after_s:g} s",
                retry_after_s=retry_after_s,
            )
        try:
            yield
        finally:
            self._reloads.release()

    def _stream(
        self, request: pb.SynthesizeStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SynthesizeStreamResponse]:
        begun: float | None = monotonic()
        with _answering(context), self._places.one(context), self._store.lease() as model:
            form = resolve_format(request.format, model.engine.sample_rate_hz)
            task = self._check(request.utterance, model)
            latents = model.latents(request.voice_id, _waited_for(context))
            tell(voice_id=request.voice_id)
            yield pb.SynthesizeStreamResponse(
                start=pb.StreamStart(format=form, model_version=model.version, seed=task.seed)
            )
            encoder = StreamEncoder(model.engine.sample_rate_hz, form)
            work = _Stopwatch()
            delivery = Delivery()
            spoken = model.engine.stream(
                task.text,
                task.language,
                latents,
                task.sampling,
                self._chunks,
                check=_waited_for(context),
                delivery=delivery,
            )
            # Closed with the call: the work of a caller that went away ends before its lease.
            with contextlib.closing(spoken):
                for chunk in work.timed(spoken):
                    if audio := encoder.push(chunk):
                        if begun is not None:
                            self._metrics.first_audio(monotonic() - begun)
                            begun = None
                        yield pb.SynthesizeStreamResponse(audio=audio)
            if audio := encoder.finish():
                yield pb.SynthesizeStreamResponse(audio=audio)
            yield pb.SynthesizeStreamResponse(
                end=pb.StreamEnd(
                    duration_s=encoder.duration_s,
                    real_time_factor=_real_time_factor(work.seconds, encoder.duration_s),
                    cut_sentences=delivery.cut,
                )
            )
            self._told(model, task, encoder.duration_s, work.seconds, delivery)

    def _speech(
        self,
        model: Model,
        task: Task,
        latents: Latents,
        form: pb.AudioFormat,
        context: grpc.ServicerContext,
    ) -> pb.Speech:
        delivery = Delivery()
        started = monotonic()
        spoken = model.engine.synthesize(
            task.text,
            task.language,
            latents,
            task.sampling,
            check=_waited_for(context),
            delivery=delivery,
        )
        seconds = monotonic() - started
        audio, duration_s = encode(
            spoken, model.engine.sample_rate_hz, form, check=_waited_for(context)
        )
        speech = pb.Speech(
            audio=audio,
            format=form,
            duration_s=duration_s,
            model_version=model.version,
            seed=task.seed,
            real_time_factor=_real_time_factor(seconds, duration_s),
            retried_sentences=delivery.retried,
            cut_sentences=delivery.cut,
        )
        self._told(model, task, duration_s, seconds, delivery)
        return speech

    def _told(
        self, model: Model, task: Task, duration_s: float, seconds: float, delivery: Delivery
    ) -> None:
        self._metrics.spoke(task.language, duration_s, seconds)
        self._metrics.ran_away(retried=delivery.retried, cut=delivery.cut)
        tell(
            duration_s=round(duration_s, 3),
            work_s=round(seconds, 3),
            retried_sentences=delivery.retried,
            cut_sentences=delivery.cut,
        )

    def _check(self, utterance: pb.Utterance, model: Model) -> Task:
        task = check_utterance(
            utterance,
            model.languages,
            self._settings.engine,
            self._settings.limits.max_text_characters,
        )
        tell(model_version=model.version, language=task.language, characters=len(task.text))
        check_spoken_length(
            model.engine.sentences(task.text, task.language),
            self._settings.limits.max_spoken_characters,
        )
        if self._settings.logging.texts:
            tell(text=task.text)
        return task


@contextlib.contextmanager
def _answering(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the fitting status where the block raises."""
    try:
        yield
    except XttsError as error:
        code = STATUS_CODES.get(error.reason, grpc.StatusCode.INTERNAL)
        if code is grpc.StatusCode.INTERNAL:
            log.error("a call failed: %s", error, exc_info=True)
        retry_after_s = error.retry_after_s if isinstance(error, OverloadedError) else None
        _abort(context, code, str(error), error.reason, retry_after_s)
    except CallEndedError:
        _abort(context, ended_as(context), "The call has ended", "call_ended")
    except Exception:
        log.exception("a call failed")
        _abort(
            context, grpc.StatusCode.INTERNAL, "The service failed; its log says why", "internal"
        )


def _abort(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str,
    reason: str,
    retry_after_s: float | None = None,
) -> NoReturn:
    hint = () if retry_after_s is None else ((RETRY_KEY, str(math.ceil(retry_after_s * 1_000))),)
    context.set_trailing_metadata(((REASON_KEY, reason), *hint))
    context.abort(code, message)


def _while_read(
    parts: Iterator[pb.SynthesizeStreamResponse], context: grpc.ServicerContext, most_s: float
) -> Iterator[pb.SynthesizeStreamResponse]:
    """Passes a stream on, and ends the call once nobody has taken a part of it for so long."""

    def end() -> None:
        log.warning("a stream is ended whose caller has read nothing for %g s", most_s)
        context.cancel()

    # What is logged knows the call by it.
    within = contextvars.copy_context()
    for part in parts:
        # gRPC keeps the next part waiting, and with it the call's place, until this one is sent.
        unread = threading.Timer(most_s, within.run, (end,))
        unread.daemon = True
        unread.start()
        try:
            yield part
        finally:
            unread.cancel()


def _waited_for(context: grpc.ServicerContext) -> Callable[[], None]:
    """A check that raises once the caller went away, or its deadline passed."""

    def check() -> None:
        if not context.is_active():
            raise CallEndedError

    return check


class _Stopwatch:
    """Adds up the time that an iterator works, without the time its user takes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, chunks: Iterator[FloatArray]) -> Iterator[FloatArray]:
        while True:
            started = monotonic()
            chunk = next(chunks, None)
            self.seconds += monotonic() - started
            if chunk is None:
                return
            yield chunk


def _real_time_factor(seconds: float, duration_s: float) -> float:
    if duration_s == 0:
        raise ModelError("The model said nothing", remedy="Try another seed")
    return seconds / duration_s


def _voice(voice: Voice) -> pb.Voice:
    return pb.Voice(
        voice_id=voice.voice_id,
        label=voice.label,
        consent=voice.consent,
        reference_s=voice.reference_s,
        reference_count=len(voice.references),
        created_at=_timestamp(voice.created_at),
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
