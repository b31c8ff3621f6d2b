"""Adding rows to videos.csv and taking them out. Every other byte stays as it is, and the form of
the file (separator, header, line ends, what stands before the header) is that of what is added;
the file is replaced as a whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from xtts_core.corpus.catalogue import (
    COLUMNS,
    DEFAULT_LANGUAGE,
    CatalogueRow,
    format_clock,
    make_row,
    parse_span,
    read_rows,
)
from xtts_core.corpus.file_hashes import file_hashes
from xtts_core.corpus.sources import LeftOut, local_path, relative_source, youtube_id
from xtts_core.corpus.table import Table, parse_table, read_table
from xtts_core.errors import CatalogueError
from xtts_core.stage import Progress, silent
from xtts_core.store import atomic_file


@dataclass(frozen=True)
class Added:
    """What `append_rows` did: the rows it wrote, how many recordings were in the file already,
    and which could not be taken."""

    rows: tuple[CatalogueRow, ...]
    known: int
    left_out: tuple[LeftOut, ...]


def append_row(csv_path: Path, *, source: str, video_id: str = "", **cells: str) -> CatalogueRow:
    """Add one row (`cells` by the other names of `COLUMNS`); the file is made if it is missing.

    A derived id is written down, so that the file never needs to be hashed again. A local file
    may also be named relative to the working directory; what is written down is relative to the
    folder of the catalogue, so that the two can move together. A column that the file lacks is
    added to its header.

    Raises:
        CatalogueError: the row cannot be used, its id is taken, or its local file is missing; or
            the file cannot be read or seems half written.
    """
    with _lock(csv_path), file_hashes(csv_path) as hashes:
        table = _table_or_new(csv_path)
        listed = _listed(table)
        try:
            given = {"source": _as_seen_from(csv_path, source.strip()), "video_id": video_id}
            row = make_row(csv_path, cells | given, hashes)
        except ValueError as error:
            raise CatalogueError(f"The row cannot be added: {error}", where=str(csv_path)) from None
        twin = next(
            (twin for twin in listed if twin.video_id.lower() == row.video_id.lower()), None
        )
        if twin is not None:
            raise _taken(csv_path, twin, derived=not video_id)
        _write(table, [row])
    return row


def append_rows(
    csv_path: Path, given: Sequence[Mapping[str, str]], progress: Progress = silent
) -> Added:
    """Add many rows (as mappings of `COLUMNS`) in one replacement of the file.

    A recording that the file has already (the same source or the same derived id, with the same
    span) is counted and left alone; what cannot be a row is named.

    Raises:
        CatalogueError: the file cannot be read or seems half written.
    """
    rows: list[CatalogueRow] = []
    left_out: list[LeftOut] = []
    known = 0
    with _lock(csv_path), file_hashes(csv_path) as hashes:
        table = _table_or_new(csv_path)
        listed = _listed(table)
        by_id = {row.video_id.lower(): row.video_id for row in listed}
        recordings = {_recording(csv_path, row.source, row.start_s, row.end_s) for row in listed}
        for done, cells in enumerate(given, 1):
            try:
                source = _as_seen_from(csv_path, cells["source"].strip())
                span = parse_span(cells.get("start", "").strip(), cells.get("end", "").strip())
                recording = _recording(csv_path, source, *span)
                if recording in recordings:
                    known += 1
                    continue
                row = make_row(csv_path, {**cells, "source": source}, hashes)
            except ValueError as error:
                left_out.append(LeftOut(cells["source"], str(error)))
                continue
            recordings.add(recording)
            twin = by_id.get(row.video_id.lower())
            if twin is None:
                by_id[row.video_id.lower()] = row.video_id
                rows.append(row)
            elif twin == row.video_id:
                known += 1
            else:
                reason = f"its id {row.video_id!r} differs from {twin!r} only in case"
                left_out.append(LeftOut(row.source, reason))
            progress(done, len(given), "rows")
        if rows:
            _write(table, rows)
    return Added(tuple(rows), known, tuple(left_out))


def remove_row(csv_path: Path, video_id: str) -> CatalogueRow:
    """Remove the row of one id; every other line stays as it is.

    Raises:
        CatalogueError: no usable row has that id; or the file cannot be read or seems half
            written.
    """
    with _lock(csv_path):
        table = read_table(csv_path)
        rows = list(read_rows(table, []))
        for record, row in rows:
            if row is not None and row.video_id == video_id:
                kept = [*table.lines[: record.first - 1], *table.lines[record.last :]]
                _replace(csv_path, table.mark + "".join(kept))
                return row
    raise CatalogueError(
        f"No row has the id {video_id!r}",
        where=str(csv_path),
        remedy="`xtts videos list` names the rows",
    )


def _table_or_new(csv_path: Path) -> Table:
    if csv_path.exists():
        return read_table(csv_path)
    return parse_table(csv_path, ",".join(COLUMNS) + "\n")


def _listed(table: Table) -> list[CatalogueRow]:
    return [row for _, row in read_rows(table, []) if row is not None]


def _taken(csv_path: Path, twin: CatalogueRow, *, derived: bool) -> CatalogueError:
    if derived:
        what = f"This is the same recording as {twin.source}, whose id is {twin.video_id!r}"
        remedy = "Nothing need be added; to have it twice, give the row a video_id"
    else:
        what = f"The id {twin.video_id!r} is taken by {twin.source}"
        remedy = "Give the row another video_id"
    return CatalogueError(what, where=str(csv_path), remedy=remedy)


def _recording(
    csv_path: Path, source: str, start_s: float | None, end_s: float | None
) -> tuple[str, float | None, float | None]:
    """What a row stands for, however its source is written."""
    path = local_path(csv_path, source)
    name = youtube_id(source) or source if path is None else str(path.resolve())
    return name, start_s, end_s


def _as_seen_from(csv_path: Path, source: str) -> str:
    path = local_path(csv_path, source)
    if path is None or path.is_file():
        return source
    here = Path(source).resolve()
    if not here.is_file():
        raise ValueError(f"there is no file {source!r}")
    return relative_source(csv_path, here)


def _write(table: Table, rows: Sequence[CatalogueRow]) -> None:
    """Add rows to the end; the header gets the columns that they need and the file lacks."""
    needed = {name for row in rows for name in _needed(row)}
    header = [*table.header, *(name for name in COLUMNS if name in needed - {*table.header})]
    lines = [*table.lines]
    named = lines[table.head - 1]
    body = named.rstrip("\r\n")
    line_end = named[len(body) :]
    added = table.delimiter.join(["", *header[len(table.header) :]])
    lines[table.head - 1] = body + added + line_end
    if not table.ended:
        lines.append(line_end)
    text = io.StringIO(newline="")
    text.writelines(lines)
    writer = csv.writer(text, lineterminator=line_end, delimiter=table.delimiter)
    for row in rows:
        cells = _written(row)
        writer.writerow([cells.get(name, "") for name in header])
    _replace(table.csv_path, table.mark + text.getvalue())


def _written(row: CatalogueRow) -> dict[str, str]:
    return {
        "video_id": row.video_id,
        "source": row.source,
        "title": row.title,
        "language": row.language,
        "speaker": row.speaker,
        "licence": row.licence,
        "subtitles": row.subtitles,
        "start": "" if row.start_s is None else format_clock(row.start_s),
        "end": "" if row.end_s is None else format_clock(row.end_s),
    }


def _needed(row: CatalogueRow) -> set[str]:
    """The columns without which a row would be read back as another one."""
    defaults = {"language": DEFAULT_LANGUAGE, "speaker": row.video_id, "subtitles": "auto"}
    return {name for name, cell in _written(row).items() if cell != defaults.get(name, "")}


def _lock(csv_path: Path) -> FileLock:
    csv_path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(csv_path.parent / f".{csv_path.name}.lock")


def _replace(csv_path: Path, text: str) -> None:
    with atomic_file(csv_path.resolve()) as aside:
        aside.write_bytes(text.encode("utf-8"))
