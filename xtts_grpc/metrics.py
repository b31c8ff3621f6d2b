"""What the service tells Prometheus, in seconds and counts, without texts or voices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from xtts_core.errors import SettingsError
from xtts_grpc import logs
from xtts_grpc.client import SERVICE_NAME

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._calls = Counter(
            "xtts_calls", "Calls that ended", ["method", "code"], registry=registry
        )
        self._call_seconds = Histogram(
            "xtts_call_seconds",
            "From the start of a call to its end",
            ["method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = Gauge(
            "xtts_calls_running", "Calls that have not ended", ["method"], registry=registry
        )
        self._waiting = Gauge(
            "xtts_calls_waiting",
            "Those of them that wait for a place to be answered in",
            registry=registry,
        )
        self._audio_seconds = Counter(
            "xtts_audio_seconds", "Speech that was made", ["language"], registry=registry
        )
        self._work_seconds = Counter(
            "xtts_work_seconds", "Work that the speech took", ["language"], registry=registry
        )
        self._runaway_sentences = Counter(
            "xtts_runaway_sentences",
            "Sentences that ran away: spoken again, or cut",
            ["outcome"],
            registry=registry,
        )
        self._first_audio_seconds = Histogram(
            "xtts_first_audio_seconds",
            "From the start of a stream to its first audio",
            buckets=_SECONDS,
            registry=registry,
        )
        self._serving = Gauge("xtts_model_serving", "1 while a model serves", registry=registry)
        self._refused = Gauge(
            "xtts_model_refused",
            "1 while the newest checkpoint could not be loaded",
            registry=registry,
        )

    def serve(self, address: str) -> Callable[[], None]:
        """Answer `GET /metrics` on `host:port`; the function that is returned ends it.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        host, _, port = address.rpartition(":")
        try:
            server, thread = start_http_server(int(port), host, registry=self.registry)
        except (OSError, ValueError, OverflowError) as error:
            raise SettingsError(
                f"The address {address} cannot be listened on ({error})",
                where="XTTS_METRICS_ADDRESS",
                remedy="Write host:port, such as 127.0.0.1:9464, of a port that is free",
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def queue(self, waiting: Callable[[], int]) -> None:
        """Ask `waiting` how many calls wait whenever somebody wants to know."""
        self._waiting.set_function(waiting)

    def spoke(self, language: str, audio_s: float, work_s: float) -> None:
        """An utterance was spoken to its end."""
        self._audio_seconds.labels(language).inc(audio_s)
        self._work_seconds.labels(language).inc(work_s)

    def ran_away(self, *, retried: int, cut: int) -> None:
        """So many sentences of an utterance ran away."""
        self._runaway_sentences.labels("retried").inc(retried)
        self._runaway_sentences.labels("cut").inc(cut)

    def first_audio(self, seconds: float) -> None:
        """A stream gave its first audio."""
        self._first_audio_seconds.observe(seconds)

    def model(self, *, serving: bool, refused: bool) -> None:
        """Which models there are has changed."""
        self._serving.set(serving)
        self._refused.set(refused)

    @contextmanager
    def call(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        """A call is answered in the block."""
        started = monotonic()
        self._running.labels(method).inc()
        try:
            yield
        finally:
            self._running.labels(method).dec()
            self._call_seconds.labels(method).observe(monotonic() - started)
            self._calls.labels(method, logs.status_of(context)).inc()


class MeasuredCalls(grpc.ServerInterceptor):
    """Counts, times and logs the calls of the service, refused ones too."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Pass a call on, measured."""
        handler: Any = continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service != SERVICE_NAME:
            return handler  # type: ignore[no-any-return]
        codec = (handler.request_deserializer, handler.response_serializer)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with logs.call(method, context), self._metrics.call(method, context):
                yield from handler.unary_stream(request, context)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            with logs.call(method, context), self._metrics.call(method, context):
                return handler.unary_unary(request, context)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, *codec)
        return grpc.unary_unary_rpc_method_handler(unary, *codec)
