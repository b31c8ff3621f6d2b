"""`xtts dataset`: what the corpus holds."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtts_assets.cli.display import counted
from xtts_assets.jobs import PREPARE_VIDEO_ASSETS
from xtts_core.corpus.catalogue import listed_ids, read_catalogue
from xtts_core.dataset.export import export_hf, export_ljspeech
from xtts_core.dataset.report import MAX_SAMPLES, report_path, write_report
from xtts_core.dataset.trainability import REASONS
from xtts_core.errors import UpstreamError
from xtts_core.settings import Environment
from xtts_core.stage import require
from xtts_core.store import CorpusStore

app = typer.Typer(help="What the corpus holds.", no_args_is_help=True)
console = Console()


@app.callback()
def _commands() -> None:
    """What the corpus holds."""


@app.command()
def show() -> None:
    """Each row of videos.csv: clips and minutes, or the stage that stopped it; and why clips were
    rejected."""
    environment = Environment.load()
    store = CorpusStore(environment.corpus_root)
    videos = Table("video", "accepted", "minutes", "rejected", "remarks", title="Clips")
    reasons: Counter[str] = Counter()
    for row in read_catalogue(environment.videos_csv).rows:
        stopped = _stopped_at(store, row.video_id)
        if stopped:
            videos.add_row(row.video_id, "–", "–", "–", Text(stopped))
            continue
        clips = pq.read_table(
            store.metadata(row.video_id), columns=["accepted", "duration_s", "reasons"]
        ).to_pylist()
        accepted = [clip["duration_s"] for clip in clips if clip["accepted"]]
        reasons.update(reason for clip in clips for reason in clip["reasons"])
        videos.add_row(
            row.video_id,
            str(len(accepted)),
            f"{sum(accepted) / 60:.1f}",
            str(len(clips) - len(accepted)),
        )
    console.print(videos)
    if reasons:
        table = Table("reason", "clips", "meaning", title="Rejections")
        for name, count in reasons.most_common():
            table.add_row(name, str(count), REASONS[name])
        console.print(table)


@app.command()
def report(
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the page goes; reports/dataset.html of the corpus unless told.",
            dir_okay=False,
            resolve_path=True,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, max=MAX_SAMPLES, help="How many clips can be heard in it.")
    ] = 40,
    seed: Annotated[int, typer.Option(help="Another one draws other clips.")] = 0,
) -> None:
    """One HTML page that needs nothing else, to look at the clips and listen to some: totals and
    yield, why clips are rejected, histograms, speakers, videos."""
    environment = Environment.load()
    store = CorpusStore(environment.corpus_root)
    page = output or report_path(store)
    listed = listed_ids(environment.videos_csv)
    with counted(console) as progress:
        summary = write_report(
            store, page, samples=samples, seed=seed, listed=listed, progress=progress
        )
    console.print(
        f"{summary.accepted:,} of {summary.clips:,} clips are accepted, {summary.in_dataset:,} "
        f"are in the dataset, {summary.bytes / 1e6:.1f} MB: {page}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


class Format(StrEnum):
    HF = "hf"
    LJSPEECH = "ljspeech"


@app.command()
def export(
    destination: Annotated[Path, typer.Argument(help="A new folder.", resolve_path=True)],
    to: Annotated[
        Format,
        typer.Option(help="For Hugging Face `datasets`, or the LJSpeech layout."),
    ],
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Hard links instead of copies (ljspeech): a clip edited there is edited here.",
        ),
    ] = False,
) -> None:
    """The dataset for training elsewhere: the clips of ljspeech_dataset, in a folder of its own."""
    if link and to is Format.HF:
        raise typer.BadParameter("only --to ljspeech has files to link", param_hint="--link")
    environment = Environment.load()
    store = CorpusStore(environment.corpus_root)
    listed = listed_ids(environment.videos_csv)
    with counted(console) as progress:
        if to is Format.HF:
            done = export_hf(store, destination, listed, progress)
        else:
            done = export_ljspeech(store, destination, listed, progress, link=link)
    for name, why in {**done.refused, **done.left_out, **done.rejected}.items():
        console.print(Text(f"left out: {name}: {why}"), soft_wrap=True)
    if to is Format.LJSPEECH and done.speakers > 1:
        console.print(f"{done.speakers} speakers: clips.csv says whose each clip is")
    console.print(
        f"{done.train + done.val:,} clips, {done.val:,} of them held out: {destination}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _stopped_at(store: CorpusStore, video_id: str) -> str:
    """Why the first stage that may not be used may not be; empty where all may."""
    for asset in PREPARE_VIDEO_ASSETS:
        try:
            require(store, asset, video_id)
        except UpstreamError as error:
            return error.what
    return ""
