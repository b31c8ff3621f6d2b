"""`xtts`: the platform from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from xtts_assets.cli import dataset, demonstration, model, videos
from xtts_assets.cli.display import Display
from xtts_assets.cli.execution import Runner, prepare, train_outside_dagster
from xtts_assets.cli.execution import train as train_voice
from xtts_assets.cli.instance import open_instance
from xtts_core.errors import XttsError
from xtts_core.settings import Environment

app = typer.Typer(
    help="Videos in, a voice out: prepare a corpus, fine-tune XTTS-v2 on it, release the voice.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(videos.app, name="videos")
app.add_typer(dataset.app, name="dataset")
app.add_typer(model.release_app, name="release")
app.command()(model.export)

console = Console()

Videos = Annotated[
    list[str] | None, typer.Option("--video", help="A video id of videos.csv; may be repeated.")
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="Materialise this asset alone; repeatable.")
]
Skip = Annotated[list[str] | None, typer.Option("--skip", help="Leave this asset out; repeatable.")]


@app.command()
def run(video: Videos = None, only: Only = None, skip: Skip = None) -> None:
    """Prepare the corpus: from videos.csv to train and val clips and the LJSpeech dataset.

    Videos whose inputs did not change are kept as they are. Does not train. Exits with 1 when a
    row was refused, a stage failed or a blocking check did not pass.
    """
    with open_instance() as instance, Display(console) as display:
        runner = Runner(instance, display)
        prepare(runner, videos=video or (), only=only or (), skip=skip or ())
    _end(runner)


@app.command()
def train(
    config: Annotated[
        Path | None,
        typer.Option(
            help="A file in place of training.yaml. It is trained outside Dagster then, whose "
            "pages do not show it.",
            dir_okay=False,
            exists=True,
            resolve_path=True,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fine-tune the voice on the prepared corpus, evaluate it, and release it if it passes.

    Exits with 1 when a stage failed or a blocking check did not pass.
    """
    if config is not None:
        with Display(console) as display:
            ok = train_outside_dagster(Environment.load(), config, display)
        console.print(display.table())
        raise typer.Exit(0 if ok else 1)
    with open_instance() as instance, Display(console) as display:
        runner = Runner(instance, display)
        train_voice(runner)
    _end(runner)


@app.command(name="demo")
def run_demo(
    output: Annotated[
        Path, typer.Option(help="Where the demo writes.", file_okay=False, resolve_path=True)
    ] = Path("demo-output"),
) -> None:
    """The whole way on two short videos with the `tiny` model: corpus, training, release, and a
    sentence over gRPC. Run again, it does only what changed."""
    raise typer.Exit(demonstration.run(output, console))


def main() -> None:
    """The console script: a problem that a person can act on is one line, not a traceback."""
    try:
        app()
    except XttsError as error:
        message = Text.assemble(("error:", "red"), f" {error}")
        Console(stderr=True).print(message, soft_wrap=True)
        sys.exit(2)


def _end(runner: Runner) -> None:
    console.print(runner.display.table())
    logs = runner.platform.store.logs_dir
    console.print(f"Logs: {logs}", markup=False, highlight=False, soft_wrap=True)
    if not runner.ok:
        raise typer.Exit(1)
