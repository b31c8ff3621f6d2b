"""The whole platform, as programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from watchfiles import watch

PAGE = """<!doctype html><title>A feira de domingo</title>
<video src="feira.webm"><track kind="subtitles" srclang="pt-BR" src="feira.vtt"></video>"""

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def command(program: str) -> str:
    """The program of this environment, or else of the system."""
    return str(BIN / program) if (BIN / program).exists() else program


@dataclass
class Programs:
    """Starts the installed programs with one environment, and ends them all."""

    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(
        self, program: str, *arguments: str | Path, extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, with `extra` variables."""
        return subprocess.run(
            [command(program), *arguments],
            env={**os.environ, **self.environment, **(extra or {})},
            capture_output=True,
            text=True,
            check=False,
        )

    def demo(self, output: Path) -> subprocess.CompletedProcess[str]:
        """`make demo`, as the README has it, into another folder."""
        return self.run("make", "-C", ROOT, "demo", f"OUTPUT={output}")

    def start(self, program: str, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program in a process group of its own."""
        process = subprocess.Popen(
            [command(program), *arguments],
            env={**os.environ, **self.environment},
            text=True,
            start_new_session=True,
            **options,
        )
        self.started.append(process)
        return process

    def wait_for(self, folder: Path, holds: Callable[[], bool], *, within_s: float) -> None:
        """Wait until something holds of the files below a folder, looking after each change."""
        deadline = time.monotonic() + within_s
        folder.mkdir(parents=True, exist_ok=True)
        looks = watch(
            folder,
            rust_timeout=500,
            yield_on_timeout=True,
            watch_filter=None,
            # Any signal counts as one, also that of a test whose time is over.
            raise_interrupt=False,
        )
        for _ in looks:
            if holds():
                return
            if time.monotonic() > deadline:
                pytest.fail(f"not seen below {folder} within {within_s:g} s")
        pytest.fail(f"the wait for {folder} was interrupted")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """`kill -9` of the program and of all that it started."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                self.kill(process)


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """The programs, with none of the caller's settings."""
    unset = {name: "" for name in os.environ if name.startswith("XTTS_")}
    found = Programs({**unset, "DAGSTER_HOME": "", "COLUMNS": "200"})
    yield found
    found.end()


@pytest.fixture(scope="session")
def finished_demo(
    programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A demo that ran to its end: its folder and what it printed."""
    output = tmp_path_factory.mktemp("demo") / "out put"
    result = programs.demo(output)
    assert result.returncode == 0, result.stdout + result.stderr
    return output, result


class Site(SimpleHTTPRequestHandler):
    """A page with a video and its subtitles, as yt-dlp's generic extractor takes it."""

    requests: list[str]

    def do_GET(self) -> None:
        type(self).requests.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="session")
def site(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "watch.html").write_text(PAGE)
    shutil.copy(demo / "feira-dora.webm", folder / "feira.webm")
    shutil.copy(demo / "feira-dora.pt-BR.vtt", folder / "feira.vtt")
    handler = type("RecordingSite", (Site,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/watch.html", handler.requests
    server.shutdown()
