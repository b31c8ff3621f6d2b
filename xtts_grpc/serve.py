"""`xtts-serve`: the synthesis service.

Health (grpc.health.v1) has three names: "" and `xtts.v1.SynthesisService` are SERVING while a
model serves; `reload` is NOT_SERVING while the newest checkpoint could not be loaded.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, cast

import grpc
import typer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from xtts_core.errors import SettingsError, XttsError
from xtts_core.settings import Environment
from xtts_grpc import logs
from xtts_grpc.client import SERVICE_NAME
from xtts_grpc.metrics import MeasuredCalls, Metrics
from xtts_grpc.security import Tls, Tokens

if TYPE_CHECKING:
    from xtts_core.model.engine import Engine
    from xtts_core.settings import EngineSettings, ServiceSettings
    from xtts_grpc.model_store import Checkpoint, LoadEngine

RELOAD_HEALTH = "reload"

_WATCHES = ThreadPoolExecutor(256, thread_name_prefix="health")
"""A thread for each Watch of the health, for all services of this process: without one, grpcio
sends under a lock that gRPC's only polling thread wants too, and all calls may stop for ever
(grpc/grpc#43403)."""
_SPARE_THREADS = 8
"""Threads for calls that are refused, and for health, reflection, GetModel and ReloadModel."""

log = logging.getLogger("xtts_grpc.serve")


class LogLevel(enum.StrEnum):
    """What `--log-level` takes."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Service:
    """A running synthesis service.

    Args:
        settings: `config/service.yaml`.
        address: `host:port`; port 0 takes a free one.
        voices_dir: where cloned voices are kept.
        serving: the serving.json to follow, or the one fixed checkpoint to serve.
        tls: the service's certificate (None: calls are not encrypted).
        token_file: who may call (None: everybody who reaches the address).
        metrics_address: `host:port` of `GET /metrics` for Prometheus (None: nowhere).
        load_engine: what loads an engine from a checkpoint directory (None: `Engine.load`).

    Raises:
        SettingsError: an address cannot be listened on, or a certificate or the tokens not be
            used.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        address: str,
        voices_dir: Path,
        serving: Path | Checkpoint,
        *,
        tls: Tls | None = None,
        token_file: Path | None = None,
        metrics_address: str | None = None,
        load_engine: LoadEngine | None = None,
    ) -> None:
        from xtts_core.model.engine import Engine
        from xtts_grpc.model_store import ModelStore
        from xtts_grpc.reload import ReleaseFollower
        from xtts_grpc.servicer import SynthesisServicer
        from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc
        from xtts_grpc.voices import VoiceStore

        self._settings = settings
        self._serving = serving
        self._names = ("", SERVICE_NAME)
        self._health = _Health()
        self._told: dict[str, bool] = {}
        self._metrics = Metrics()
        self._report_health(serving=False, refused=False)
        voices = VoiceStore(voices_dir, settings.voices, settings.limits.max_voices)
        self._store = ModelStore(
            settings.engine,
            settings.reload,
            voices,
            on_change=lambda serving, refused: self._report_health(
                serving=serving, refused=refused
            ),
            load_engine=load_engine or Engine.load,
        )
        self._follower = (
            ReleaseFollower(self._store, serving, settings.reload.poll_s)
            if isinstance(serving, Path)
            else None
        )
        self._server = grpc.server(
            ThreadPoolExecutor(
                settings.server.max_concurrent_calls
                + settings.server.max_waiting_calls
                + _SPARE_THREADS,
                thread_name_prefix="call",
            ),
            options=[
                ("grpc.max_receive_message_length", settings.server.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Else a second service could take half of this one's calls.
                ("grpc.so_reuseport", 0),
            ],
            interceptors=[
                MeasuredCalls(self._metrics),
                *([Tokens(token_file)] if token_file else []),
            ],
        )
        cast(Any, pb_grpc).add_SynthesisServiceServicer_to_server(
            SynthesisServicer(self._store, voices, settings, self._follower, self._metrics),
            self._server,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.address = self._listen(address, tls)
        self._stop_metrics = self._metrics.serve(metrics_address) if metrics_address else None

    def start(self) -> None:
        """Answer calls, and bring up the model.

        With a serving.json to follow the model comes up in the background.

        Raises:
            ReleaseError: the one fixed checkpoint cannot be served.
        """
        self._server.start()
        log.info("listening on %s", self.address)
        if self._follower is not None:
            self._follower.start()
        elif not isinstance(self._serving, Path):
            self._store.install(self._serving)

    def stop(self) -> None:
        """Refuse new calls, let those in flight end within `server.drain_s`, free the model."""
        self._health.enter_graceful_shutdown()
        if self._follower is not None:
            self._follower.stop()
        drained = self._server.stop(self._settings.server.drain_s)
        log.info("stopping: new calls are refused")
        self._health.end_watches()
        drained.wait()
        if self._follower is not None:
            self._follower.join()
        self._store.close()
        if self._stop_metrics is not None:
            self._stop_metrics()

    def _listen(self, address: str, tls: Tls | None) -> str:
        host, _, _ = address.rpartition(":")
        credentials = tls.credentials() if tls else None
        try:
            if credentials:
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise SettingsError(
                f"The address {address} cannot be listened on"
                + (", or the certificate and its key cannot be used" if credentials else ""),
                where="XTTS_GRPC_ADDRESS",
                remedy="End the program that has it, or take another address",
            ) from error
        return f"{host}:{port}"

    def _report_health(self, *, serving: bool, refused: bool) -> None:
        states = {**dict.fromkeys(self._names, serving), RELOAD_HEALTH: not refused}
        for name, good in states.items():
            if self._told.get(name) != good:
                self._told[name] = good
                self._health.set(name, _health(good))
        self._metrics.model(serving=serving, refused=refused)


class _Health(health.HealthServicer):  # type: ignore[misc]
    """Health whose watches end with the service: it would wait for them as for any call."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=False, experimental_thread_pool=_WATCHES)
        self._changing = threading.Lock()
        self._watches: set[SimpleQueue[health_pb2.HealthCheckResponse | None]] = set()
        self._ended = False

    def Watch(  # noqa: N802 (the name is the protocol's)
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Any = None,
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        states: SimpleQueue[health_pb2.HealthCheckResponse | None] = SimpleQueue()
        super().Watch(request, context, states.put)
        with self._changing:
            self._watches.add(states)
            if self._ended:
                states.put(None)
        if not context.add_callback(lambda: self._forget(states)):
            self._forget(states)
        return iter(states.get, None)

    def end_watches(self) -> None:
        """End the streams of all that watch."""
        with self._changing:
            self._ended = True
            for states in self._watches:
                states.put(None)

    def _forget(self, states: SimpleQueue[health_pb2.HealthCheckResponse | None]) -> None:
        with self._changing:
            self._watches.discard(states)


def choose_serving(environment: Environment, *, strict: bool) -> Path | Checkpoint:
    """The serving.json to follow, or the one checkpoint that `XTTS_CUSTOM_CHECKPOINT` asks for.

    Where that directory does not exist the base model takes its place, unless `strict`.

    Raises:
        ReleaseError: the directory does not exist, and `strict`.
    """
    from xtts_core.errors import ReleaseError
    from xtts_core.store import CorpusStore
    from xtts_grpc.model_store import Checkpoint

    custom = environment.custom_checkpoint
    if custom is None:
        return environment.serving_uri
    if custom.is_dir():
        return Checkpoint(custom, "custom-checkpoint")
    missing = ReleaseError(
        "The custom checkpoint does not exist",
        where=str(custom),
        remedy="Set XTTS_CUSTOM_CHECKPOINT to a checkpoint directory, or unset it",
    )
    if strict:
        raise missing
    log.error("%s. The base model serves in its place", missing)
    base = environment.base_model_name()
    directory = CorpusStore(environment.corpus_root).base_model(base)
    return Checkpoint(directory, "base-model", fallback_reason=str(missing))


def serve(
    address: Annotated[
        str | None,
        typer.Option(
            help="host:port to listen on; port 0 takes a free one. Default: XTTS_GRPC_ADDRESS."
        ),
    ] = None,
    config_dir: Annotated[
        Path | None,
        typer.Option(help="The folder of service.yaml. Default: XTTS_CONFIG_DIR."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse to start where XTTS_CUSTOM_CHECKPOINT does not exist, instead of "
            "serving the base model.",
        ),
    ] = False,
    end_with_stdin: Annotated[
        bool,
        typer.Option(
            "--end-with-stdin",
            help="Stop when standard input closes, which the kernel does when the program that "
            "started this one dies.",
        ),
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="The least that is logged.")] = LogLevel.INFO,
) -> None:
    """Serve the release that serving.json names (XTTS_SERVING_URI), and every later one.

    Until there is one, calls are refused with FAILED_PRECONDITION and health says NOT_SERVING.
    SIGTERM or Ctrl-C lets the calls in flight end (server.drain_s) and stops.
    """
    logs.set_up(log_level.upper(), "text")
    try:
        environment = _environment(config_dir)
        settings = environment.service()
        logs.set_up(log_level.upper(), settings.logging.format)
        _run(environment, settings, address, strict=strict, end_with_stdin=end_with_stdin)
    except XttsError as error:
        log.error("%s", error)
        raise typer.Exit(1) from error


def main() -> None:
    """The program `xtts-serve`."""
    typer.run(serve)


def _run(
    environment: Environment,
    settings: ServiceSettings,
    address: str | None,
    *,
    strict: bool,
    end_with_stdin: bool,
) -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if end_with_stdin:
        threading.Thread(target=_follow_stdin, args=(stopping,), daemon=True).start()
    service = Service(
        settings,
        address or environment.grpc_address,
        environment.voices_dir,
        choose_serving(environment, strict=strict),
        tls=Tls.chosen(environment.tls_cert, environment.tls_key, environment.tls_client_ca),
        token_file=environment.token_file,
        metrics_address=environment.metrics_address,
        load_engine=load_engine,
    )
    try:
        service.start()
        stopping.wait()
    finally:
        service.stop()
    log.info("stopped")


def load_engine(directory: Path, settings: EngineSettings) -> Engine:
    """`Engine.load` for a process that does nothing else."""
    from xtts_core.model.engine import Engine
    from xtts_grpc.background import spare_libraries

    spare_libraries()
    return Engine.load(directory, settings)


def _follow_stdin(stopping: threading.Event) -> None:
    # Where it was closed from the start, its reader has gone already.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    stopping.set()


def _environment(config_dir: Path | None) -> Environment:
    environment = Environment.load()
    return replace(environment, config_dir=config_dir) if config_dir else environment


def _health(good: bool) -> health_pb2.HealthCheckResponse.ServingStatus:
    status = health_pb2.HealthCheckResponse
    return status.SERVING if good else status.NOT_SERVING


if __name__ == "__main__":
    main()
