"""deploy/dagster.yaml on a real PostgreSQL server, and the programs of compose.yaml, started with
the commands that stand there but without containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
import yaml
from dagster._grpc.client import DagsterGrpcClient
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext
from docker.types import DeviceRequest

KEY = "feira-dora"
LOCATIONS = """{
  workspaceOrError {
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename } } }
  }
}"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, deploy: Path) -> Path:
    """DAGSTER_HOME as the image has it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(deploy / "dagster.yaml", folder)
    shutil.copy(deploy / "workspace.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def variables(
    postgresql: Any, home: Path, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The environment of a container, with a database of its own and an empty corpus."""
    return {
        **postgresql.create_database("platform"),
        "DAGSTER_HOME": str(home),
        "XTTS_CORPUS_ROOT": str(tmp_path_factory.mktemp("data")),
        "XTTS_VIDEOS_CSV": str(project / "examples/demo/videos.csv"),
        "XTTS_CONFIG_DIR": str(project / "config"),
    }


@pytest.fixture(scope="module")
def migrated(compose: Mapping[str, Any], variables: dict[str, str]) -> dict[str, str]:
    """The environment again, once the one-shot service `migrate` has run."""
    subprocess.run(
        here(compose["services"]["migrate"]["command"]),
        env={**os.environ, **variables},
        check=True,
    )
    return variables


@pytest.fixture
def instance(
    migrated: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    for name, value in migrated.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


def here(command: list[str], replace: Mapping[str, str] | None = None) -> list[str]:
    """A command of compose.yaml with this environment's programs."""
    words = [str(Path(sys.executable).parent / command[0]), *command[1:]]
    for old, new in (replace or {}).items():
        words = [word.replace(old, new) for word in words]
    return words


def test_the_migration_makes_dagsters_tables_in_an_empty_database(
    migrated: dict[str, str], postgresql: Any
) -> None:
    rows = postgresql.run(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
        migrated["DAGSTER_POSTGRES_DB"],
    )
    assert {("runs",), ("event_logs",), ("jobs",), ("dynamic_partitions",)} <= set(rows)


def test_a_run_and_its_checks_are_read_back_from_postgresql(
    instance: dg.DagsterInstance, home: Path
) -> None:
    from xtts_assets.definitions import defs

    instance.add_dynamic_partitions("videos", [KEY])
    run = defs.resolve_job_def("prepare_video").execute_in_process(
        instance=instance, partition_key=KEY, asset_selection=[dg.AssetKey("videos")]
    )
    assert run.success

    with dg.DagsterInstance.from_config(str(home)) as later:
        assert later.get_dynamic_partitions("videos") == [KEY]
        assert later.get_run_by_id(run.run_id).is_success
        [record] = later.fetch_materializations(dg.AssetKey("videos"), limit=5).records
        assert record.partition_key == KEY
        assert record.asset_materialization.metadata["dagster/uri"].value.endswith(f"{KEY}.json")
        evaluations = [
            entry.dagster_event.asset_check_evaluation_data
            for entry in later.all_logs(run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        ]
        declared = {
            key.name
            for key in defs.resolve_asset_graph().asset_check_keys
            if key.asset_key == dg.AssetKey("videos")
        }
        assert {evaluation.check_name for evaluation in evaluations} == declared
        assert all(evaluation.passed for evaluation in evaluations)
    assert not list(home.rglob("*.db")), "nothing is kept in SQLite"


def test_the_instance_keeps_the_limits_and_never_reruns_a_failed_check(
    instance: dg.DagsterInstance,
) -> None:
    assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.run_monitoring_enabled
    assert not instance.telemetry_enabled


def test_run_containers_join_the_network_the_volumes_and_the_environment_of_the_code(
    instance: dg.DagsterInstance, compose: Mapping[str, Any]
) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, DockerRunLauncher)
    assert launcher.networks == [compose["networks"]["xtts"]["name"]]
    code, daemon = compose["services"]["code"], compose["services"]["daemon"]
    mounts = [volume.split(":", 1) for volume in code["volumes"]]
    assert launcher.container_kwargs["volumes"] == [
        f"{compose['volumes'][name]['name']}:{target}" for name, target in mounts
    ]
    assert set(launcher.env_vars) == set(daemon["environment"])


def test_the_gpu_file_gives_run_containers_a_gpu_and_keeps_their_volumes(
    instance: dg.DagsterInstance, gpu_context: dict[str, Any]
) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, DockerRunLauncher)
    kwargs = (
        DockerContainerContext(container_kwargs=launcher.container_kwargs)
        .merge(DockerContainerContext.create_from_config(gpu_context))
        .container_kwargs
    )
    assert kwargs["volumes"] == launcher.container_kwargs["volumes"]
    [request] = kwargs["device_requests"]
    assert DeviceRequest(**request).capabilities == [["gpu"]]
    assert DeviceRequest(**request).count == 1


@pytest.fixture(scope="module")
def gpu_context(deploy: Path) -> dict[str, Any]:
    """What compose.gpu.yaml has the code server say about the containers of its runs."""
    override = yaml.safe_load((deploy / "compose.gpu.yaml").read_text())
    environment = override["services"]["code"]["environment"]
    context: dict[str, Any] = json.loads(environment["DAGSTER_CONTAINER_CONTEXT"])
    return context


@pytest.fixture(scope="module")
def stack(
    compose: Mapping[str, Any],
    migrated: dict[str, str],
    gpu_context: dict[str, Any],
    home: Path,
    free_port: Callable[[], int],
) -> Iterator[dict[str, int]]:
    """The code server, the webserver and the daemon, each up and healthy by its own healthcheck.
    The ports by which they are reached."""
    ports = {"code": free_port(), "webserver": free_port()}
    local = {"4000": str(ports["code"]), "3000": str(ports["webserver"]), "0.0.0.0": "127.0.0.1"}
    workspace = home / "workspace.yaml"
    workspace.write_text(
        workspace.read_text()
        .replace("4000", local["4000"])
        .replace("host: code", "host: 127.0.0.1")
    )
    environment = {
        **os.environ,
        **migrated,
        "XTTS_VIDEOS_CSV": "",
        "DAGSTER_CURRENT_IMAGE": "xtts-pipeline:test",
        "DAGSTER_CONTAINER_CONTEXT": json.dumps(gpu_context),
    }
    with ExitStack() as running:
        for name in ("code", "webserver", "daemon"):
            service = compose["services"][name]
            log = running.enter_context((home / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                here(service["command"], local),
                cwd=home,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            running.callback(process.wait)
            # Dagster takes SIGTERM as SIGINT, which programs started in the background ignore.
            running.callback(process.kill)
            probe = here(service["healthcheck"]["test"][1:], local)
            while subprocess.run(
                probe, cwd=home, env=environment, capture_output=True, check=False
            ).returncode:
                assert process.poll() is None, (home / f"{name}.log").read_text()
        yield ports


def test_the_webserver_loads_the_code_through_the_workspace_file(stack: dict[str, int]) -> None:
    answer = requests.post(
        f"http://127.0.0.1:{stack['webserver']}/graphql", json={"query": LOCATIONS}, timeout=30
    )
    [location] = answer.json()["data"]["workspaceOrError"]["locationEntries"]
    assert location["name"] == "xtts"
    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation"


def test_the_code_server_names_the_image_and_the_gpu_of_its_runs(
    stack: dict[str, int], gpu_context: dict[str, Any]
) -> None:
    client = DagsterGrpcClient(port=stack["code"], host="127.0.0.1")
    answer = dg.deserialize_value(client.list_repositories())
    assert answer.container_image == "xtts-pipeline:test"
    assert answer.container_context == gpu_context
