"""deploy/Dockerfile and the locks that its images install, as far as they can be proved without
a Docker engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

Stages = dict[str, list[tuple[str, str]]]


def copied_from_the_project(stages: Stages, stage: str) -> list[str]:
    return [
        source
        for instruction, rest in stages[stage]
        if instruction == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]


def locked(path: Path) -> dict[str, str]:
    lines = re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE)
    return dict(lines)


def test_the_builder_gets_all_that_the_images_copy_and_nothing_else(
    project: Path, dockerfile: Stages
) -> None:
    rules = (project / ".dockerignore").read_text().splitlines()
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = {
        source for stage in dockerfile for source in copied_from_the_project(dockerfile, stage)
    }
    assert all((project / source).exists() for source in sources)
    assert let_in == {Path(source).parts[0] for source in sources}
    assert "*" in rules
    assert "**/.env" in rules


def test_the_wheel_builds_from_what_its_stage_copies(
    project: Path, dockerfile: Stages, tmp_path: Path
) -> None:
    for source in copied_from_the_project(dockerfile, "wheel"):
        if (project / source).is_dir():
            shutil.copytree(
                project / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(project / source, tmp_path / source)
    command = "pip wheel --no-deps --no-build-isolation --wheel-dir /dist ."
    assert ("RUN", command) in dockerfile["wheel"]
    subprocess.run(
        [sys.executable, "-m", *command.replace("/dist", "dist").split()],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    [wheel] = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        [scripts] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "xtts-serve = xtts_grpc.serve:main" in archive.read(scripts).decode()
    kept = {
        path.relative_to(tmp_path).as_posix()
        for package in ("xtts_core", "xtts_assets", "xtts_grpc")
        for path in (tmp_path / package).rglob("*")
        if path.is_file()
    }
    assert packed == kept


@pytest.mark.parametrize("image", ["pipeline", "serve"])
def test_an_image_runs_as_a_user_without_rights(dockerfile: Stages, image: str) -> None:
    instructions = [instruction for instruction, _ in dockerfile[image]]
    assert ("USER", "xtts") in dockerfile[image]
    assert "RUN" not in instructions[instructions.index("USER") :]


def test_the_service_starts_with_a_program_of_the_project(
    project: Path, dockerfile: Stages
) -> None:
    [command] = [rest for instruction, rest in dockerfile["serve"] if instruction == "CMD"]
    scripts = tomllib.loads((project / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(command)[0] in scripts


def test_the_service_is_installed_from_its_own_lock_without_dagster_and_pandas(
    project: Path, dockerfile: Stages
) -> None:
    assert "requirements.lock" not in copied_from_the_project(dockerfile, "serve")
    names = locked(project / "requirements-serve.lock")
    assert "grpcio" in names
    assert not [name for name in names if name.startswith(("dagster", "pandas"))]


def test_the_service_runs_on_the_versions_that_the_tests_ran_on(project: Path) -> None:
    every = locked(project / "requirements.lock")
    served = locked(project / "requirements-serve.lock")
    assert served
    assert {name: every.get(name) for name in served} == served


@pytest.fixture
def health_server() -> Iterator[tuple[health.HealthServicer, str]]:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def healthcheck(dockerfile: Stages, deploy: Path, address: str) -> tuple[int, str]:
    """The HEALTHCHECK of the serve image, asking `address`."""
    [line] = [rest for instruction, rest in dockerfile["serve"] if instruction == "HEALTHCHECK"]
    python, script, _ = json.loads(line.partition("CMD ")[2])
    assert (python, Path(script).name) == ("python", "healthcheck.py")
    answer = subprocess.run(
        [sys.executable, deploy / "healthcheck.py", address],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout.strip()


@pytest.mark.parametrize(("state", "code"), [("SERVING", 0), ("NOT_SERVING", 1)])
def test_the_healthcheck_tells_whether_a_model_serves(
    dockerfile: Stages,
    deploy: Path,
    health_server: tuple[health.HealthServicer, str],
    state: str,
    code: int,
) -> None:
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(state))
    assert healthcheck(dockerfile, deploy, address) == (code, state)


def test_the_healthcheck_fails_where_nobody_listens(
    dockerfile: Stages, deploy: Path, free_port: Callable[[], int]
) -> None:
    assert healthcheck(dockerfile, deploy, f"127.0.0.1:{free_port()}") == (1, "UNAVAILABLE")
