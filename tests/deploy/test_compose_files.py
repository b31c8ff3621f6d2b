"""compose.yaml and what has to agree with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from xtts_core.settings import ServiceSettings, load_settings


def test_every_built_image_is_a_stage_of_the_dockerfile(
    compose: Mapping[str, Any], dockerfile: Mapping[str, Any], deploy: Path
) -> None:
    builds = [service["build"] for service in compose["services"].values() if "build" in service]
    assert {build["target"] for build in builds} == {"pipeline", "serve"} <= set(dockerfile)
    for build in builds:
        assert (deploy / build["context"] / build["dockerfile"]).is_file()


def test_every_variable_is_documented(deploy: Path) -> None:
    used = {
        name
        for file in deploy.glob("compose*.yaml")
        for name in re.findall(r"\$\{([A-Z_]+)", file.read_text())
    }
    documented = re.findall(r"^([A-Z_]+)=", (deploy / ".env.example").read_text(), re.MULTILINE)
    assert used == set(documented)


def test_the_database_password_has_no_default(compose: Mapping[str, Any]) -> None:
    passwords = {
        value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if name.endswith("PASSWORD")
    }
    assert [password.partition(":?")[0] for password in passwords] == [
        "${DAGSTER_POSTGRES_PASSWORD"
    ]


def test_the_containers_get_every_variable_that_dagster_yaml_reads(
    compose: Mapping[str, Any], deploy: Path
) -> None:
    wanted = set(re.findall(r"env: (\w+)", (deploy / "dagster.yaml").read_text()))
    assert wanted
    for name in ("migrate", "code", "webserver", "daemon"):
        assert wanted <= set(compose["services"][name]["environment"])


@pytest.mark.parametrize("section", ["concurrency", "run_monitoring", "run_retries", "telemetry"])
def test_containers_and_one_machine_share_their_limits(
    project: Path, deploy: Path, section: str
) -> None:
    local = yaml.safe_load((project / "dagster.yaml").read_text())
    deployed = yaml.safe_load((deploy / "dagster.yaml").read_text())
    assert deployed[section] == local[section]


def test_the_workspace_names_the_code_server_of_compose(
    compose: Mapping[str, Any], project: Path, deploy: Path
) -> None:
    [entry] = yaml.safe_load((deploy / "workspace.yaml").read_text())["load_from"]
    [local] = yaml.safe_load((project / "workspace.yaml").read_text())["load_from"]
    server = entry["grpc_server"]
    command = compose["services"][server["host"]]["command"]
    assert f"--port={server['port']}" in command
    assert f"--location-name={server['location_name']}" in command
    assert server["location_name"] == local["python_module"]["location_name"]
    assert f"--module-name={local['python_module']['module_name']}" in command


def test_every_volume_is_mounted_on_a_folder_that_belongs_to_the_images_user(
    compose: Mapping[str, Any], dockerfile: Mapping[str, list[tuple[str, str]]]
) -> None:
    [made] = [rest for _, rest in dockerfile["base"] if "install -d -o xtts" in rest]
    used = {
        tuple(volume.split(":")[:2])
        for service in compose["services"].values()
        if "build" in service
        for volume in service["volumes"]
    } - {("/var/run/docker.sock", "/var/run/docker.sock")}
    assert {name for name, _ in used} | {"postgres"} == set(compose["volumes"])
    assert {target for _, target in used} <= set(made.split())


def test_nothing_is_reachable_from_outside_the_machine(compose: Mapping[str, Any]) -> None:
    published = [
        port for service in compose["services"].values() for port in service.get("ports", [])
    ]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_stopping_service_has_time_for_the_calls_in_flight(
    compose: Mapping[str, Any], project: Path
) -> None:
    grace_s = float(compose["services"]["synthesis"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > load_settings(ServiceSettings, project / "config").server.drain_s


def test_whoever_waits_for_health_waits_for_a_service_that_reports_it(
    compose: Mapping[str, Any],
) -> None:
    services = compose["services"]
    awaited = {
        name
        for service in services.values()
        for name, wait in service.get("depends_on", {}).items()
        if wait["condition"] == "service_healthy"
    }
    assert awaited == {"postgres", "code"}
    assert all("healthcheck" in services[name] for name in awaited)


def test_the_gpu_file_changes_services_that_exist(compose: Mapping[str, Any], deploy: Path) -> None:
    override = yaml.safe_load((deploy / "compose.gpu.yaml").read_text())
    assert set(override["services"]) <= set(compose["services"])


@pytest.mark.parametrize("extra", [[], ["compose.gpu.yaml"]])
def test_docker_compose_accepts_the_files(deploy: Path, extra: list[str]) -> None:
    if not has_compose():
        pytest.skip("there is no Docker client with the compose plugin")
    files = [f"--file={deploy / name}" for name in ("compose.yaml", *extra)]
    settings = {"DAGSTER_POSTGRES_PASSWORD": "x", "DOCKER_GID": "999"}
    answer = subprocess.run(
        ["docker", "compose", *files, "config", "--quiet"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return asked.returncode == 0
