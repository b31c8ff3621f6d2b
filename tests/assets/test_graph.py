"""The graph as documented: names are history in Dagster, so a change here is a deliberate one."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest

from xtts_assets.definitions import defs
from xtts_assets.partitions import videos_partitions
from xtts_core.dataset.metadata import METADATA_SCHEMA

GRAPH: dict[str, tuple[bool, set[str]]] = {
    "videos": (True, set()),
    "raw_audio": (True, {"videos"}),
    "segments": (True, {"raw_audio"}),
    "transcripts": (True, {"segments", "raw_audio"}),
    "metadata": (True, {"videos", "segments", "transcripts", "base_model"}),
    "train_val_splits": (True, {"metadata"}),
    "ljspeech_dataset": (False, {"metadata", "train_val_splits"}),
    "base_model": (False, set()),
    "audio_codes": (True, {"metadata", "train_val_splits", "base_model"}),
    "finetuned_checkpoint": (False, {"audio_codes", "base_model"}),
    "evaluation_samples": (
        True,
        {"finetuned_checkpoint", "base_model", "metadata", "train_val_splits"},
    ),
    "scorecard": (False, {"evaluation_samples"}),
    "served_release": (False, {"scorecard", "finetuned_checkpoint"}),
}

SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_assets_are_the_documented_ones() -> None:
    assert set(SPECS) == set(GRAPH)


@pytest.mark.parametrize("name", GRAPH)
def test_an_asset_has_the_documented_partitions_and_dependencies(name: str) -> None:
    partitioned, upstream = GRAPH[name]
    spec = SPECS[name]
    assert (spec.partitions_def == videos_partitions) is partitioned
    assert {dep.asset_key.to_user_string() for dep in spec.deps} == upstream


@pytest.mark.parametrize("name", GRAPH)
def test_an_asset_says_what_it_is_and_has_a_group_and_a_code_version(name: str) -> None:
    spec = SPECS[name]
    assert spec.description
    assert spec.group_name in {"corpus", "dataset", "training", "release"}
    assert spec.code_version


@pytest.mark.parametrize("name", GRAPH)
def test_an_asset_has_at_least_two_checks_and_one_that_blocks(name: str) -> None:
    graph = defs.resolve_asset_graph()
    checks = [
        graph.get_check_spec(key)
        for key in graph.asset_check_keys
        if key.asset_key == dg.AssetKey(name)
    ]
    assert len(checks) >= 2
    assert any(check.blocking for check in checks)
    assert all(check.description for check in checks)


def test_dagster_shows_what_each_column_of_metadata_is() -> None:
    schema = SPECS["metadata"].metadata["dagster/column_schema"]
    assert [column.name for column in schema.columns] == METADATA_SCHEMA.names
    assert all(column.description for column in schema.columns)


def test_the_partition_set_is_called_videos() -> None:
    assert videos_partitions.name == "videos"


def test_the_graph_in_the_design_is_the_one_in_the_code(project: Path) -> None:
    text = (project / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (video|–) \| ([^|]+) \|", text, re.MULTILINE)
    assert {
        name: (partitioned == "video", set(upstream.split(", ")) - {"– ", "–"})
        for name, partitioned, upstream in rows
    } == GRAPH


def test_the_code_location_and_the_instance_validate(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import subprocess
    import sys

    shutil.copy(project / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    answer = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
