"""Where everything lies on disk: the only module that builds paths of the corpus.

Writing is atomic: a file is written beside its place under a name that starts with `.`, synced,
and renamed. A reader sees the old state or the new one, never half. What a killed writer leaves
has a name that follows from its target's, and the next writer of that target takes it over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

WHOLE = "@"
"""The key of an asset that is not partitioned; no video id can be `@`."""

_HASH_CHUNK_BYTES = 1 << 20


def project_root(start: Path | None = None) -> Path:
    """The folder that relative paths are resolved against.

    `DAGSTER_HOME` if set, else the nearest folder at or above `start` (default: the working
    directory) that holds a `dagster.yaml`, else `start`.
    """
    home = os.environ.get("DAGSTER_HOME")
    if home:
        return Path(home).resolve()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dagster.yaml").is_file():
            return folder
    return here


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in a canonical form (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) that replaces it when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _partial(path)
    handle = _claimed(aside, os.O_RDWR | os.O_CREAT)
    if handle is None:
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
        aside = Path(name)
    try:
        os.truncate(handle, 0)
        yield aside
        aside.chmod(0o644)
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block succeeds.

    `path` must not be there yet: a rename onto a filled folder fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _partial(path)
    aside.mkdir(mode=0o700, exist_ok=True)
    handle = _claimed(aside, os.O_RDONLY)
    if handle is None:
        aside = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
        handle = os.open(aside, os.O_RDONLY)
    try:
        for left in aside.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        yield aside
        aside.chmod(0o755)
        for file in aside.rglob("*"):
            if file.is_file():
                # As `atomic_file`: safetensors writes files that only their owner reads.
                file.chmod(0o644)
                _sync(file)
        aside.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        os.close(handle)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial{path.suffix}")


def _claimed(aside: Path, flags: int) -> int | None:
    """A handle that locks a temporary for as long as the process lives and does not close it;
    None where another writer is at work on it, or the file system knows no locks."""
    try:
        handle = os.open(aside, flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The writer before may have renamed it meanwhile.
        if os.path.samestat(os.fstat(handle), aside.stat()):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` (UTF-8) atomically."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class CorpusStore:
    """The corpus root and the place of each asset below it.

    Args:
        root: the corpus root (`XTTS_CORPUS_ROOT`); made absolute against the project root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root if root.is_absolute() else project_root() / root

    def relative(self, path: Path) -> str:
        """`path` relative to the root, with forward slashes: the form that files keep."""
        return path.relative_to(self.root).as_posix()

    def video(self, video_id: str) -> Path:
        return self.root / "videos" / f"{video_id}.json"

    def raw_audio(self, video_id: str) -> Path:
        return self.root / "raw" / f"{video_id}.wav"

    def raw_subtitles(self, video_id: str, language: str) -> Path:
        """`language` as it came (`pt-BR`; YouTube's automatic ones end in `-orig`)."""
        return self.root / "raw" / f"{video_id}.{language}.vtt"

    def raw_provenance(self, video_id: str) -> Path:
        return self.root / "raw" / f"{video_id}.json"

    @property
    def imports_dir(self) -> Path:
        """Recordings put together from datasets that were there before."""
        return self.root / "imports"

    def download_dir(self, video_id: str) -> Path:
        """Partial downloads, kept between attempts so that they can be resumed."""
        return self.root / "downloads" / video_id

    def segments_table(self, video_id: str) -> Path:
        return self.root / "segments" / f"{video_id}.parquet"

    def segments_dir(self, video_id: str, fingerprint: str) -> Path:
        return self.root / "segments" / video_id / fingerprint[:16]

    def transcripts(self, video_id: str) -> Path:
        return self.root / "transcripts" / f"{video_id}.parquet"

    def metadata(self, video_id: str) -> Path:
        return self.root / "metadata" / f"{video_id}.parquet"

    def split(self, video_id: str) -> Path:
        return self.root / "splits" / f"{video_id}.parquet"

    @property
    def ljspeech_dir(self) -> Path:
        return self.root / "ljspeech"

    def base_model(self, name: str) -> Path:
        return self.root / "models" / name

    def audio_codes(self, base: str, video_id: str) -> Path:
        """The index of a video's codes; their shards lie in `audio_codes_dir`."""
        return self.root / "codes" / base / f"{video_id}.parquet"

    def audio_codes_dir(self, base: str, video_id: str) -> Path:
        return self.root / "codes" / base / video_id

    @property
    def checkpoints_dir(self) -> Path:
        return self.root / "checkpoints"

    def checkpoint(self, version: str) -> Path:
        return self.checkpoints_dir / version

    def training_dir(self, fingerprint: str) -> Path:
        """The working folder of one training run: resumable states, TensorBoard events."""
        return self.root / "training" / fingerprint[:16]

    def evaluation_dir(self, version: str, video_id: str) -> Path:
        return self.root / "evaluation" / version / video_id

    def scorecard(self, version: str) -> Path:
        return self.root / "evaluation" / version / "scorecard.json"

    @property
    def releases_dir(self) -> Path:
        return self.root / "releases"

    @property
    def logs_dir(self) -> Path:
        return self.root / "logs"

    def record(self, asset: str, key: str) -> Path:
        return self.root / "records" / asset / f"{key}.json"

    def verdicts(self, asset: str, key: str) -> Path:
        return self.root / "verdicts" / asset / f"{key}.json"

    def lock(self, name: str, *, timeout_s: float = -1) -> FileLock:
        """A lock between processes; the kernel releases it when its holder dies."""
        path = self.root / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, timeout=timeout_s)

    def keys(self, asset: str) -> list[str]:
        """The keys of an asset that have a record, sorted."""
        folder = self.root / "records" / asset
        if not folder.is_dir():
            return []
        return sorted(p.stem for p in folder.glob("*.json") if not p.name.startswith("."))
