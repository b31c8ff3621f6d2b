"""The format of a model folder that can be verified, and of a checkpoint.

A folder is complete when its `manifest.json` is there: it lists every file with its SHA-256 and
size and is written last. Weights are safetensors; nothing here opens a pickle.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from xtts_core.errors import ModelError
from xtts_core.model.architecture import ARCHITECTURE_FILE
from xtts_core.model.tokenizer import VOCABULARY_FILE
from xtts_core.store import atomic_dir, sha256_file, write_json, write_text

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST_FILE = "manifest.json"
LICENCE_FILE = "LICENSE.txt"
ADAPTER_DIR = "adapter"
VOICES_DIR = "voices"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Record):
    """A file's content: SHA-256 in hex, size in bytes."""

    sha256: str
    size: int


class Origin(_Record):
    """Where a base model comes from.

    `originals` are the files it was converted from, by name, as they were verified.
    """

    name: str
    source: str
    revision: str
    originals: dict[str, FileEntry] = {}


class Manifest(_Record):
    """`manifest.json`. `files` holds every other file by its path relative to the folder.

    A base model has no `created_at`, since its content follows from its origin alone.
    """

    format: Literal[1] = 1
    kind: Literal["base", "checkpoint"]
    licence: str
    base_model: Origin
    base_manifest_sha256: str | None = None
    created_at: datetime | None = None
    normaliser_version: str | None = None
    settings: dict[str, Any] = {}
    lineage: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    voices: dict[str, list[str]] = {}
    files: dict[str, FileEntry]


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model folder; its files are not looked at (see `verify`).

    Raises:
        ModelError: there is none, so the folder is incomplete, or it cannot be read.
    """
    path = directory / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            "The model folder is missing or incomplete: it has no manifest",
            where=str(path),
            remedy="Materialise the model again",
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ModelError(
            f"The manifest cannot be read: {key}: {problem['msg']}",
            where=str(path),
            remedy="Materialise the model again",
        ) from None


def verify(directory: Path, *, needed: Iterable[str] = ()) -> Manifest:
    """The manifest of a model folder whose every file was found as the manifest says.

    Args:
        needed: files that the manifest has to vouch for, beside the clips of its voices.

    Raises:
        ModelError: a file is missing, has another size or another content, or is not vouched for;
            it is named.
    """
    manifest = read_manifest(directory)
    for name, entry in manifest.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ModelError(
                f"The manifest names a file outside its folder: {name}", where=str(directory)
            )
        check_file(directory / name, entry)
    for name in (*needed, *itertools.chain(*manifest.voices.values())):
        if name not in manifest.files:
            raise ModelError(
                f"The manifest has no SHA-256 of {name}",
                where=str(directory / MANIFEST_FILE),
                remedy="Materialise the model again",
            )
    return manifest


def damage(directory: Path, manifest: Manifest) -> dict[str, str]:
    """What is wrong with each file that is not as the manifest says, by its name."""
    found = {}
    for name, entry in manifest.files.items():
        try:
            check_file(directory / name, entry)
        except ModelError as error:
            found[name] = error.what
    return found


def check_file(path: Path, entry: FileEntry) -> None:
    """Compare a file with what it should be.

    Raises:
        ModelError: the file is missing, has another size or another content.
    """
    remedy = "Materialise the model again, or copy it again from where it came"
    if not path.is_file():
        raise ModelError("A file of the model is missing", where=str(path), remedy=remedy)
    size = path.stat().st_size
    if size != entry.size:
        raise ModelError(
            f"The file has {size} bytes where {entry.size} are expected",
            where=str(path),
            remedy=remedy,
        )
    sha256 = sha256_file(path)
    if sha256 != entry.sha256:
        raise ModelError(
            f"The file's SHA-256 is {sha256} where {entry.sha256} is expected",
            where=str(path),
            remedy=remedy,
        )


def version_of(directory: Path) -> str:
    """What a model folder is called: `YYYYMMDD-HHMMSS-<8 hex of the manifest>` for a checkpoint,
    `<name>-<8 hex>` for a base model. It follows from the manifest, not from the folder's name."""
    manifest = read_manifest(directory)
    return _version(manifest, sha256_file(directory / MANIFEST_FILE))


def describe_files(directory: Path) -> dict[str, FileEntry]:
    """Every file of a folder but the manifest, by its relative path, in order of their names."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): FileEntry(
            sha256=sha256_file(path), size=path.stat().st_size
        )
        for path in paths
        if path != directory / MANIFEST_FILE
    }


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Complete a folder by writing its manifest; its SHA-256 is returned."""
    path = directory / MANIFEST_FILE
    write_json(path, manifest.model_dump(mode="json"))
    return sha256_file(path)


def write_checkpoint(
    checkpoints_dir: Path,
    *,
    base_dir: Path,
    state: Mapping[str, Tensor],
    adapter_dir: Path | None,
    voices: Mapping[str, Sequence[Path]],
    settings: Mapping[str, Any],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
    licence: str,
    created_at: datetime,
) -> Path:
    """Write `<checkpoints_dir>/<version>` and return it.

    Args:
        base_dir: the base model, whose configuration and vocabulary are taken over.
        state: what `loading.model_state` gives; an adapter is merged into it.
        adapter_dir: the LoRA adapter as peft saves it, kept beside the model.
        voices: reference clips (WAV) of each speaker.
        settings, lineage, metrics: JSON values, for the manifest and the report.
        created_at: the time in the version; it is written in UTC.

    The folder is made aside and renamed when complete; what a killed process leaves of it, the
    next one takes over.
    """
    from safetensors.torch import save_file

    from xtts_core.model.loading import CONFIG_FILE, MODEL_FILE
    from xtts_core.text import NORMALISER_VERSION

    base = read_manifest(base_dir)
    # Its name follows from its content, so it is completed under another one first.
    complete = checkpoints_dir / ".complete"
    shutil.rmtree(complete, ignore_errors=True)
    with atomic_dir(complete) as aside:
        for name in (CONFIG_FILE, ARCHITECTURE_FILE, VOCABULARY_FILE):
            shutil.copyfile(base_dir / name, aside / name)
        if (base_dir / LICENCE_FILE).is_file():
            shutil.copyfile(base_dir / LICENCE_FILE, aside / LICENCE_FILE)
        save_file(dict(state), aside / MODEL_FILE)
        if adapter_dir is not None:
            shutil.copytree(adapter_dir, aside / ADAPTER_DIR)
        copied = _copy_voices(aside, voices)
        write_json(
            aside / "report.json",
            {"settings": dict(settings), "lineage": dict(lineage), "metrics": dict(metrics)},
        )
        write_text(aside / "README.md", _model_card(base.base_model, licence, lineage, metrics))
        manifest = Manifest(
            kind="checkpoint",
            licence=licence,
            base_model=base.base_model,
            base_manifest_sha256=sha256_file(base_dir / MANIFEST_FILE),
            created_at=created_at.astimezone(UTC),
            normaliser_version=str(NORMALISER_VERSION),
            settings=dict(settings),
            lineage=dict(lineage),
            metrics=dict(metrics),
            voices=copied,
            files=describe_files(aside),
        )
        target = checkpoints_dir / _version(manifest, write_manifest(aside, manifest))
    complete.rename(target)
    return target


def _version(manifest: Manifest, manifest_sha256: str) -> str:
    when = manifest.created_at
    prefix = f"{when:%Y%m%d-%H%M%S}" if when else manifest.base_model.name
    return f"{prefix}-{manifest_sha256[:8]}"


def _copy_voices(directory: Path, voices: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    copied: dict[str, list[str]] = {}
    taken: set[str] = set()
    for speaker, clips in voices.items():
        folder = _folder_name(speaker, taken)
        target = directory / VOICES_DIR / folder
        target.mkdir(parents=True)
        copied[speaker] = [f"{VOICES_DIR}/{folder}/{clip.name}" for clip in clips]
        for clip in clips:
            shutil.copyfile(clip, target / clip.name)
    return copied


def _folder_name(speaker: str, taken: set[str]) -> str:
    """A speaker's name as a folder, apart from the others on a file system that ignores case."""
    plain = re.sub(r"[^\w-]+", "_", speaker).strip("_")[:64] or "speaker"
    name, number = plain, 2
    while name.casefold() in taken:
        name, number = f"{plain}_{number}", number + 1
    taken.add(name.casefold())
    return name


def _model_card(
    origin: Origin, licence: str, lineage: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    licences, videos = lineage.get("licences", {}), lineage.get("videos", {})
    left_out = {**lineage.get("refused", {}), **lineage.get("left_out", {})}
    plain = {key: value for key, value in lineage.items() if not isinstance(value, Mapping)}
    recordings = [
        (video, licences.get(video) or "(none stated)", version)
        for video, version in videos.items()
    ]
    parts = [
        f"# XTTS checkpoint fine-tuned from {origin.name}",
        f"Licence: {licence}. It is the licence of the base model and binds this checkpoint and "
        f"its audio.\nBase model: {origin.name}, {origin.source}, revision {origin.revision}.",
        _table(("measure", "value"), metrics.items()),
        "Losses are in nats a token, times in seconds; `loss_rise_<language>` is how much the loss "
        "on\nspeech of the base model rose.",
        _table(("recording", "licence", "data version"), recordings),
        _table(("left out", "why"), left_out.items()) if left_out else "Nothing was left out.",
        _table(("made from", ""), plain.items()),
        "Files, hashes, settings and voices: `manifest.json`. `report.json` holds the same "
        "measures for\nprograms.\n",
    ]
    return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
