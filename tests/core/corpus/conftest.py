"""Real recordings with known truth, a corpus made from them once, and a web server."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pytest

from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.corpus.segments import make_segments
from xtts_core.corpus.videos import make_video
from xtts_core.settings import DatasetSettings
from xtts_core.store import CorpusStore

DEMO = Path(__file__).parents[3] / "examples/demo"
PAGE = """<html><head><title>Feira</title></head><body>
<video><source src="/feira-dora.webm" type="video/webm">
<track kind="subtitles" srclang="pt-BR" src="/feira-dora.pt-BR.vtt"></video></body></html>"""


@pytest.fixture(scope="session")
def demo() -> Path:
    return DEMO


@pytest.fixture(scope="session")
def truth() -> dict[str, list[tuple[float, float]]]:
    """Per video the spoken sentences as (start, end) in seconds."""
    return {
        name: [
            (sentence["start"], sentence["end"])
            for sentence in json.loads((DEMO / f"{name}.truth.json").read_text())["speech"]
        ]
        for name in ("feira-dora", "cidade-alex")
    }


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusStore:
    """The two demo videos through videos, raw_audio and segments. Tests only read it."""
    store = CorpusStore(tmp_path_factory.mktemp("corpus"))
    settings = DatasetSettings()
    for video_id in ("feira-dora", "cidade-alex"):
        make_video(store, settings, DEMO / "videos.csv", video_id)
        make_raw_audio(store, settings, video_id)
        make_segments(store, settings, video_id)
    return store


@pytest.fixture(scope="session")
def retimed() -> Callable[..., Path]:
    """Copies a recording's sound with other times."""

    def write(
        source: Path, target: Path, at_s: float, *, lost_s: float = 0, jump_s: float = 0
    ) -> Path:
        """Without the packets of `lost_s` from `at_s` on; the clock jumps ahead then."""
        with av.open(str(source)) as old, av.open(str(target), "w") as new:
            stream = new.add_stream_from_template(old.streams.audio[0])
            for packet in old.demux(old.streams.audio[0]):
                if packet.pts is None:
                    continue
                time_s = float(packet.pts * packet.time_base)
                if at_s <= time_s < at_s + lost_s:
                    continue
                if time_s >= at_s:
                    packet.pts += round(jump_s / packet.time_base)
                    packet.dts = packet.pts
                packet.stream = stream
                new.mux(packet)
        return target

    return write


Reply = tuple[int, dict[str, str], str]
"""An answer with headers of its own: status, headers, text."""


@dataclass
class Site:
    """A web site: `pages` maps a path to its text, an HTTP error or a `Reply`, `media` to the
    content of a WebM file, `first` to replies that are given once, before all else; `asked` is its
    log."""

    address: str
    pages: dict[str, str | int | Reply] = field(default_factory=dict)
    first: dict[str, list[Reply]] = field(default_factory=dict)
    media: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)
    fail_after: int | None = None
    """Media connections break after so many bytes until this is None again."""
    failures: int | None = None
    """So many times (None: every time)."""


@pytest.fixture
def site() -> Iterator[Site]:
    """Serves the demo folder (with byte ranges) and whatever a test puts into `pages`."""
    here = Site("", {"/watch": PAGE})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append(self.path)
            here.cookies.append(self.headers.get("Cookie", ""))
            page = here.pages.get(self.path)
            if here.first.get(self.path):
                page = here.first[self.path].pop(0)
            file = DEMO / self.path[1:]
            if isinstance(page, int):
                self.send_error(page)
            elif isinstance(page, tuple):
                status, headers, text = page
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())
            elif isinstance(page, str):
                self._send(page.encode(), "text/html")
            elif self.path in here.media:
                self._send(here.media[self.path], "video/webm")
            elif file.is_file():
                self._send(file.read_bytes(), _TYPES[file.suffix])
            else:
                self.send_error(404)

        def _send(self, body: bytes, kind: str) -> None:
            first = 0
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked:
                first = int(asked[1])
                here.ranges.append(self.headers["Range"])
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            breaks = here.fail_after if kind == "video/webm" and here.failures != 0 else None
            if breaks is not None and here.failures is not None:
                here.failures -= 1
            self.wfile.write(body[first:][:breaks])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield here
    server.shutdown()
    server.server_close()
    thread.join()


_TYPES = {".webm": "video/webm", ".vtt": "text/vtt", ".json": "application/json"}
