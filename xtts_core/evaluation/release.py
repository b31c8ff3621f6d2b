"""`served_release`: immutable releases, and the small file that says which one is served.

A release is a folder `releases/<n>/` that never changes once it has its name. `serving.json`
points to one and is replaced atomically, so a service that polls it sees whole states only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xtts_core.errors import ReleaseError, UpstreamError
from xtts_core.evaluation.scorecard import SCORECARD
from xtts_core.model.checkpoint import (
    MANIFEST_FILE,
    damage,
    read_manifest,
    verify,
    version_of,
)
from xtts_core.stage import (
    CheckSpec,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    forget,
    read_result,
    require,
    run_stage,
    silent,
)
from xtts_core.store import WHOLE, CorpusStore, atomic_dir, read_json, sha256_file, write_json
from xtts_core.training.finetuned_checkpoint import FINETUNED_CHECKPOINT

SERVED_RELEASE = Stage(
    "served_release",
    "1",
    (
        CheckSpec("manifest_verified", "error", "every file is as the checkpoint's manifest says"),
        CheckSpec("pointer_current", "error", "serving.json points to this release"),
    ),
)

_POINTER_KEYS = {"release", "path", "manifest_sha256"}


@dataclass(frozen=True)
class Release:
    """One release: its number, folder, checkpoint version and the SHA-256 of its manifest."""

    number: int
    path: Path
    version: str
    manifest_sha256: str


def make_served_release(
    store: CorpusStore, serving_uri: Path, progress: Progress = silent
) -> StageResult:
    """Release the checkpoint that the scorecard passed, and point `serving.json` to it.

    A roll-back stands until another checkpoint is made: the same inputs are not released again.

    Raises:
        UpstreamError: the scorecard is missing, failed, or is another checkpoint's.
        ModelError: a file of the checkpoint is not what its manifest says.
    """
    scorecard = require(store, SCORECARD.name, WHOLE)
    checkpoint = require(store, FINETUNED_CHECKPOINT.name, WHOLE)
    if scorecard.uri.parent.name != checkpoint.uri.name:
        raise UpstreamError(
            f"The scorecard is of {scorecard.uri.parent.name}, the checkpoint is "
            f"{checkpoint.uri.name}",
            where=str(scorecard.uri),
            remedy="Materialise evaluation_samples and scorecard again",
        )
    known = read_result(store, SERVED_RELEASE.name, WHOLE)
    if not serving_uri.is_file() or (known is not None and known.blocked):
        # Nothing good is served, whatever was recorded.
        forget(store, SERVED_RELEASE.name, WHOLE)

    def build(fingerprint: str) -> Outcome:
        release = publish(store, serving_uri, checkpoint.uri)
        progress(1, 1, "releases")
        files = sorted(path for path in release.path.rglob("*") if path.is_file())
        return Outcome(
            uri=release.path,
            outputs=files,
            verdicts=verdicts(
                release,
                manifest_sha256=sha256_file(release.path / MANIFEST_FILE),
                damaged=damage(release.path, read_manifest(release.path)),
                pointer=read_pointer(serving_uri),
                wanted=pointer_to(release, serving_uri),
            ),
            metadata={
                "release": release.number,
                "version": release.version,
                "manifest_sha256": release.manifest_sha256,
                "serving_uri": str(serving_uri),
                "bytes": sum(path.stat().st_size for path in files),
            },
        )

    return run_stage(
        store,
        SERVED_RELEASE,
        WHOLE,
        inputs={
            # A corpus that was moved has nothing new to serve.
            "serving_uri": Path(os.path.relpath(serving_uri, store.root)).as_posix(),
            "scorecard": scorecard.data_version,
            "finetuned_checkpoint": checkpoint.data_version,
        },
        build=build,
    )


def verdicts(
    release: Release,
    *,
    manifest_sha256: str,
    damaged: Mapping[str, str],
    pointer: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
) -> list[Verdict]:
    """The checks of `served_release`.

    Args:
        manifest_sha256: that of the manifest in the release's folder.
        damaged: its files that are not as that manifest says, with what is wrong.
        pointer: what serving.json says.
        wanted: what it should say.
    """
    return [
        SERVED_RELEASE.verdict(
            "manifest_verified",
            manifest_sha256 == release.manifest_sha256 and not damaged,
            value=manifest_sha256,
            threshold=release.manifest_sha256,
            detail="; ".join(f"{name}: {what}" for name, what in damaged.items()),
        ),
        SERVED_RELEASE.verdict(
            "pointer_current",
            pointer is not None and pointer.items() >= wanted.items(),
            value=pointer["release"] if pointer else 0,
            threshold=release.number,
        ),
    ]


def publish(store: CorpusStore, serving_uri: Path, checkpoint_dir: Path) -> Release:
    """Make a release of a checkpoint and serve it; the one that is served or was made last is
    taken again where it is the same checkpoint and whole.

    Raises:
        ModelError: a file of the checkpoint is not what its manifest says.
    """
    verify(checkpoint_dir)
    manifest_sha256 = sha256_file(checkpoint_dir / MANIFEST_FILE)
    with store.lock("release"):
        known = releases(store)
        pointer = read_pointer(serving_uri)
        served = [r for r in known if pointer is not None and r.number == pointer["release"]]
        for release in (*served, *known[-1:]):
            same = release.manifest_sha256 == manifest_sha256
            if same and not damage(release.path, read_manifest(release.path)):
                break
        else:
            number = known[-1].number + 1 if known else 1
            folder = store.releases_dir / str(number)
            with atomic_dir(folder) as aside:
                shutil.copytree(
                    checkpoint_dir, aside, copy_function=_link_or_copy, dirs_exist_ok=True
                )
                verify(aside)
            release = Release(number, folder, version_of(folder), manifest_sha256)
        _point(serving_uri, release)
    return release


def rollback(store: CorpusStore, serving_uri: Path, number: int) -> Release:
    """Serve an earlier release again.

    Raises:
        ReleaseError: there is no such release.
        ModelError: a file of it is not what its manifest says.
    """
    with store.lock("release"):
        known = {release.number: release for release in releases(store)}
        if number not in known:
            raise ReleaseError(
                f"There is no release {number}",
                where=str(store.releases_dir),
                remedy="There are " + (", ".join(map(str, known)) or "none"),
            )
        verify(known[number].path)
        _point(serving_uri, known[number])
    return known[number]


def releases(store: CorpusStore) -> list[Release]:
    """Every release, the oldest first."""
    if not store.releases_dir.is_dir():
        return []
    numbers = sorted(int(p.name) for p in store.releases_dir.iterdir() if p.name.isdecimal())
    folders = [store.releases_dir / str(number) for number in numbers]
    return [
        Release(int(path.name), path, version_of(path), sha256_file(path / MANIFEST_FILE))
        for path in folders
    ]


def read_pointer(serving_uri: Path) -> dict[str, Any] | None:
    """What `serving.json` says, or None where nothing is served yet.

    Raises:
        ReleaseError: it is not a pointer to a release.
    """
    try:
        pointer = read_json(serving_uri)
    except FileNotFoundError:
        return None
    except ValueError:
        pointer = None
    if not isinstance(pointer, dict) or not pointer.keys() >= _POINTER_KEYS:
        raise ReleaseError(
            "The file does not point to a release",
            where=str(serving_uri),
            remedy="Remove it, and materialise served_release again",
        )
    return pointer


def pointer_to(release: Release, serving_uri: Path) -> dict[str, Any]:
    """What serving.json says of a release, but for the time."""
    return {
        "release": release.number,
        "path": Path(os.path.relpath(release.path, serving_uri.parent)).as_posix(),
        "manifest_sha256": release.manifest_sha256,
    }


def _point(serving_uri: Path, release: Release) -> None:
    pointer = read_pointer(serving_uri)
    wanted = pointer_to(release, serving_uri)
    if pointer is None or not pointer.items() >= wanted.items():
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(serving_uri, {**wanted, "created_at": created_at})


def _link_or_copy(source: str, target: str) -> str:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
