"""`xtts videos`: the rows of videos.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from xtts_assets.cli.display import counted
from xtts_core.corpus.catalogue import (
    CatalogueRow,
    format_clock,
    format_span,
    read_catalogue,
)
from xtts_core.corpus.download import javascript_runtime, read_cookies
from xtts_core.corpus.editing import append_row, append_rows, remove_row
from xtts_core.corpus.listing import Media, list_source, probe
from xtts_core.corpus.ljspeech_source import compose_recordings
from xtts_core.corpus.sources import is_youtube, local_path
from xtts_core.errors import CatalogueError, SettingsError
from xtts_core.settings import DownloadSettings, Environment
from xtts_core.store import CorpusStore

SPAN_TOLERANCE_S = 1.0
"""Containers round the length that they state."""

app = typer.Typer(help="The rows of videos.csv.", no_args_is_help=True)
console = Console()


@app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            help="A video, playlist or channel that yt-dlp takes, a local file, or a folder."
        ),
    ],
    video_id: Annotated[str, typer.Option(help="Derived from the source when left out.")] = "",
    title: Annotated[str, typer.Option()] = "",
    language: Annotated[str, typer.Option(help="An XTTS language.")] = "pt",
    speaker: Annotated[str, typer.Option(help="Who speaks; one name for one voice.")] = "",
    licence: Annotated[str, typer.Option(help="What you may do with the recording.")] = "",
    subtitles: Annotated[str, typer.Option(help="auto, none, or a language.")] = "auto",
    start: Annotated[str, typer.Option(help="Use it from here on: 75.5, 1:15.5, 0:01:15.")] = "",
    end: Annotated[str, typer.Option(help="Use it up to here.")] = "",
    single: Annotated[
        bool, typer.Option("--single", help="Take the address as one video, without a look at it.")
    ] = False,
) -> None:
    """Add a recording, or each one of a playlist, channel or folder.

    The file is replaced as a whole or not at all. What it has already is left alone; what cannot
    be had is named.
    """
    environment = Environment.load()
    csv_path = environment.videos_csv
    given = {
        "title": title,
        "language": language,
        "speaker": speaker,
        "licence": licence,
        "subtitles": subtitles,
        "start": start,
        "end": end,
    }
    if single:
        row = append_row(csv_path, source=source, video_id=video_id, **given)
        _tell(f"{row.video_id}: {row.source}")
        return
    with counted(console) as progress:
        listing = list_source(csv_path, source.strip(), environment.dataset().download, progress)
        if not listing.several:
            (item,) = listing.items
            given["title"] = title or item.title
            row = append_row(csv_path, source=item.source, video_id=video_id, **given)
            _tell(f"{row.video_id}: {row.source}")
            return
        if video_id or title:
            raise CatalogueError(
                f"{source} holds several videos, and one id or title cannot be that of all",
                where="--video-id / --title",
                remedy="Leave them out",
            )
        cells = [{**given, "source": item.source, "title": item.title} for item in listing.items]
        added = append_rows(csv_path, cells, progress)
    for row in added.rows:
        _tell(f"{row.video_id}: {row.source}")
    left_out = (*listing.left_out, *added.left_out)
    for left in left_out:
        _tell(f"left out: {left.source}: {left.reason}", "yellow")
    _tell(f"{len(added.rows)} added, {added.known} known already, {len(left_out)} left out")
    if not added.rows and not added.known:
        raise typer.Exit(1)


@app.command(name="import")
def import_ljspeech(
    folder: Annotated[
        Path,
        typer.Argument(help="In the LJSpeech layout: metadata.csv and wavs/.", file_okay=False),
    ],
    language: Annotated[str, typer.Option(help="An XTTS language.")] = "pt",
    speaker: Annotated[str, typer.Option(help="Who speaks; one name for one voice.")] = "",
    licence: Annotated[str, typer.Option(help="What you may do with the recordings.")] = "",
) -> None:
    """Take over an existing LJSpeech folder: its clips in recordings of an hour, with its texts as
    their subtitles, in imports/ of the corpus.

    A line that cannot be used is named and left out.
    """
    environment = Environment.load()
    store = CorpusStore(environment.corpus_root)
    with counted(console) as progress:
        composed = compose_recordings(folder, store.imports_dir, language, progress)
    given = {"language": language, "speaker": speaker, "licence": licence, "subtitles": language}
    cells = [{**given, "source": str(recording)} for recording in composed.recordings]
    added = append_rows(environment.videos_csv, cells)
    surplus = {path.name for path in composed.surplus}
    for row in read_catalogue(environment.videos_csv).rows:
        if Path(row.source).name in surplus:
            remove_row(environment.videos_csv, row.video_id)
            _tell(f"{row.video_id}: removed, the folder has no clips for it any more", "yellow")
    for path in composed.surplus:
        path.with_suffix(f".{language}.vtt").unlink(missing_ok=True)
        path.unlink()
    for left in (*composed.left_out, *added.left_out):
        _tell(f"left out: {left.source}: {left.reason}", "yellow")
    for row in added.rows:
        _tell(f"{row.video_id}: {row.source}")
    _tell(
        f"{composed.clips} clips in {len(composed.recordings)} recordings; "
        f"{len(added.rows)} added, {added.known} known already"
    )


@app.command(name="list")
def list_rows() -> None:
    """Show the rows that can be used."""
    table = Table(Column("video", no_wrap=True))
    for name in ("speaker", "language", "licence", "subtitles", "part", "source"):
        table.add_column(name, overflow="fold")
    for row in read_catalogue(Environment.load().videos_csv).rows:
        cells = (row.video_id, row.speaker, row.language, row.licence, row.subtitles)
        table.add_row(*map(Text, (*cells, format_span(row), row.source)))
    console.print(table)


@app.command()
def remove(
    video_id: Annotated[
        str, typer.Argument(help="The id of the row; `--` before one that starts with -.")
    ],
) -> None:
    """Remove one row: the dataset and the voice are made without that video from then on.

    What was made from it stays on disk.
    """
    remove_row(Environment.load().videos_csv, video_id)
    _tell(
        f"{video_id} is removed from videos.csv: the next dataset and the next voice are made "
        "without it. What was made from it stays on disk"
    )


@app.command()
def check() -> None:
    """Name every row that cannot be used, and exit with 1 where there is one.

    Local files are opened; what lies behind an address is not asked for.
    """
    environment = Environment.load()
    csv_path = environment.videos_csv
    catalogue = read_catalogue(csv_path)
    urls = [row for row in catalogue.rows if local_path(csv_path, row.source) is None]
    problems = [f"line {problem.line}: {problem.reason}" for problem in catalogue.problems]
    recorded_s = 0.0
    with counted(console) as progress:
        for done, row in enumerate(catalogue.rows, 1):
            path = local_path(csv_path, row.source)
            if path is None:
                continue
            found = _probed(path)
            problem = found if isinstance(found, str) else _outside(row, found)
            if problem:
                problems.append(f"{row.video_id}: {row.source}: {problem}")
            elif isinstance(found, Media):
                recorded_s += _used_s(row, found)
            progress(done, len(catalogue.rows), "rows")
    if urls:
        problems += _unmet(urls, environment.dataset().download)
    for problem in problems:
        _tell(problem, "red")
    usable = len(catalogue.rows)
    _tell(
        f"{usable} rows can be read: {usable - len(urls)} files "
        f"({format_clock(recorded_s)} of recordings), {len(urls)} addresses; "
        f"{len(problems)} problems"
    )
    if problems:
        raise typer.Exit(1)


def _probed(path: Path) -> Media | str:
    if not path.is_file():
        return "there is no such file"
    return probe(path) or "it is no media file"


def _outside(row: CatalogueRow, media: Media) -> str:
    """Why the span of a row does not fit its recording, or nothing."""
    length_s = media.duration_s
    if length_s is None:
        return ""
    for name, value in (("starts", row.start_s), ("ends", row.end_s)):
        if value is not None and value > length_s + SPAN_TOLERANCE_S:
            length = format_clock(length_s)
            return f"its part {name} at {format_clock(value)}, the file ends at {length}"
    return ""


def _used_s(row: CatalogueRow, media: Media) -> float:
    end_s = media.duration_s if row.end_s is None else row.end_s
    return 0.0 if end_s is None else end_s - (row.start_s or 0.0)


def _unmet(urls: Sequence[CatalogueRow], settings: DownloadSettings) -> list[str]:
    """What the addresses need and this machine lacks. Without a JavaScript runtime some videos
    of YouTube come all the same, so that is told only."""
    if any(is_youtube(row.source) for row in urls):
        name, sentence = javascript_runtime()
        _tell(sentence, None if name else "yellow")
    try:
        read_cookies(settings)
    except SettingsError as error:
        return [str(error)]
    return []


def _tell(message: str, style: str | None = None) -> None:
    console.print(message, style=style, markup=False, highlight=False, soft_wrap=True)
