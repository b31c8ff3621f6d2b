"""videos.csv: which recordings the corpus is made of.

One bad row never costs another one: it is reported with its line and the reason. A file that
cannot be read as a catalogue, or whose end is missing, raises, so that nobody takes it for "no
videos" or "fewer videos".
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from xtts_core.corpus.file_hashes import FileHashes, file_hashes
from xtts_core.corpus.sources import CONTROL, local_path, relative_source, youtube_id
from xtts_core.errors import CatalogueError
from xtts_core.stage import Progress, silent
from xtts_core.store import atomic_file, sha256_json

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
_LOOKS_UTF_16 = re.compile(rb"[^\0]\0|\0[^\0]")
_DELIMITERS = ",;\t"
"""Excel writes the second where the decimal sign is a comma, as in Brazil."""
_MARK = "\ufeff"
_SAVE_AS = "In Excel, save it as 'CSV UTF-8'"


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
class RowProblem:
    """A row that cannot be used: its first line in the file (from 1), and why."""

    line: int
    reason: str


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


@dataclass(frozen=True)
class LeftOut:
    """Something that got no row, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Added:
    """What `append_rows` did: the rows it wrote, how many recordings were in the file already,
    and which could not be taken."""

    rows: tuple[CatalogueRow, ...]
    known: int
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class _Table:
    """The file: its byte order mark if any, its lines with their ends, the cell separator, the
    names of the columns, and how many lines these take."""

    csv_path: Path
    mark: str
    lines: Sequence[str]
    delimiter: str
    header: Sequence[str]
    header_lines: int


@dataclass(frozen=True)
class _Record:
    """A row as it stands in the file: its lines (from 1, `last` included) and its cells."""

    first: int
    last: int
    cells: Sequence[str]


# --- reading ----------------------------------------------------------------------------------


def read_catalogue(csv_path: Path) -> Catalogue:
    """Read videos.csv (UTF-8, with or without a byte order mark; cells are separated by commas,
    semicolons or tabs).

    Raises:
        CatalogueError: the file is missing, unreadable or empty, its first line is not a header
            with a `source` column, or its end is missing (a quotation mark that is never closed,
            NUL bytes, a last line with too few cells and no line end).
    """
    rows: dict[str, CatalogueRow] = {}
    problems: list[RowProblem] = []
    for record, row in _read(_table(csv_path), problems):
        if row is None:
            continue
        twin = rows.setdefault(row.video_id.lower(), row)
        if twin is not row:
            same = "stands twice" if twin.video_id == row.video_id else "differs only in case"
            problems.append(
                RowProblem(record.first, f"video_id {row.video_id!r} {same} ({twin.source})")
            )
    return Catalogue(tuple(rows.values()), tuple(sorted(problems, key=lambda p: p.line)))


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


def _table(csv_path: Path, text: str | None = None) -> _Table:
    text = _text(csv_path) if text is None else text
    mark = _MARK if text.startswith(_MARK) else ""
    lines = list(io.StringIO(text.removeprefix(_MARK), newline=""))
    first_line = lines[0] if lines else ""
    delimiter = max(_DELIMITERS, key=first_line.count)
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise CatalogueError(
            f"The header cannot be read: {error}", where=f"{csv_path}, line 1"
        ) from None
    if "source" not in header:
        raise CatalogueError(
            "The catalogue is empty"
            if not text.strip(f"{_MARK} \r\n")
            else "The header is missing",
            where=f"{csv_path}, line 1",
            remedy=f"The first line must name the columns: {','.join(COLUMNS)}",
        )
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        raise CatalogueError("A column stands twice", where=f"{csv_path}, line 1")
    table = _Table(csv_path, mark, lines, delimiter, header, reader.line_num)
    if len(lines) == table.header_lines and not _ends_line(lines[-1]):
        raise _half_written(table, len(lines), "the header has no line end")
    return table


def _text(csv_path: Path) -> str:
    try:
        content = csv_path.read_bytes()
    except FileNotFoundError:
        raise CatalogueError(
            "The catalogue is missing",
            where=str(csv_path),
            remedy="Create it with `xtts videos add`, or point XTTS_VIDEOS_CSV at it",
        ) from None
    except OSError as error:
        raise CatalogueError(
            f"The catalogue cannot be read: {error.strerror}", where=str(csv_path)
        ) from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or _LOOKS_UTF_16.match(content):
        raise CatalogueError(
            "The catalogue is UTF-16, not UTF-8", where=str(csv_path), remedy=_SAVE_AS
        )
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise CatalogueError(
            "The catalogue holds NUL bytes, so it is damaged or only half written",
            where=f"{csv_path}, line {line}",
            remedy="Restore it from a copy",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CatalogueError(
            f"The catalogue is not UTF-8: {error}", where=str(csv_path), remedy=_SAVE_AS
        ) from None


def _ends_line(line: str) -> bool:
    return line.endswith(("\n", "\r"))


def _half_written(table: _Table, line: int, why: str) -> CatalogueError:
    return CatalogueError(
        f"The catalogue seems half written: {why}",
        where=f"{table.csv_path}, line {line}",
        remedy="Complete that line and end it, or restore the file from a copy",
    )


def _read(
    table: _Table, problems: list[RowProblem]
) -> Iterator[tuple[_Record, CatalogueRow | None]]:
    for name in table.header:
        if name and name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}"
            problems.append(RowProblem(1, f"unknown column {name!r}; {hint}"))
    with file_hashes(table.csv_path) as hashes:
        for record in _records(table, problems):
            if not any(cell.strip() for cell in record.cells):
                continue
            try:
                row = _row(table.csv_path, _cells(table, record), hashes)
            except ValueError as error:
                problems.append(RowProblem(record.first, str(error)))
                yield record, None
            else:
                yield record, row


def _records(table: _Table, problems: list[RowProblem]) -> Iterator[_Record]:
    """A record that is not CSV costs its first line alone: reading goes on with the next line, so
    that a stray quotation mark does not swallow the rows up to the next one."""
    lines = table.lines
    start = table.header_lines
    while start < len(lines):
        rest = map(lines.__getitem__, range(start, len(lines)))
        reader = csv.reader(rest, strict=True, delimiter=table.delimiter)
        first = start + 1
        try:
            for cells in reader:
                record = _Record(first, start + reader.line_num, cells)
                _refuse_cut(table, record)
                yield record
                first = record.last + 1
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise _half_written(table, first, "a quotation mark is never closed") from None
            problems.append(RowProblem(first, f"not a CSV row: {error}"))
            start = first


def _refuse_cut(table: _Table, record: _Record) -> None:
    if record.last < len(table.lines) or _ends_line(table.lines[-1]):
        return
    if len(record.cells) < len(table.header):
        why = f"{len(record.cells)} cells under {len(table.header)} columns, and no line end"
        raise _half_written(table, record.first, why)


def _cells(table: _Table, record: _Record) -> dict[str, str]:
    named = dict(zip(table.header, record.cells, strict=False))
    unnamed = [c for name, c in zip(table.header, record.cells, strict=False) if not name]
    if any(cell.strip() for cell in (*unnamed, *record.cells[len(table.header) :])):
        raise ValueError(
            f"{len(record.cells)} cells under {sum(map(bool, table.header))} columns; "
            f"a cell with a {table.delimiter!r} needs quotation marks"
        )
    return named


def _row(csv_path: Path, cells: Mapping[str, str], hashes: FileHashes) -> CatalogueRow:
    """Raises ValueError with the reason why the row cannot be used."""
    given = {name: cells.get(name, "").strip() for name in COLUMNS}
    path = local_path(csv_path, given["source"])
    start_s, end_s = _span(given["start"], given["end"])
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


def _span(start: str, end: str) -> tuple[float | None, float | None]:
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


# --- editing ----------------------------------------------------------------------------------


def append_row(
    csv_path: Path,
    *,
    source: str,
    video_id: str = "",
    title: str = "",
    language: str = "",
    speaker: str = "",
    licence: str = "",
    subtitles: str = "",
    start: str = "",
    end: str = "",
) -> CatalogueRow:
    """Add one row; the file (made if missing) is replaced as a whole or not at all.

    A derived id is written down, so that the file never needs to be hashed again. A local file
    may also be named relative to the working directory; what is written down is relative to the
    folder of the catalogue, so that the two can move together. A column that the file lacks is
    added to its header.

    Raises:
        CatalogueError: the row cannot be used, its id is taken, or its local file is missing; or
            the file cannot be read or seems half written.
    """
    given = {
        "video_id": video_id,
        "source": source.strip(),
        "title": title,
        "language": language,
        "speaker": speaker,
        "licence": licence,
        "subtitles": subtitles,
        "start": start,
        "end": end,
    }
    with _lock(csv_path), file_hashes(csv_path) as hashes:
        table = _table_or_new(csv_path)
        listed = _listed(table)
        try:
            given["source"] = _as_seen_from(csv_path, given["source"])
            row = _row(csv_path, given, hashes)
        except ValueError as error:
            raise CatalogueError(f"The row cannot be added: {error}", where=str(csv_path)) from None
        twin = next(
            (twin for twin in listed if twin.video_id.lower() == row.video_id.lower()), None
        )
        if twin is not None:
            raise CatalogueError(
                f"The id {row.video_id!r} is taken by {twin.source}",
                where=str(csv_path),
                remedy="Give the row another video_id",
            )
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
                span = _span(cells.get("start", "").strip(), cells.get("end", "").strip())
                recording = _recording(csv_path, source, *span)
                if recording in recordings:
                    known += 1
                    continue
                row = _row(csv_path, {**cells, "source": source}, hashes)
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
        table = _table(csv_path)
        rows = list(_read(table, []))
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


def _table_or_new(csv_path: Path) -> _Table:
    return _table(csv_path, None if csv_path.exists() else ",".join(COLUMNS) + "\n")


def _listed(table: _Table) -> list[CatalogueRow]:
    return [row for _, row in _read(table, []) if row is not None]


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


def _write(table: _Table, rows: Sequence[CatalogueRow]) -> None:
    """Add rows to the end; the header gets the columns that they need and the file lacks."""
    needed = {name for row in rows for name in _needed(row)}
    header = [*table.header, *(name for name in COLUMNS if name in needed - {*table.header})]
    lines = [*table.lines]
    last = lines[table.header_lines - 1]
    body = last.rstrip("\r\n")
    added = table.delimiter.join(["", *header[len(table.header) :]])
    lines[table.header_lines - 1] = body + added + last[len(body) :]
    text = io.StringIO(newline="")
    text.writelines(lines)
    if not _ends_line(lines[-1]):
        text.write("\n")
    writer = csv.writer(text, lineterminator="\n", delimiter=table.delimiter)
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
