"""Atomic writing and the places of the corpus."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from xtts_core.store import (
    CorpusStore,
    atomic_dir,
    atomic_file,
    project_root,
    read_json,
    write_json,
)

WRITE_SLOWLY = """
import sys
from pathlib import Path
from xtts_core.store import atomic_dir, atomic_file
make = {"file": atomic_file, "folder": atomic_dir}[sys.argv[1]]
with make(Path(sys.argv[2])) as aside:
    (aside / "half" if sys.argv[1] == "folder" else aside).write_text("half and more")
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_a_writer_that_is_killed_leaves_the_old_file_and_the_next_one_clears_up(
    tmp_path: Path, begun: Any
) -> None:
    target = tmp_path / "state.json"
    write_json(target, {"state": "old"})
    with begun(WRITE_SLOWLY, "file", str(target)) as writer:
        writer.kill()
    assert read_json(target) == {"state": "old"}
    assert len(list(tmp_path.iterdir())) == 2
    write_json(target, {})
    assert target.read_text() == "{}\n"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_of_a_writer_that_was_killed_does_not_get_into_the_next_one(
    tmp_path: Path, begun: Any
) -> None:
    target = tmp_path / "clips"
    with begun(WRITE_SLOWLY, "folder", str(target)) as writer:
        writer.kill()
    assert not target.exists()
    with atomic_dir(target) as aside:
        (aside / "a.wav").write_bytes(b"1")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "clips",
        "clips/a.wav",
    ]


def test_others_may_read_what_was_written_whatever_wrote_it(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "model") as aside:
        (aside / "voices").mkdir()
        for name in ("model.safetensors", "voices/a.wav"):
            (aside / name).touch(mode=0o600)
    with atomic_file(tmp_path / "table.csv") as aside:
        aside.touch(mode=0o600)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_writer_that_lives_is_not_disturbed_by_another_of_the_same_target(
    tmp_path: Path, begun: Any, kind: str
) -> None:
    target = tmp_path / "state"
    with begun(WRITE_SLOWLY, kind, str(target)) as writer:
        with (atomic_file if kind == "file" else atomic_dir)(target) as aside:
            (aside if kind == "file" else aside / "other").write_text("other")
        if kind == "folder":
            shutil.rmtree(target)
        writer.communicate("go on")
        assert writer.returncode == 0
    written = target if kind == "file" else target / "half"
    assert written.read_text() == "half and more"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "state.json"

    def fail_halfway() -> None:
        with atomic_file(target) as aside:
            aside.write_text("half")
            raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "clips"
    with atomic_dir(target) as aside:
        (aside / "a.wav").write_bytes(b"1")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a.wav"]


def test_the_temporary_name_starts_with_a_dot_and_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.parquet") as aside:
        assert aside.name.startswith(".")
        assert aside.suffix == ".parquet"


def test_a_relative_root_is_made_absolute_against_the_project_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").touch()
    below = tmp_path / "somewhere" / "below"
    below.mkdir(parents=True)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(below)
    assert project_root() == tmp_path
    assert CorpusStore(Path("data")).root == tmp_path / "data"


def test_two_processes_do_not_hold_one_lock(tmp_path: Path, begun: Any) -> None:
    store = CorpusStore(tmp_path)
    hold = (
        "import sys; from pathlib import Path; from xtts_core.store import CorpusStore\n"
        "with CorpusStore(Path(sys.argv[1])).lock('training'):\n"
        "    print('begun', flush=True); sys.stdin.read()"
    )
    with begun(hold, str(tmp_path)) as holder:
        with pytest.raises(TimeoutError):
            store.lock("training", timeout_s=0).acquire()
        holder.kill()
    with store.lock("training", timeout_s=5) as lock:
        assert lock.is_locked
