"""videos.csv: which recordings the corpus is made of.

One bad row never costs another one: it is reported with its line and the reason. A file that
cannot be read as a catalogue, or whose end is missing, raises, so that nobody takes it for "no
videos" or "fewer videos".
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xtts_core.corpus.file_hashes import FileHashes, file_hashes
from xtts_core.corpus.sources import CONTROL, local_path, youtube_id
from xtts_core.corpus.table import Record, RowProblem, Table, read_table, records
from xtts_core.errors import CatalogueError
from xtts_core.store import sha256_json

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an id must match in full. Ids must also differ in lower case: some file systems do not
tell the cases apart, and Dagster validates no partition key."""
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
"""A language tag in the style of BCP 47: `pt`, `pt-BR`; YouTube's `pt-orig` matches too."""
COLUMNS = (
    *("video_id", "source", "title", "language", "speaker", "licence", "subtitles"),
    *("start", "end"),
)
DEFAULT_LANGUAGE = "pt"
DERIVED_ID_DIGITS = 12

_SPEAKER = re.compile(r"[^./\\][^/\\]{0,63}")
_CLOCK = re.compile(r"(?:(?:([0-9]{1,4}):)?([0-9]{1,6}):)?([0-9]{1,8}(?:[.,][0-9]{1,3})?)")


@dataclass(frozen=True)
class CatalogueRow:
    """One recording, with its defaults filled in.

    `source` is an http(s) URL or a local file (relative to the folder of videos.csv).
    `language` is a tag such as `pt` or `pt-BR`; `speaker` names the voice (default: the id);
    `subtitles` is `auto`, `none` or a language. Only the part from `start_s` to `end_s` (seconds
    of the recording) is used; None leaves that side open.
    """

    video_id: str
    source: str
    title: str
    language: str
    speaker: str
    licence: str
    subtitles: str
    start_s: float | None = None
    end_s: float | None = None

    @property
    def record(self) -> dict[str, Any]:
        """As JSON. An open side of the span is left out, so that a row without one has the hash
        that it had before there were spans."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def row_hash(self) -> str:
        """SHA-256 over all columns: it changes exactly when a cell does."""
        return sha256_json(self.record)


@dataclass(frozen=True)
class Catalogue:
    """The rows that can be used, in the order of the file, and what is wrong with the others."""

    rows: tuple[CatalogueRow, ...]
    problems: tuple[RowProblem, ...]

    def row(self, video_id: str) -> CatalogueRow | None:
        return self._by_id.get(video_id)

    @cached_property
    def _by_id(self) -> dict[str, CatalogueRow]:
        return {row.video_id: row for row in self.rows}


def read_catalogue(csv_path: Path, *, wait: bool = True) -> Catalogue:
    """Read videos.csv: UTF-8, with or without a byte order mark; cells are separated by commas,
    semicolons or tabs; a `sep=` line, empty lines before the header, and upper case in it count
    for nothing.

    Args:
        wait: for a file that may be in the middle of being written (`table.SETTLE_S`), instead of
            raising.

    Raises:
        CatalogueError: the file is missing, unreadable or empty, has no header with a `source`
            column, is still being written, or its end is missing (a quotation mark that is never
            closed, NUL bytes, a last line with too few cells and no line end).
    """
    table = read_table(csv_path, wait=wait)
    rows: dict[str, CatalogueRow] = {}
    problems: list[RowProblem] = []
    for record, row in read_rows(table, problems):
        if row is None:
            continue
        twin = rows.setdefault(row.video_id.lower(), row)
        if twin is not row:
            derived = not _cells(table, record).get("video_id", "").strip()
            problems.append(RowProblem(record.first, _clash(row, twin, derived)))
    return Catalogue(tuple(rows.values()), tuple(sorted(problems, key=lambda p: p.line)))


def listed_ids(csv_path: Path) -> set[str]:
    """The ids of the rows that can be used: what a fan-in may take.

    Raises:
        CatalogueError: the file cannot be read; then nobody knows which videos were withdrawn.
    """
    return {row.video_id for row in read_catalogue(csv_path).rows}


def read_rows(
    table: Table, problems: list[RowProblem]
) -> Iterator[tuple[Record, CatalogueRow | None]]:
    """Each record that is not empty, with its row, or None where it cannot be used; why is added
    to `problems`.

    Raises:
        CatalogueError: the header has no `source`, or the end of the file is missing.
    """
    _refuse_header(table)
    for name in table.header:
        if name and name not in COLUMNS:
            reason = f"unknown column {name!r}; {_nearest(name)}known are {', '.join(COLUMNS)}"
            problems.append(RowProblem(table.header_line, reason))
    with file_hashes(table.csv_path) as hashes:
        for record in records(table, problems):
            if not any(cell.strip() for cell in record.cells):
                continue
            try:
                row = make_row(table.csv_path, _cells(table, record), hashes)
            except ValueError as error:
                problems.append(RowProblem(record.first, str(error)))
                yield record, None
            else:
                yield record, row


def make_row(csv_path: Path, cells: Mapping[str, str], hashes: FileHashes) -> CatalogueRow:
    """The row of these cells, by the names of `COLUMNS`; one that is missing is empty.

    Raises:
        ValueError: the row cannot be used, with the reason.
    """
    given = {name: cells.get(name, "").strip() for name in COLUMNS}
    path = local_path(csv_path, given["source"])
    start_s, end_s = parse_span(given["start"], given["end"])
    video_id = given["video_id"] or _derived_id(given["source"], path, start_s, end_s, hashes)
    if not VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"video_id {video_id!r} must be 1 to 64 of the characters A-Z a-z 0-9 _ -")
    language = given["language"] or DEFAULT_LANGUAGE
    if not LANGUAGE.fullmatch(language):
        raise ValueError(f"language {language!r} is no language tag such as pt or pt-BR")
    subtitles = given["subtitles"] or "auto"
    if subtitles not in ("auto", "none") and not LANGUAGE.fullmatch(subtitles):
        raise ValueError(f"subtitles {subtitles!r} must be auto, none or a language such as pt-BR")
    speaker = given["speaker"] or video_id
    if not _SPEAKER.fullmatch(speaker) or CONTROL.search(speaker):
        raise ValueError(
            f"speaker {speaker!r} must have 1 to 64 characters, no slash, and no leading full stop"
        )
    return CatalogueRow(
        video_id=video_id,
        source=given["source"],
        title=given["title"],
        language=language,
        speaker=speaker,
        licence=given["licence"],
        subtitles=subtitles,
        start_s=start_s,
        end_s=end_s,
    )


def parse_clock(text: str) -> float:
    """Seconds from `75.5`, `1:15.5` or `0:01:15.5`, to the millisecond.

    Raises ValueError with the reason.
    """
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time such as 75.5, 1:15.5 or 0:01:15.5")
    hours, minutes, seconds = found[1], found[2], float(found[3].replace(",", "."))
    if (minutes and seconds >= 60) or (hours and int(minutes) >= 60):
        raise ValueError(f"{text!r} has 60 or more in a place that carries over")
    return round(int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds, 3)


def parse_span(start: str, end: str) -> tuple[float | None, float | None]:
    """The two sides in seconds; an empty one is open. Raises ValueError with the reason."""
    sides = []
    for name, text in (("start", start), ("end", end)):
        try:
            sides.append(parse_clock(text) if text else None)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    start_s, end_s = sides
    if end_s is not None and end_s <= (start_s or 0):
        raise ValueError(f"end {end!r} does not come after start {start or '0'!r}")
    return start_s, end_s


def format_clock(seconds: float) -> str:
    """`H:MM:SS.mmm` without the parts that are zero; `parse_clock` gives `seconds` back."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return clock + f".{milliseconds:03}".rstrip("0").rstrip(".")


def format_span(row: CatalogueRow) -> str:
    """The part of the recording that a row uses, for a person."""
    if row.start_s is None and row.end_s is None:
        return "whole"
    end = "end" if row.end_s is None else format_clock(row.end_s)
    return f"{format_clock(row.start_s or 0)}–{end}"


def _refuse_header(table: Table) -> None:
    if "source" in table.header:
        return
    if not table.header:
        what = "The catalogue is empty"
    elif not set(COLUMNS).intersection(table.header):
        what = "The header is missing"
    else:
        named = ", ".join(name for name in table.header if name)
        what = f"The header names no column 'source', but {named}"
    raise CatalogueError(
        what,
        where=f"{table.csv_path}, line {table.header_line}",
        remedy=f"The first line must name the columns; known are {', '.join(COLUMNS)}",
    )


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, COLUMNS, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _clash(row: CatalogueRow, twin: CatalogueRow, derived: bool) -> str:
    """Why the second of two rows with one id is not taken."""
    if derived and row.video_id == twin.video_id:
        return f"{row.source} is the same recording as {twin.source}"
    same = "stands twice" if twin.video_id == row.video_id else "differs only in case"
    return f"video_id {row.video_id!r} {same} ({twin.source})"


def _cells(table: Table, record: Record) -> dict[str, str]:
    named = dict(zip(table.header, record.cells, strict=False))
    unnamed = [c for name, c in zip(table.header, record.cells, strict=False) if not name]
    if any(cell.strip() for cell in (*unnamed, *record.cells[len(table.header) :])):
        raise ValueError(
            f"{len(record.cells)} cells under {sum(map(bool, table.header))} columns; "
            f"a cell with a {table.delimiter!r} needs quotation marks"
        )
    return named


def _derived_id(
    source: str,
    path: Path | None,
    start_s: float | None,
    end_s: float | None,
    hashes: FileHashes,
) -> str:
    """The id of a YouTube video, or the first digits of the SHA-256 of a file's content or of
    another URL; after it, of a part, `_<start>-<end>` in milliseconds (`end` where it is open)."""
    if path is None:
        whole = youtube_id(source) or hashlib.sha256(source.encode()).hexdigest()
    else:
        try:
            whole = hashes.of(source, path)
        except OSError as error:
            raise ValueError(
                f"no video_id is given and none can be derived from {source!r}: {error.strerror}"
            ) from None
    whole = whole[:DERIVED_ID_DIGITS]
    if start_s is None and end_s is None:
        return whole
    end = "end" if end_s is None else round(end_s * 1000)
    return f"{whole}_{round((start_s or 0) * 1000)}-{end}"
