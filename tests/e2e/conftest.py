"""The whole platform, as programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from watchfiles import watch

BIN = Path(sys.executable).parent


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
            [BIN / program, *arguments],
            env={**os.environ, **self.environment, **(extra or {})},
            capture_output=True,
            text=True,
            check=False,
        )

    def demo(self, output: Path) -> subprocess.CompletedProcess[str]:
        return self.run("xtts", "demo", "--output", output)

    def start(self, program: str, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program in a process group of its own."""
        process = subprocess.Popen(
            [BIN / program, *arguments],
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
        for _ in watch(folder, rust_timeout=500, yield_on_timeout=True, watch_filter=None):
            if holds():
                return
            if time.monotonic() > deadline:
                pytest.fail(f"not seen below {folder} within {within_s:g} s")

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
    found = Programs({**unset, "DAGSTER_HOME": "", "OMP_NUM_THREADS": "2", "COLUMNS": "200"})
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
