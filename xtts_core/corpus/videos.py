"""The asset `videos`: one row of videos.csv, validated, with what it points to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtts_core import text
from xtts_core.corpus.catalogue import LANGUAGE, CatalogueRow, format_span, read_catalogue
from xtts_core.corpus.sources import local_path
from xtts_core.errors import CatalogueError
from xtts_core.settings import DatasetSettings
from xtts_core.stage import (
    CheckSpec,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    run_stage,
    silent,
)
from xtts_core.store import CorpusStore, sha256_file, write_json

SIDECAR_SUFFIXES = (".vtt", ".srt")
"""Best first: where a language has both, the first counts."""
MAX_PROBLEMS_SHOWN = 10

VIDEOS = Stage(
    "videos",
    "1",
    (
        CheckSpec("source_allowed_and_present", "error", "the source is an http(s) URL or a file"),
        CheckSpec(
            "language_supported",
            "error",
            "the language is one of the settings' languages, and has a text normaliser",
        ),
        CheckSpec("licence_stated", "warn", "the row says what may be done with the recording"),
    ),
)


def make_video(
    store: CorpusStore,
    settings: DatasetSettings,
    csv_path: Path,
    video_id: str,
    progress: Progress = silent,
) -> StageResult:
    """Record the row of `video_id` and the hash of its local file and sidecar subtitles.

    The JSON holds `row` (with `start_s` and `end_s` only where the row gives them), `row_hash`
    and `source`: `{"kind": "url", "url"}` or `{"kind": "file", "path", "size_bytes", "sha256",
    "sidecars": [{"language", "path", "sha256"}]}`, with paths relative to the corpus root
    (`size_bytes` and `sha256` are null where the file is missing).

    Raises:
        CatalogueError: videos.csv cannot be read, or has no usable row of that id.
    """
    row = _row(csv_path, video_id)
    source = _source(store, csv_path, row)

    def build(_fingerprint: str) -> Outcome:
        path = store.video(video_id)
        write_json(path, {"row": row.record, "row_hash": row.row_hash, "source": source})
        progress(1, 1, "rows")
        return Outcome(
            uri=path,
            outputs=[path],
            verdicts=verdicts(row, source, settings),
            metadata={
                "source": row.source,
                "title": row.title,
                "language": row.language,
                "speaker": row.speaker,
                "span": format_span(row),
                "licence": row.licence or "(none stated)",
                "row_hash": row.row_hash,
                "size_bytes": source.get("size_bytes") or 0,
                "sidecar_subtitles": len(source.get("sidecars", ())),
            },
            row_count=1,
        )

    return run_stage(
        store,
        VIDEOS,
        video_id,
        inputs={
            "row": row.record,
            "source": source,
            "languages": supported_languages(settings),
        },
        build=build,
    )


def verdicts(
    row: CatalogueRow, source: Mapping[str, Any], settings: DatasetSettings
) -> list[Verdict]:
    """The checks of `videos` on a row and the source it points to."""
    present = source["kind"] == "url" or source["sha256"] is not None
    supported = supported_languages(settings)
    return [
        VIDEOS.verdict(
            "source_allowed_and_present",
            present,
            value=row.source,
            detail="" if present else f"there is no file {row.source}",
        ),
        VIDEOS.verdict(
            "language_supported",
            primary_language(row.language) in supported,
            value=row.language,
            threshold=", ".join(supported),
        ),
        VIDEOS.verdict("licence_stated", bool(row.licence), value=row.licence),
    ]


def supported_languages(settings: DatasetSettings) -> list[str]:
    """The primary tags of the settings' languages whose text can be normalised."""
    return sorted({primary_language(tag) for tag in settings.languages} & set(text.languages()))


def primary_language(tag: str) -> str:
    """`pt` of `pt-BR`, which is what XTTS tells apart."""
    return tag.split("-")[0].lower()


def absolute(store: CorpusStore, relative: str) -> Path:
    """The file that a path in `videos/<id>.json` names."""
    return (store.root.resolve() / relative).resolve()


def sidecars(path: Path) -> dict[str, Path]:
    """`name.<language>.vtt` or `.srt` beside `name.webm`, by language."""
    if not path.parent.is_dir():
        return {}
    found: dict[str, Path] = {}
    for suffix in SIDECAR_SUFFIXES:
        for file in sorted(path.parent.iterdir()):
            if not (file.name.startswith(f"{path.stem}.") and file.name.endswith(suffix)):
                continue
            language = file.name[len(path.stem) + 1 : -len(suffix)]
            if LANGUAGE.fullmatch(language) and file.is_file():
                found.setdefault(language, file)
    return found


def _row(csv_path: Path, video_id: str) -> CatalogueRow:
    catalogue = read_catalogue(csv_path)
    row = catalogue.row(video_id)
    if row is not None:
        return row
    shown = [f"line {p.line}: {p.reason}" for p in catalogue.problems[:MAX_PROBLEMS_SHOWN]]
    more = len(catalogue.problems) - len(shown)
    problems = "; ".join([*shown, f"and {more} more"] if more else shown)
    raise CatalogueError(
        f"No usable row has the id {video_id!r}",
        where=str(csv_path),
        remedy=f"These rows cannot be used: {problems}" if problems else "Add the row",
    )


def _source(store: CorpusStore, csv_path: Path, row: CatalogueRow) -> dict[str, Any]:
    path = local_path(csv_path, row.source)
    if path is None:
        return {"kind": "url", "url": row.source}
    present = path.is_file()
    return {
        "kind": "file",
        "path": _relative(store, path),
        "size_bytes": path.stat().st_size if present else None,
        "sha256": sha256_file(path) if present else None,
        "sidecars": [
            {"language": language, "path": _relative(store, file), "sha256": sha256_file(file)}
            for language, file in sorted(sidecars(path).items())
        ],
    }


def _relative(store: CorpusStore, path: Path) -> str:
    """Relative to the corpus root, also for a file outside it, so that the two can move
    together."""
    return Path(os.path.relpath(path.resolve(), store.root.resolve())).as_posix()
