"""videos.csv: which recordings the corpus is made of.

One bad row never costs another one: it is reported with its line and the reason. A file that
cannot be read as a catalogue raises, so that nobody takes it for "no videos".
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from filelock import FileLock

from xtts_core.errors import CatalogueError
from xtts_core.store import atomic_file, sha256_file, sha256_json

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an id must match in full. Ids must also differ in lower case: some file systems do not
tell the cases apart, and Dagster validates no partition key."""
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
"""A language tag in the style of BCP 47: `pt`, `pt-BR`; YouTube's `pt-orig` matches too."""
COLUMNS = ("video_id", "source", "title", "language", "speaker", "licence", "subtitles")
DEFAULT_LANGUAGE = "pt"
DERIVED_ID_DIGITS = 12

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPEAKER = re.compile(r"[^./\\][^/\\]{0,63}")
_YOUTUBE_HOSTS = ("youtube.com", "youtube-nocookie.com")
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_YOUTUBE_FOLDERS = ("shorts", "embed", "live", "v", "e")


@dataclass(frozen=True)
class CatalogueRow:
    """One recording, with its defaults filled in.

    `source` is an http(s) URL or a local file (relative to the folder of videos.csv).
    `language` is a tag such as `pt` or `pt-BR`; `speaker` names the voice (default: the id);
    `subtitles` is `auto`, `none` or a language.
    """

    video_id: str
    source: str
    title: str
    language: str
    speaker: str
    licence: str
    subtitles: str

    @property
    def row_hash(self) -> str:
        """SHA-256 over all columns: it changes exactly when a cell does."""
        return sha256_json(asdict(self))


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
        return next((row for row in self.rows if row.video_id == video_id), None)


@dataclass(frozen=True)
class _Record:
    """A row as it stands in the file: its lines (from 1, `last` included) and its cells."""

    first: int
    last: int
    cells: Sequence[str]


def read_catalogue(csv_path: Path) -> Catalogue:
    """Read videos.csv (UTF-8, with or without a byte order mark).

    Raises:
        CatalogueError: the file is missing, unreadable or empty, or its first line is not a
            header with a `source` column.
    """
    rows: dict[str, CatalogueRow] = {}
    problems: list[RowProblem] = []
    for record, row in _read(csv_path, _text(csv_path), problems):
        if row is None:
            continue
        twin = rows.setdefault(row.video_id.lower(), row)
        if twin is not row:
            same = "stands twice" if twin.video_id == row.video_id else "differs only in case"
            problems.append(
                RowProblem(record.first, f"video_id {row.video_id!r} {same} ({twin.source})")
            )
    return Catalogue(tuple(rows.values()), tuple(sorted(problems, key=lambda p: p.line)))


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
) -> CatalogueRow:
    """Add one row; the file (made if missing) is replaced as a whole or not at all.

    A derived id is written down, so that the file never needs to be hashed again. A local file
    may also be named relative to the working directory; what is written down is relative to the
    folder of the catalogue, so that the two can move together.

    Raises:
        CatalogueError: the row cannot be used, its id is taken, or its local file is missing.
    """
    given = {
        "video_id": video_id,
        "source": source.strip(),
        "title": title,
        "language": language,
        "speaker": speaker,
        "licence": licence,
        "subtitles": subtitles,
    }
    with _lock(csv_path):
        text = _text(csv_path) if csv_path.exists() else ",".join(COLUMNS) + "\n"
        try:
            given["source"] = _as_seen_from(csv_path, given["source"])
            row = _row(csv_path, given)
        except ValueError as error:
            raise CatalogueError(f"The row cannot be added: {error}", where=str(csv_path)) from None
        lower = row.video_id.lower()
        for _, twin in _read(csv_path, text, []):
            if twin is None or twin.video_id.lower() != lower:
                continue
            raise CatalogueError(
                f"The id {row.video_id!r} is taken by {twin.source}",
                where=str(csv_path),
                remedy="Give the row another video_id",
            )
        cells = asdict(row)
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(
            [cells.get(name, "") for name in _header(csv_path, text)]
        )
        separator = "" if text.endswith(("\n", "\r")) else "\n"
        _replace(csv_path, text + separator + line.getvalue())
    return row


def remove_row(csv_path: Path, video_id: str) -> CatalogueRow:
    """Remove the row of one id; every other line stays as it is.

    Raises:
        CatalogueError: no usable row has that id.
    """
    with _lock(csv_path):
        text = _text(csv_path)
        for record, row in _read(csv_path, text, []):
            if row is not None and row.video_id == video_id:
                lines = _lines(text)
                kept = lines[: record.first - 1] + lines[record.last :]
                _replace(csv_path, "".join(kept))
                return row
    raise CatalogueError(
        f"No row has the id {video_id!r}",
        where=str(csv_path),
        remedy="`xtts videos list` names the rows",
    )


def local_path(csv_path: Path, source: str) -> Path | None:
    """The file that a source names, or None for a URL. It need not be there.

    Raises:
        ValueError: the source is not allowed.
    """
    if not source:
        raise ValueError("source is empty")
    if source.startswith("-"):
        raise ValueError(
            f"source {source!r} starts with '-' and could be taken for an option; "
            f"write './{source}' for a file"
        )
    if _CONTROL.search(source):
        raise ValueError(f"source {source!r} holds a control character")
    scheme = _SCHEME.match(source)
    if scheme is None:
        return csv_path.parent / source
    name = scheme[1].lower()
    if name not in ("http", "https", "file"):
        raise ValueError(
            f"source {source!r} has the scheme {name!r}; allowed are http, https and files "
            f"(write './{source}' for a file of that name)"
        )
    try:
        url = urlsplit(source)
    except ValueError as error:
        raise ValueError(f"source {source!r} is no URL: {error}") from None
    if name == "file":
        if url.netloc not in ("", "localhost") or not url.path.startswith("/"):
            raise ValueError(f"source {source!r} does not name a file of this machine")
        return Path(unquote(url.path))
    if not url.hostname:
        raise ValueError(f"source {source!r} has no host name")
    return None


def youtube_id(url: str) -> str | None:
    """The eleven-character id in any of the forms of a YouTube address, or None."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    path = [part for part in parts.path.split("/") if part]
    candidate = ""
    if host in ("youtu.be", "www.youtu.be"):
        candidate = path[0] if path else ""
    elif any(host == known or host.endswith("." + known) for known in _YOUTUBE_HOSTS):
        if len(path) >= 2 and path[0] in _YOUTUBE_FOLDERS:
            candidate = path[1]
        elif path == ["watch"]:
            candidate = parse_qs(parts.query).get("v", [""])[0]
    return candidate if _YOUTUBE_ID.fullmatch(candidate) else None


def _text(csv_path: Path) -> str:
    try:
        return csv_path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise CatalogueError(
            "The catalogue is missing",
            where=str(csv_path),
            remedy="Create it with `xtts videos add`, or point XTTS_VIDEOS_CSV at it",
        ) from None
    except UnicodeDecodeError as error:
        raise CatalogueError(
            f"The catalogue is not UTF-8: {error}",
            where=str(csv_path),
            remedy="Save it as CSV UTF-8",
        ) from None
    except OSError as error:
        raise CatalogueError(
            f"The catalogue cannot be read: {error.strerror}", where=str(csv_path)
        ) from error


def _lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline=""))


def _header(csv_path: Path, text: str) -> list[str]:
    try:
        first = next(csv.reader(_lines(text.removeprefix("\ufeff")), strict=True), [])
    except csv.Error as error:
        raise CatalogueError(
            f"The header cannot be read: {error}", where=f"{csv_path}, line 1"
        ) from None
    header = [name.strip() for name in first]
    if "source" not in header:
        raise CatalogueError(
            "The catalogue is empty" if not text.strip("\ufeff \r\n") else "The header is missing",
            where=f"{csv_path}, line 1",
            remedy=f"The first line must name the columns: {','.join(COLUMNS)}",
        )
    if len(set(header)) < len(header):
        raise CatalogueError("A column stands twice", where=f"{csv_path}, line 1")
    return header


def _read(
    csv_path: Path, text: str, problems: list[RowProblem]
) -> Iterator[tuple[_Record, CatalogueRow | None]]:
    header = _header(csv_path, text)
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}"
            problems.append(RowProblem(1, f"unknown column {name!r}; {hint}"))
    for record in _records(text, problems):
        if not any(cell.strip() for cell in record.cells):
            continue
        try:
            if len(record.cells) > len(header):
                raise ValueError(
                    f"{len(record.cells)} cells under {len(header)} columns; "
                    "a cell with a comma needs quotation marks"
                )
            row = _row(csv_path, dict(zip(header, record.cells, strict=False)))
        except ValueError as error:
            problems.append(RowProblem(record.first, str(error)))
            yield record, None
        else:
            yield record, row


def _records(text: str, problems: list[RowProblem]) -> Iterator[_Record]:
    reader = csv.reader(_lines(text.removeprefix("\ufeff")), strict=True)
    next(reader)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append(RowProblem(first, f"not a CSV row: {error}"))
            continue
        yield _Record(first, reader.line_num, cells)


def _row(csv_path: Path, cells: dict[str, str]) -> CatalogueRow:
    """Raises ValueError with the reason why the row cannot be used."""
    given = {name: cells.get(name, "").strip() for name in COLUMNS}
    path = local_path(csv_path, given["source"])
    video_id = given["video_id"] or _derived_id(given["source"], path)
    if not VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"video_id {video_id!r} must be 1 to 64 of the characters A-Z a-z 0-9 _ -")
    language = given["language"] or DEFAULT_LANGUAGE
    if not LANGUAGE.fullmatch(language):
        raise ValueError(f"language {language!r} is no language tag such as pt or pt-BR")
    subtitles = given["subtitles"] or "auto"
    if subtitles not in ("auto", "none") and not LANGUAGE.fullmatch(subtitles):
        raise ValueError(f"subtitles {subtitles!r} must be auto, none or a language such as pt-BR")
    speaker = given["speaker"] or video_id
    if not _SPEAKER.fullmatch(speaker) or _CONTROL.search(speaker):
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
    )


def _derived_id(source: str, path: Path | None) -> str:
    if path is None:
        known = youtube_id(source)
        return known or hashlib.sha256(source.encode()).hexdigest()[:DERIVED_ID_DIGITS]
    try:
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)[:DERIVED_ID_DIGITS]
    except OSError as error:
        raise ValueError(
            f"no video_id is given and none can be derived from {source!r}: {error.strerror}"
        ) from None


@lru_cache(maxsize=4096)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """Read once a process, since every look at the catalogue asks for every row's id."""
    return sha256_file(path)


def _as_seen_from(csv_path: Path, source: str) -> str:
    path = local_path(csv_path, source)
    if path is None or path.is_file():
        return source
    here = Path(source).resolve()
    if not here.is_file():
        raise ValueError(f"there is no file {source!r}")
    return Path(os.path.relpath(here, csv_path.parent.resolve())).as_posix()


def _lock(csv_path: Path) -> FileLock:
    csv_path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(csv_path.parent / f".{csv_path.name}.lock")


def _replace(csv_path: Path, text: str) -> None:
    with atomic_file(csv_path) as aside:
        aside.write_bytes(text.encode("utf-8"))
