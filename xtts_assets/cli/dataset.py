"""`xtts dataset`: what the corpus holds."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from xtts_core.dataset.trainability import REASONS
from xtts_core.settings import Environment
from xtts_core.stage import usable
from xtts_core.store import CorpusStore

app = typer.Typer(help="What the corpus holds.", no_args_is_help=True)
console = Console()


@app.command()
def show() -> None:
    """Clips and minutes of each video, and why clips were rejected."""
    store = CorpusStore(Environment.load().corpus_root)
    results, refused = usable(store, "metadata")
    videos = Table("video", "accepted", "minutes", "rejected", title="Clips")
    reasons: Counter[str] = Counter()
    for result in results:
        clips = pq.read_table(result.uri, columns=["accepted", "duration_s", "reasons"]).to_pylist()
        accepted = [clip["duration_s"] for clip in clips if clip["accepted"]]
        reasons.update(reason for clip in clips for reason in clip["reasons"])
        videos.add_row(
            result.key,
            str(len(accepted)),
            f"{sum(accepted) / 60:.1f}",
            str(len(clips) - len(accepted)),
        )
    for key, why in refused.items():
        videos.add_row(key, "–", "–", why)
    console.print(videos)
    if reasons:
        table = Table("reason", "clips", "meaning", title="Rejections")
        for name, count in reasons.most_common():
            table.add_row(name, str(count), REASONS[name])
        console.print(table)
