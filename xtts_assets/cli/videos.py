"""`xtts videos`: the rows of videos.csv."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtts_core.corpus.catalogue import append_row, read_catalogue, remove_row
from xtts_core.settings import Environment

app = typer.Typer(help="The rows of videos.csv.", no_args_is_help=True)
console = Console()


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="A URL that yt-dlp takes, or a local file.")],
    video_id: Annotated[str, typer.Option(help="Derived from the source when left out.")] = "",
    title: Annotated[str, typer.Option()] = "",
    language: Annotated[str, typer.Option(help="An XTTS language.")] = "pt",
    speaker: Annotated[str, typer.Option(help="Who speaks; one name for one voice.")] = "",
    licence: Annotated[str, typer.Option(help="What you may do with the recording.")] = "",
    subtitles: Annotated[str, typer.Option(help="auto, none, or a language.")] = "auto",
) -> None:
    """Add one row; the file is replaced as a whole or not at all."""
    row = append_row(
        Environment.load().videos_csv,
        source=source,
        video_id=video_id,
        title=title,
        language=language,
        speaker=speaker,
        licence=licence,
        subtitles=subtitles,
    )
    console.print(f"{row.video_id}: {row.source}", markup=False, highlight=False, soft_wrap=True)


@app.command(name="list")
def list_rows() -> None:
    """Show the rows that can be used."""
    table = Table("video", "speaker", "language", "licence", "subtitles", "source")
    for row in read_catalogue(Environment.load().videos_csv).rows:
        table.add_row(
            *map(
                Text,
                (row.video_id, row.speaker, row.language, row.licence, row.subtitles, row.source),
            )
        )
    console.print(table)


@app.command()
def remove(video_id: Annotated[str, typer.Argument(help="The id of the row.")]) -> None:
    """Remove one row: the dataset and the voice are made without that video from then on.

    What was made from it stays on disk.
    """
    remove_row(Environment.load().videos_csv, video_id)
    console.print(
        f"{video_id} is removed from videos.csv: the next dataset and the next voice are made "
        "without it. What was made from it stays on disk",
        markup=False,
        highlight=False,
    )


@app.command()
def check() -> None:
    """Name every row that cannot be used, and exit with 1 where there is one."""
    catalogue = read_catalogue(Environment.load().videos_csv)
    for problem in catalogue.problems:
        console.print(f"line {problem.line}: {problem.reason}", style="red", markup=False)
    console.print(f"{len(catalogue.rows)} rows can be used, {len(catalogue.problems)} cannot")
    if catalogue.problems:
        raise typer.Exit(1)
