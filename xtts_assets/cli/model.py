"""`xtts export` and `xtts release`: what to do with a trained voice."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xtts_core.settings import Environment
from xtts_core.store import CorpusStore

release_app = typer.Typer(help="Which checkpoint the service speaks with.", no_args_is_help=True)
console = Console()


class ExportFormat(StrEnum):
    COQUI = "coqui"


def export(
    output: Annotated[Path, typer.Argument(help="A new folder.", resolve_path=True)],
    to: Annotated[ExportFormat, typer.Option(help="coqui: what coqui-tts's own Xtts loads.")],
    checkpoint: Annotated[
        str, typer.Option(help="A version below checkpoints/; the newest trained one by default.")
    ] = "",
) -> None:
    """Write a checkpoint in another program's format."""
    from xtts_core.model.export import export_coqui

    store = CorpusStore(Environment.load().corpus_root)
    export_coqui(_checkpoint(store, checkpoint), output)
    console.print(f"{to.value}: {output}", markup=False, highlight=False, soft_wrap=True)


@release_app.command()
def publish(
    checkpoint: Annotated[
        str, typer.Argument(help="A version below checkpoints/; the newest trained one by default.")
    ] = "",
) -> None:
    """Serve a checkpoint whatever its scorecard says."""
    from xtts_core.evaluation.release import publish as publish_checkpoint

    environment = Environment.load()
    store = CorpusStore(environment.corpus_root)
    release = publish_checkpoint(store, environment.serving_uri, _checkpoint(store, checkpoint))
    console.print(f"release {release.number} is served", highlight=False)


@release_app.command()
def rollback(
    number: Annotated[int, typer.Argument(help="The release to serve again.")],
) -> None:
    """Serve an earlier release again."""
    from xtts_core.evaluation.release import rollback as serve_again

    environment = Environment.load()
    store = CorpusStore(environment.corpus_root)
    release = serve_again(store, environment.serving_uri, number)
    console.print(f"release {release.number} is served", highlight=False)


def _checkpoint(store: CorpusStore, version: str) -> Path:
    from xtts_core.training.finetuned_checkpoint import current_checkpoint

    return store.checkpoint(version) if version else current_checkpoint(store)
