"""What every test shares."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
TOGETHER = {
    "tests/e2e": {"test_dagster_dev.py", "test_demo.py", "test_long_runs.py"},
    "tests/core/evaluation": {"test_evaluation_samples.py", "test_release.py", "test_scorecard.py"},
    "tests/grpc": {"test_latents_cache.py", "test_model_store.py", "test_serve_program.py"},
}
"""Files of a folder whose tests look at one thing that takes long to make: a finished demo, a
checkpoint that was trained and evaluated, releases of `tiny`."""


class FilesTogether(LoadScopeScheduling):
    """Where tests run at one time, a file stays together, and so do those of `TOGETHER`.

    xdist's own groups (3.8) do not reach pytest's node ids any more (9.2).
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        folder, _, name = path.rpartition("/")
        return folder if name in TOGETHER.get(folder, ()) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether:
    """How tests are spread over processes."""
    return FilesTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The end-to-end tests come first: the last ones should be short. The first of them makes the
    demo, and may take longer than others."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)
    for item in items:
        if "e2e" in item.path.parts and not item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(900), append=False)


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def demo() -> Path:
    """The two demo videos with their truth."""
    return ROOT / "examples" / "demo"


@pytest.fixture(scope="session")
def missing_system_package() -> Callable[[str], NoReturn]:
    """Leaves a test out because a system package is missing, or fails it where CI says that all
    of them have to be there."""

    def missing(package: str) -> NoReturn:
        message = f"{package} is not installed (apt-get install {package})"
        if os.environ.get("XTTS_REQUIRE_SYSTEM_TESTS") == "1":
            pytest.fail(message)
        pytest.skip(message)

    return missing


@pytest.fixture(scope="session")
def ffmpeg(missing_system_package: Callable[[str], NoReturn]) -> None:
    """FFmpeg is on the machine: torchcodec, by which coqui-tts and `datasets` read audio, loads its
    libraries."""
    if not shutil.which("ffmpeg"):
        missing_system_package("ffmpeg")


@pytest.fixture(scope="session")
def chromium(missing_system_package: Callable[[str], NoReturn]) -> str:
    """The path of a Chromium that is on the machine."""
    for name in ("chromium", "google-chrome", "chromium-browser"):
        if path := shutil.which(name):
            return path
    return missing_system_package("chromium")


Begun = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture(scope="session")
def begun() -> Begun:
    """Runs Python code with arguments in a process of its own, up to where it prints `begun` and
    reads its standard input."""

    @contextmanager
    def run(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process

    return run


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the documented defaults, whatever the shell has set."""
    for name in list(os.environ):
        if name.startswith("XTTS_") and name != "XTTS_REQUIRE_SYSTEM_TESTS":
            monkeypatch.delenv(name)
