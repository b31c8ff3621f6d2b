"""The Kubernetes files agree with each other and with compose.yaml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from xtts_core.settings import ServiceSettings, load_settings


@pytest.fixture(scope="module")
def values(deploy: Path) -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = yaml.safe_load((deploy / "kubernetes/values.yaml").read_text())
    return parsed


@pytest.fixture(scope="module")
def manifests(deploy: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name."""
    text = (deploy / "kubernetes/service.yaml").read_text()
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def code(values: Mapping[str, Any]) -> dict[str, Any]:
    [deployment] = values["dagster-user-deployments"]["deployments"]
    return dict(deployment)


@pytest.fixture(scope="module")
def pod(manifests: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    return dict(manifests["Deployment", "xtts-synthesis"]["spec"]["template"]["spec"])


def test_kubernetes_runs_the_images_of_compose_at_the_projects_version(
    compose: Mapping[str, Any], code: dict[str, Any], pod: dict[str, Any], project: Path
) -> None:
    version = tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    images = {service["image"] for service in compose["services"].values() if "build" in service}
    assert {image.replace(f"${{XTTS_TAG:-{version}}}", version) for image in images} == {
        f"{code['image']['repository']}:{code['image']['tag']}",
        pod["containers"][0]["image"],
    }


def test_the_code_server_listens_where_compose_has_it(
    compose: Mapping[str, Any], code: dict[str, Any]
) -> None:
    command = compose["services"]["code"]["command"]
    assert f"--port={code['port']}" in command
    assert "=".join(code["dagsterApiGrpcArgs"]) in command


def test_runs_reach_the_service_and_both_share_the_corpus(
    manifests: dict[tuple[str, str], dict[str, Any]], code: dict[str, Any], pod: dict[str, Any]
) -> None:
    environment = {entry["name"]: entry["value"] for entry in code["env"]}
    name, _, port = environment["XTTS_GRPC_ADDRESS"].partition(":")
    service = manifests["Service", name]["spec"]
    [container] = pod["containers"]
    assert [entry["port"] for entry in service["ports"]] == [int(port)]
    assert service["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert container["ports"][0]["containerPort"] == int(port)
    labels = manifests["Deployment", "xtts-synthesis"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()

    claims = {
        volume["persistentVolumeClaim"]["claimName"]: volume["name"]
        for volume in [*code["volumes"], *pod["volumes"]]
    }
    assert {("PersistentVolumeClaim", claim) for claim in claims} <= set(manifests)
    assert code["volumeMounts"][0] == {"name": claims["xtts-corpus"], "mountPath": "/data"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/voices"}


def test_readiness_follows_grpc_health_and_life_does_not(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    assert container["readinessProbe"]["grpc"] == {"port": 50051}
    assert "tcpSocket" in container["livenessProbe"]


def test_pods_run_as_the_user_of_the_images(
    code: dict[str, Any], pod: dict[str, Any], dockerfile: Mapping[str, list[tuple[str, str]]]
) -> None:
    [uid] = re.findall(r"useradd --uid (\d+)", str(dockerfile["base"]))
    for context in (code["podSecurityContext"], pod["securityContext"]):
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == context["fsGroup"] == int(uid)


def test_a_stopping_pod_has_time_for_the_calls_in_flight(
    pod: dict[str, Any], project: Path
) -> None:
    drain_s = load_settings(ServiceSettings, project / "config").server.drain_s
    assert pod["terminationGracePeriodSeconds"] > drain_s


def test_the_chart_sets_the_limits_of_dagster_yaml(
    values: Mapping[str, Any], project: Path
) -> None:
    local = yaml.safe_load((project / "dagster.yaml").read_text())
    limits, monitoring = values["concurrency"], values["dagsterDaemon"]["runMonitoring"]
    assert snake_case(limits) == {"enabled": True, **local["concurrency"]}
    assert local["run_monitoring"].items() <= snake_case(monitoring).items()
    assert not values["dagsterDaemon"]["runRetries"]["enabled"]
    assert values["additionalInstanceConfig"]["run_retries"] == local["run_retries"]
    assert values["telemetry"] == local["telemetry"]


def test_the_chart_is_of_the_version_of_dagster_in_the_lock(project: Path, deploy: Path) -> None:
    [version] = re.findall(
        r"^dagster==(\S+)", (project / "requirements.lock").read_text(), re.MULTILINE
    )
    assert f"--version {version} " in (deploy / "kubernetes/values.yaml").read_text()


def test_the_chart_connects_to_postgresql_with_the_driver_that_is_installed(
    values: Mapping[str, Any], deploy: Path
) -> None:
    storage = yaml.safe_load((deploy / "dagster.yaml").read_text())["storage"]["postgres"]
    assert values["postgresql"]["postgresqlScheme"] == storage["postgres_db"]["scheme"]


def snake_case(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        re.sub("([A-Z])", r"_\1", key).lower(): snake_case(value)
        if isinstance(value, dict)
        else value
        for key, value in values.items()
    }
