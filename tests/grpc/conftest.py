"""A service over a real channel, releases to publish, and two engines to serve them with."""

from __future__ import annotations

import io
import logging
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
import soundfile
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from xtts_core.errors import ModelError, RequestError
from xtts_core.model.base import make_base_model
from xtts_core.model.checkpoint import (
    Manifest,
    Origin,
    describe_files,
    verify,
    version_of,
    write_checkpoint,
    write_manifest,
)
from xtts_core.model.engine import Delivery, Engine, Latents
from xtts_core.model.loading import load_model, model_state
from xtts_core.model.sampling import Sampling
from xtts_core.settings import (
    BaseModelSettings,
    EngineSettings,
    ServiceSettings,
    TrainingSettings,
)
from xtts_core.store import CorpusStore, read_json, sha256_file, write_json
from xtts_core.text import split_sentences
from xtts_grpc.client import Encoding, Speech, SynthesisClient
from xtts_grpc.security import Tls
from xtts_grpc.serve import Service

ROOT = Path(__file__).parents[2]
SERVICE_NAME = "xtts.v1.SynthesisService"


class SineEngine:
    """Speaks a sine tone.

    It stands where a model would cost seconds and would say nothing more about the service: the
    tone's frequency is the checkpoint's (so a listener hears which one spoke), its loudness the
    voice's, its length the text's. It checks that it is never used once it is closed.

    Attributes:
        delivered: what it tells of every text.
        asked: the sampling settings of each text.
        left: released for each text that its caller did not wait for.
    """

    sample_rate_hz = 24_000
    chunk_samples = 4_000
    character_samples = 1_000

    def __init__(self, directory: Path, gate: Gate) -> None:
        verify(directory)
        tone = read_json(directory / "tone.json")
        if "hz" not in tone:
            raise ModelError("The tone has no frequency", where=str(directory))
        self.version = version_of(directory)
        self.languages = ("pt", "en", "zh-cn")
        self.hz = float(tone["hz"])
        self.mute = bool(tone.get("mute"))
        self.delivered = Delivery()
        self.asked: list[Sampling] = []
        self.left = threading.Semaphore(0)
        self.closed = False
        self._voices = {p.name: sorted(p.glob("*.wav")) for p in directory.glob("voices/*")}
        self._gate = gate
        gate.engines.append(self)

    def voices(self) -> dict[str, list[Path]]:
        return self._voices

    def latents(
        self, references: list[np.ndarray], *, check: Callable[[], None] = lambda: None
    ) -> Latents:
        assert not self.closed
        self._gate.heard.append(len(references))
        loudness = float(np.sqrt(np.mean(np.square(np.concatenate(references)))))
        return Latents(torch.zeros(1, 32, 8), torch.full((1, 512, 1), loudness))

    def sentences(self, text: str, language: str) -> list[str]:
        sentences = split_sentences(text, language, 203) if language != "zh-cn" else [text]
        if not sentences:
            raise RequestError("There is no text to speak", where="text")
        return sentences

    def synthesize(self, *asked: Any, **how: Any) -> np.ndarray:
        return np.concatenate(list(self.stream(*asked, **how)))

    def stream(
        self,
        text: str,
        language: str,
        latents: Latents,
        sampling: Any,
        chunks: Any = None,
        *,
        check: Callable[[], None] = lambda: None,
        delivery: Any = None,
    ) -> Iterator[np.ndarray]:
        if delivery is not None:
            delivery.cut, delivery.retried = self.delivered.cut, self.delivered.retried
        self.asked.append(sampling)
        samples = 0 if self.mute else int(len(text) * self.character_samples / sampling.speed)
        phase = 2 * np.pi * self.hz * np.arange(samples) / self.sample_rate_hz + sampling.seed
        tone = (float(latents.speaker[0, 0, 0]) * np.sin(phase)).astype(np.float32)
        try:
            for start in range(0, max(samples, 1), self.chunk_samples):
                assert not self.closed
                yield tone[start : start + self.chunk_samples]
                self._gate.pass_through(self, check)
                check()
        except BaseException:
            self.left.release()
            raise

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Gate:
    """Holds calls inside the engines that are loaded when it is shut, and knows every engine that
    was loaded, and how many references each time that latents were computed.

    `before_load` is called with each directory before it is loaded.
    """

    def __init__(self, before_load: Callable[[Path], None] | None = None) -> None:
        self._before_load = before_load
        self.engines: list[SineEngine] = []
        self.heard: list[int] = []
        self.reached = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()
        self._held: tuple[SineEngine, ...] = ()

    def load(self, directory: Path, settings: EngineSettings) -> SineEngine:
        if self._before_load is not None:
            self._before_load(directory)
        return SineEngine(directory, self)

    def shut(self) -> None:
        self._held = tuple(self.engines)
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait_for_call(self) -> None:
        assert self.reached.acquire(timeout=30)

    def pass_through(self, engine: SineEngine, check: Callable[[], None]) -> None:
        if engine in self._held and not self._open.is_set():
            self.reached.release()
            while not self._open.wait(0.005):
                check()


class Releases:
    """Publishes releases below a folder as the pipeline does: the folder first, the pointer last.

    A release's model says its number: its tone has 200 Hz and 100 Hz more for each release.
    """

    def __init__(self, root: Path, reference: np.ndarray) -> None:
        self.root = root
        self.serving = root / "serving.json"
        self._reference = reference

    def hz(self, release: int) -> float:
        return 200.0 + 100.0 * release

    def make(self, directory: Path, tone: dict[str, Any]) -> str:
        """A complete checkpoint folder; its manifest's SHA-256."""
        voice = directory / "voices" / "dora"
        voice.mkdir(parents=True)
        soundfile.write(voice / "clip.wav", self._reference, 22_050, subtype="PCM_16")
        write_json(directory / "tone.json", tone)
        origin = Origin(name="sine", source="made by a test", revision="1")
        manifest = Manifest(
            kind="base", licence="Apache-2.0", base_model=origin, files=describe_files(directory)
        )
        return write_manifest(directory, manifest)

    def publish(self, release: int, *, tone: dict[str, Any] | None = None) -> str:
        """Publish a whole release; its version."""
        directory = self.root / "releases" / str(release)
        sha256 = self.make(directory, tone or {"hz": self.hz(release)})
        self.point(release, sha256)
        return version_of(directory)

    def publish_damaged(self, release: int) -> None:
        """Publish a release of which one file changed after its hash was taken."""
        directory = self.root / "releases" / str(release)
        sha256 = self.make(directory, {"hz": self.hz(release)})
        write_json(directory / "tone.json", {"hz": self.hz(release) + 1})
        self.point(release, sha256)

    def point(self, release: int, sha256: str, path: str | None = None) -> None:
        write_json(
            self.serving,
            {
                "release": release,
                "path": path or f"releases/{release}",
                "manifest_sha256": sha256,
                "created_at": "2026-11-22T00:00:00+00:00",
            },
        )


class Health:
    """Waits for what `grpc.health.v1` says, through its Watch."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = health_pb2_grpc.HealthStub(self._channel)

    def status(self, service: str = SERVICE_NAME) -> str:
        answer = self._stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def wait_for(self, wanted: str, service: str = SERVICE_NAME) -> None:
        request = health_pb2.HealthCheckRequest(service=service)
        call = self._stub.Watch(request, timeout=60, wait_for_ready=True)
        for answer in call:
            if health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == wanted:
                call.cancel()
                return
        raise AssertionError(f"health never said {wanted}")

    def close(self) -> None:
        self._channel.close()


class Running:
    """A started service with all that a test needs to use and watch it.

    Its engines are sine engines, unless it was given others.
    """

    def __init__(self, service: Service, releases: Releases, gate: Gate) -> None:
        self.service = service
        self.releases = releases
        self.gate = gate
        self.address = service.address
        self.client = SynthesisClient(service.address, timeout_s=60)
        self.health = Health(service.address)

    def say(self, voice_id: str = "dora") -> Speech:
        """A short text in PCM16, the same for the same voice and model."""
        return self.client.synthesize(
            "Bom dia, tudo bem?", voice_id=voice_id, encoding=Encoding.PCM16, seed=1
        )

    def close(self) -> None:
        self.gate.open()
        self.client.close()
        self.health.close()
        self.service.stop()


class Lines(logging.Handler):
    """What was logged, a line each; the last line of a call can be waited for."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.written: list[str] = []
        self._calls: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        self.written.append(line)
        if record.name == "xtts_grpc.calls":
            self._calls.put(line)

    def next_call(self) -> str:
        return self._calls.get(timeout=30)


@pytest.fixture
def logged() -> Iterator[Callable[[logging.Formatter], Lines]]:
    """Collects what is logged from a moment on, in the lines of a formatter."""
    root = logging.getLogger()
    with ExitStack() as stack:

        def log_with(formatter: logging.Formatter) -> Lines:
            lines = Lines(formatter)
            root.addHandler(lines)
            stack.callback(root.removeHandler, lines)
            stack.callback(root.setLevel, root.level)
            root.setLevel(logging.DEBUG)
            return lines

        yield log_with


def service_settings(**sections: dict[str, Any]) -> ServiceSettings:
    """The defaults, with serving.json polled fast and the given sections changed."""
    values: dict[str, Any] = {"reload": {"poll_s": 0.02}, "server": {"drain_s": 10.0}}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return ServiceSettings.model_validate(values)


@pytest.fixture(scope="session")
def recording() -> np.ndarray:
    """The first 8 s of a pt-BR speaker, mono float32 at 22 050 Hz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=22_050)
    with av.open(str(ROOT / "examples/demo/cidade-alex.webm")) as container:
        frames = [
            part.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for part in resampler.resample(frame)
        ]
    return np.concatenate(frames)[: 8 * 22_050]


@pytest.fixture(scope="session")
def audio_file(recording: np.ndarray) -> Callable[..., bytes]:
    """Makes the bytes of an audio file: the recording's first `seconds`, or other samples."""

    def make(
        seconds: float = 5.0,
        *,
        samples: np.ndarray | None = None,
        rate_hz: int = 22_050,
        form: str = "WAV",
        subtype: str = "PCM_16",
    ) -> bytes:
        audio = recording[: int(seconds * rate_hz)] if samples is None else samples
        file = io.BytesIO()
        soundfile.write(file, audio, rate_hz, format=form, subtype=subtype)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def pitch_hz() -> Callable[..., float]:
    """The strongest frequency in samples, or in the bytes of PCM16."""

    def strongest(audio: bytes | np.ndarray, rate_hz: int = 24_000) -> float:
        samples = np.frombuffer(audio, "<i2") if isinstance(audio, bytes) else audio
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        return float(np.argmax(spectrum)) * rate_hz / len(samples)

    return strongest


@pytest.fixture
def releases(tmp_path: Path, recording: np.ndarray) -> Releases:
    return Releases(tmp_path / "corpus", recording[: 4 * 22_050])


@pytest.fixture
def start(tmp_path: Path, releases: Releases) -> Iterator[Callable[..., Running]]:
    """Starts services; every one is stopped at the end of the test."""
    with ExitStack() as stack:

        def start_one(
            serving: Any = None,
            tls: Tls | None = None,
            token_file: Path | None = None,
            metrics_address: str | None = None,
            load_engine: Any = None,
            before_load: Callable[[Path], None] | None = None,
            **sections: dict[str, Any],
        ) -> Running:
            gate = Gate(before_load)
            service = Service(
                service_settings(**sections),
                "127.0.0.1:0",
                tmp_path / "voices",
                serving or releases.serving,
                tls=tls,
                token_file=token_file,
                metrics_address=metrics_address,
                load_engine=load_engine or gate.load,
            )
            service.start()
            running = Running(service, releases, gate)
            stack.callback(running.close)
            return running

        yield start_one


@pytest.fixture
def running(start: Callable[..., Running], releases: Releases) -> Running:
    """A service that serves release 1."""
    releases.publish(1)
    service = start()
    service.health.wait_for("SERVING")
    return service


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory, recording: np.ndarray) -> CorpusStore:
    """A corpus root with the base model `tiny`, and two releases made of it, not published yet."""
    root = tmp_path_factory.mktemp("tiny-corpus")
    store = CorpusStore(root)
    settings = TrainingSettings(base_model=BaseModelSettings(name="tiny"))
    make_base_model(store, settings)
    clip = root / "clip.wav"
    soundfile.write(clip, recording, 22_050, subtype="PCM_16")
    state = model_state(load_model(store.base_model("tiny")))
    for release in (1, 2):
        write_checkpoint(
            store.releases_dir / str(release),
            base_dir=store.base_model("tiny"),
            state=state,
            adapter_dir=None,
            voices={"alex": [clip]},
            settings={},
            lineage={},
            metrics={},
            licence="Apache-2.0",
            created_at=datetime(2026, 11, release, tzinfo=UTC),
        )
    return store


@pytest.fixture
def publish_tiny(tiny_corpus: CorpusStore) -> Iterator[Callable[[int], str]]:
    """Publishes one of the two releases; its version."""
    serving = tiny_corpus.root / "serving.json"

    def publish(release: int) -> str:
        [directory] = (tiny_corpus.releases_dir / str(release)).iterdir()
        pointer = {
            "release": release,
            "path": tiny_corpus.relative(directory),
            "manifest_sha256": sha256_file(directory / "manifest.json"),
            "created_at": "2026-11-22T00:00:00+00:00",
        }
        write_json(serving, pointer)
        return directory.name

    yield publish
    serving.unlink()


@pytest.fixture
def tiny_service(
    start: Callable[..., Running], tiny_corpus: CorpusStore, publish_tiny: Callable[[int], str]
) -> Running:
    """A service that serves release 1 of `tiny` with the real engine."""
    publish_tiny(1)
    service = start(tiny_corpus.root / "serving.json", load_engine=Engine.load)
    service.health.wait_for("SERVING")
    return service


class Process:
    """A real `xtts-serve` process on a free port."""

    def __init__(self, environment: dict[str, str], *options: str) -> None:
        outside = {k: v for k, v in os.environ.items() if not k.startswith("XTTS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xtts_grpc.serve", "--address", "127.0.0.1:0", *options],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**outside, **environment},
        )
        self.lines: list[str] = []

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """The first line of its log, from here on, that matches."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line matches {pattern!r}:\n{''.join(self.lines)}")

    def finish(self) -> int:
        """Wait for its end; its exit code."""
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)
        return self.process.wait(60)

    @property
    def log(self) -> str:
        return "".join(self.lines)


@pytest.fixture(scope="module")
def serve_process() -> Iterator[Callable[..., Process]]:
    """Starts `xtts-serve` processes; those still running at the end of the module are killed."""
    with ExitStack() as stack:

        def start_one(environment: dict[str, str], *options: str) -> Process:
            process = Process(environment, *options)
            stack.callback(process.process.wait)
            stack.callback(process.process.kill)
            return process

        yield start_one
