"""The file that the catalogue lies in: a table as people and spreadsheets write it.

Its form (byte order mark, lines before the header, line ends, separator, spelling of the header)
is kept apart from its cells, so that an edit keeps it. What the columns mean is no concern here.
"""

from __future__ import annotations

import csv
import io
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtts_core.errors import CatalogueError

SETTLE_S = 5.0
"""A file whose last line has no end may be cut within its last cell, where nothing tells: many
editors leave the end of the last line out. It counts as whole once it rests for this long: more
than the 3 s for which an NFS client may show an old time of change (nfs(5), `acregmin`), less than
the 10 s between two ticks of the sensor, so that such an editor costs one tick."""
GIVE_UP_S = 30.0
"""Whoever still writes then does not write a catalogue of ten thousand rows (1 MB)."""
_POLL_S = 0.2

_LOOKS_UTF_16 = re.compile(rb"[^\0]\0|\0[^\0]")
_DELIMITERS = ",;\t"
"""Excel writes the second where the decimal sign is a comma, as in Brazil."""
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?[,;\t|\s]*', re.IGNORECASE)
"""The first line by which Excel is told the separator; LibreOffice quotes it and fills it up."""
_NOTHING = " \t\r\n,;|"
"""What a line without a cell is made of; spreadsheets keep the separators of an empty row."""
_MARK = "\ufeff"
_SAVE_AS = "In Excel, save it as 'CSV UTF-8'"


@dataclass(frozen=True)
class Table:
    """The file: its byte order mark if any, its lines with their ends, the cell separator, the
    names of the columns (lower case, no padding; none where the file has no header), the line
    that these stand in (from 1), and how many lines there are up to the first row."""

    csv_path: Path
    mark: str
    lines: Sequence[str]
    delimiter: str
    header: Sequence[str]
    header_line: int
    head: int

    @property
    def ended(self) -> bool:
        """Whether the last line has an end."""
        return bool(self.lines) and self.lines[-1].endswith(("\n", "\r"))


@dataclass(frozen=True)
class Record:
    """A row as it stands in the file: its lines (from 1, `last` included) and its cells."""

    first: int
    last: int
    cells: Sequence[str]


@dataclass(frozen=True)
class RowProblem:
    """A row that cannot be used: its first line in the file (from 1), and why."""

    line: int
    reason: str


def read_table(csv_path: Path, *, wait: bool = True) -> Table:
    """Read the file: UTF-8, with or without a byte order mark; cells are separated by commas,
    semicolons or tabs, or as a line `sep=` says.

    Args:
        wait: for a file that may be in the middle of being written (`SETTLE_S`), instead of
            raising.

    Raises:
        CatalogueError: the file is missing, unreadable, damaged, half written or still being
            written.
    """
    return parse_table(csv_path, _text(csv_path, _settled(csv_path, wait)))


def parse_table(csv_path: Path, text: str) -> Table:
    """The table in `text`, which is, or will be, the content of `csv_path`.

    Raises:
        CatalogueError: the header is no CSV, names a column twice, or has no line end.
    """
    mark = _MARK if text.startswith(_MARK) else ""
    lines = list(io.StringIO(text.removeprefix(_MARK), newline=""))
    before, delimiter = _before_header(lines)
    where = f"{csv_path}, line {before + 1}"
    reader = csv.reader(lines[before:], strict=True, delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise CatalogueError(f"The header cannot be read: {error}", where=where) from None
    for name in header:
        if name and header.count(name) > 1:
            raise CatalogueError(f"The column {name!r} stands twice", where=where)
    head = before + reader.line_num
    table = Table(csv_path, mark, lines, delimiter, header, before + 1, head)
    if header and head == len(lines) and not table.ended:
        raise _half_written(table, head, "the header has no line end")
    return table


def records(table: Table, problems: list[RowProblem]) -> Iterator[Record]:
    """The rows of a table. One that is not CSV costs its first line alone and is named in
    `problems`: reading goes on with the next line, so that a stray quotation mark does not swallow
    the rows up to the next one.

    Raises:
        CatalogueError: the end of the file is missing.
    """
    lines = table.lines
    start = table.head
    while start < len(lines):
        rest = map(lines.__getitem__, range(start, len(lines)))
        reader = csv.reader(rest, strict=True, delimiter=table.delimiter)
        first = start + 1
        try:
            for cells in reader:
                record = Record(first, start + reader.line_num, cells)
                _refuse_cut(table, record)
                yield record
                first = record.last + 1
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise _half_written(table, first, "a quotation mark is never closed") from None
            problems.append(RowProblem(first, f"not a CSV row: {error}"))
            start = first


def _settled(csv_path: Path, wait: bool) -> bytes:
    give_up_at = time.monotonic() + GIVE_UP_S
    while True:
        content, age_s = _content(csv_path)
        if content.endswith((b"\n", b"\r")) or age_s >= SETTLE_S:
            return content
        if not wait or time.monotonic() > give_up_at:
            raise CatalogueError(
                f"The last line has no end, and the file changed {age_s:.1f} s ago: it may be "
                "half written",
                where=str(csv_path),
                remedy=f"It is read once it ends in a line end, or rests for {SETTLE_S:g} s",
            )
        time.sleep(_POLL_S)


def _content(csv_path: Path) -> tuple[bytes, float]:
    """The bytes, and how many seconds ago they changed. The time is taken after the bytes and of
    the same file, so that what is written meanwhile makes it look young and not old. A time that
    lies ahead, by a clock that is wrong, is as far away as one that has passed."""
    try:
        with csv_path.open("rb") as file:
            content = file.read()
            return content, abs(time.time() - os.fstat(file.fileno()).st_mtime)
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


def _text(csv_path: Path, content: bytes) -> str:
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


def _before_header(lines: Sequence[str]) -> tuple[int, str]:
    """How many lines stand before the header, and the separator: the one that is told, or the one
    that the header has most of."""
    told = ""
    for before, line in enumerate(lines):
        if found := _SEPARATOR_LINE.fullmatch(line):
            told = found[1]
        elif line.strip(_NOTHING):
            return before, told or max(_DELIMITERS, key=line.count)
    return len(lines), told or ","


def _refuse_cut(table: Table, record: Record) -> None:
    if record.last < len(table.lines) or table.ended:
        return
    if len(record.cells) < len(table.header):
        why = f"{len(record.cells)} cells under {len(table.header)} columns, and no line end"
        raise _half_written(table, record.first, why)


def _half_written(table: Table, line: int, why: str) -> CatalogueError:
    return CatalogueError(
        f"The catalogue seems half written: {why}",
        where=f"{table.csv_path}, line {line}",
        remedy="Complete that line and end it, or restore the file from a copy",
    )
