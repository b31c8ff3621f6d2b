"""Atomic writing and the places of the corpus."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xtts_core.store import CorpusStore, atomic_dir, atomic_file, project_root, write_json

WRITE_SLOWLY = """
import sys
from pathlib import Path
from xtts_core.store import atomic_file
with atomic_file(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    write_json(target, {"state": "old"})
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_SLOWLY, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert target.read_text() == '{\n  "state": "old"\n}\n'


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


def test_two_processes_do_not_hold_one_lock(tmp_path: Path) -> None:
    store = CorpusStore(tmp_path)
    hold = (
        "import sys; from pathlib import Path; from xtts_core.store import CorpusStore\n"
        "with CorpusStore(Path(sys.argv[1])).lock('training'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError):
        store.lock("training", timeout_s=0).acquire()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with store.lock("training", timeout_s=5) as lock:
        assert lock.is_locked
