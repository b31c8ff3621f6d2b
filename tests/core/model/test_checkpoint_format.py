from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from xtts_core.errors import ModelError
from xtts_core.model.checkpoint import (
    MANIFEST_FILE,
    read_manifest,
    verify,
    version_of,
    write_checkpoint,
    write_manifest,
)
from xtts_core.model.engine import Engine
from xtts_core.model.loading import LOADED_FILES
from xtts_core.settings import EngineSettings
from xtts_core.store import sha256_file
from xtts_core.text import NORMALISER_VERSION

NOON = datetime(2026, 11, 22, 12, 30, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, recording: np.ndarray) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"v1_0000{number}.wav" for number in (1, 2)]
    for path, samples in zip(paths, np.array_split(recording, 2), strict=True):
        soundfile.write(path, samples, 22_050, subtype="PCM_16")
    return paths


@pytest.fixture(scope="module")
def state(tiny_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(tiny_dir / "model.safetensors")


@pytest.fixture
def arguments(tiny_dir: Path, state: dict[str, torch.Tensor], clips: list[Path]) -> dict:
    return {
        "base_dir": tiny_dir,
        "state": state,
        "adapter_dir": None,
        "voices": {"Dora": clips},
        "settings": {"lora": {"rank": 8}},
        "lineage": {
            "videos": {"v1": "1a2b", "v2": "3c4d"},
            "licences": {"v1": "CC BY 4.0", "v2": ""},
            "refused": {"v3": "its codes are missing"},
            "left_out": {"v1_00004": "near v2_00001 | of the other split"},
            "git_revision": "abc",
        },
        "metrics": {"val_loss": 4.25, "base_val_loss": 6.5},
        "licence": "Apache-2.0",
        "created_at": NOON,
    }


@pytest.fixture
def checkpoint(tmp_path: Path, arguments: dict) -> Path:
    return write_checkpoint(tmp_path / "checkpoints", **arguments)


def test_a_checkpoint_holds_what_inference_needs_and_no_more(checkpoint: Path) -> None:
    assert {p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()} == {
        "README.md",
        "architecture.json",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "report.json",
        "vocab.json",
        "voices/Dora/v1_00001.wav",
        "voices/Dora/v1_00002.wav",
    }


def test_a_version_is_the_time_and_the_manifests_hash(checkpoint: Path, tmp_path: Path) -> None:
    sha256 = sha256_file(checkpoint / MANIFEST_FILE)
    assert checkpoint.name == f"20261122-123005-{sha256[:8]}"
    moved = Path(shutil.copytree(checkpoint, tmp_path / "releases" / "7"))
    assert version_of(moved) == checkpoint.name


def test_the_time_of_a_version_is_utc(tmp_path: Path, arguments: dict) -> None:
    brasilia = timezone(timedelta(hours=-3))
    arguments["created_at"] = NOON.astimezone(brasilia)
    assert write_checkpoint(tmp_path, **arguments).name.startswith("20261122-123005-")


def test_a_manifest_says_where_the_model_comes_from(checkpoint: Path, tiny_dir: Path) -> None:
    manifest = verify(checkpoint)
    assert manifest.kind == "checkpoint"
    assert manifest.licence == "Apache-2.0"
    assert manifest.base_model.name == "tiny"
    assert manifest.base_manifest_sha256 == sha256_file(tiny_dir / MANIFEST_FILE)
    assert manifest.normaliser_version == str(NORMALISER_VERSION)
    assert manifest.settings == {"lora": {"rank": 8}}
    assert manifest.lineage["videos"] == {"v1": "1a2b", "v2": "3c4d"}
    assert manifest.metrics["val_loss"] == 4.25
    assert manifest.created_at == NOON


def test_the_model_card_names_licence_base_and_measures(checkpoint: Path) -> None:
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card
    assert "tiny" in card
    assert "| val_loss | 4.25 |" in card
    assert "| git_revision | abc |" in card
    assert "| v1 | CC BY 4.0 | 1a2b |" in card
    assert "| v2 | (none stated) | 3c4d |" in card
    assert "| v3 | its codes are missing |" in card
    assert r"| v1_00004 | near v2_00001 \| of the other split |" in card


def test_a_checkpoint_of_another_normaliser_is_loaded_with_a_warning(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EngineSettings(device="cpu")
    Engine.load(checkpoint, settings)
    assert caplog.text == ""
    other = read_manifest(checkpoint).model_copy(update={"normaliser_version": "0"})
    write_manifest(checkpoint, other)
    Engine.load(checkpoint, settings)
    assert f"the normaliser version 0, and {NORMALISER_VERSION} runs" in caplog.text


def test_an_adapter_is_kept_beside_the_model(tmp_path: Path, arguments: dict) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"lora_A": torch.ones(2)}, adapter / "adapter_model.safetensors")
    checkpoint = write_checkpoint(tmp_path / "checkpoints", **{**arguments, "adapter_dir": adapter})
    assert "adapter/adapter_model.safetensors" in verify(checkpoint).files


def test_a_checkpoint_speaks_with_its_voices(checkpoint: Path) -> None:
    engine = Engine.load(checkpoint, EngineSettings(device="cpu"))
    assert engine.version == checkpoint.name
    assert list(engine.voices()) == ["Dora"]
    assert all(path.is_file() for path in engine.voices()["Dora"])


def test_speakers_whose_names_are_no_folders_are_kept_apart(
    tmp_path: Path, arguments: dict, clips: list[Path]
) -> None:
    names = ["../Ana", "ana", "ANA", "João Paulo", "///"]
    arguments["voices"] = dict.fromkeys(names, clips[:1])
    checkpoint = write_checkpoint(tmp_path, **arguments)
    voices = verify(checkpoint).voices
    assert list(voices) == names
    folders = [paths[0].split("/")[1] for paths in voices.values()]
    assert folders == ["Ana", "ana_2", "ANA_3", "João_Paulo", "speaker"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "vocab.json", "voices/Dora/v1_00002.wav", "README.md"]
)
def test_a_changed_byte_is_found_and_its_file_named(checkpoint: Path, name: str) -> None:
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(name)):
        verify(checkpoint)


@pytest.mark.parametrize("name", ["../elsewhere.wav", "/etc/hostname", "voices/other.wav"])
def test_a_clip_that_the_manifest_has_no_hash_of_is_refused(checkpoint: Path, name: str) -> None:
    manifest = read_manifest(checkpoint)
    write_manifest(checkpoint, manifest.model_copy(update={"voices": {"Dora": [name]}}))
    with pytest.raises(ModelError, match=f"no SHA-256 of {name}"):
        verify(checkpoint)


@pytest.mark.parametrize("name", LOADED_FILES)
def test_a_model_whose_manifest_has_no_hash_of_a_file_is_not_loaded(
    checkpoint: Path, name: str
) -> None:
    manifest = read_manifest(checkpoint)
    files = {known: entry for known, entry in manifest.files.items() if known != name}
    write_manifest(checkpoint, manifest.model_copy(update={"files": files}))
    with pytest.raises(ModelError, match=f"no SHA-256 of {name}"):
        Engine.load(checkpoint, EngineSettings(device="cpu"))


def test_a_truncated_file_is_found_by_its_size(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"model\.safetensors: The file has \d+ bytes"):
        verify(checkpoint)


def test_a_lost_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        verify(checkpoint)


def test_a_folder_without_a_manifest_is_incomplete(checkpoint: Path) -> None:
    (checkpoint / MANIFEST_FILE).unlink()
    with pytest.raises(ModelError, match="incomplete"):
        verify(checkpoint)
    with pytest.raises(ModelError, match="incomplete"):
        read_manifest(checkpoint / "nowhere")


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2, "kind": "checkpoint"}', "[]"])
def test_a_manifest_that_cannot_be_read_is_named(checkpoint: Path, content: str) -> None:
    (checkpoint / MANIFEST_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"manifest\.json"):
        read_manifest(checkpoint)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "voices/../../outside.txt"])
def test_a_manifest_cannot_name_a_file_outside_its_folder(checkpoint: Path, name: str) -> None:
    manifest = read_manifest(checkpoint)
    entry = manifest.files["config.json"]
    write_manifest(checkpoint, manifest.model_copy(update={"files": {name: entry}}))
    with pytest.raises(ModelError, match="outside its folder"):
        verify(checkpoint)


def test_a_checkpoint_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, arguments: dict
) -> None:
    arguments["voices"] = {"Dora": [tmp_path / "lost.wav"]}
    with pytest.raises(FileNotFoundError):
        write_checkpoint(tmp_path / "checkpoints", **arguments)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_a_killed_writer_left_is_taken_over_by_the_next(
    tmp_path: Path, tiny_dir: Path, begun: Any
) -> None:
    code = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from xtts_core.model import checkpoint

def copy(*_):
    if sys.argv[3] == "halt":
        print("begun", flush=True)
        sys.stdin.read()
    return {}

checkpoint._copy_voices = copy
checkpoint.write_checkpoint(
    Path(sys.argv[1]), base_dir=Path(sys.argv[2]), state={}, adapter_dir=None, voices={},
    settings={}, lineage={}, metrics={}, licence="MIT", created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
print("begun", flush=True)
"""
    with begun(code, str(tmp_path), str(tiny_dir), "halt") as process:
        process.kill()
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".")
    with begun(code, str(tmp_path), str(tiny_dir), "go"):
        pass
    [whole] = tmp_path.iterdir()
    assert whole.name == version_of(whole)
    verify(whole)
