"""`xtts demo`: the whole way on two short videos, from a CSV to a sentence over gRPC.

It runs what a user runs (`xtts run`, `xtts train`, `xtts-serve`, the client), on a corpus and a
Dagster instance of its own below the output folder.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from xtts_assets.cli.display import Display
from xtts_assets.cli.execution import Runner, prepare, train
from xtts_assets.cli.instance import open_instance
from xtts_core.errors import NotReadyError, XttsError
from xtts_core.store import CorpusStore, read_json, write_text

if TYPE_CHECKING:
    from xtts_grpc.client import SynthesisClient

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "examples" / "demo"

SENTENCE = "Olá! Esta frase foi dita por uma voz que nasceu de dois vídeos curtos."
SEED = 42
WAV_NAME = "sentence.wav"
PAGE_NAME = "index.html"
ENV_NAME = "demo.env"
START_TIMEOUT_S = 120.0

DISCLAIMER = (
    "The tiny model has the classes of XTTS-v2 at toy sizes and was made from a seed. It proves "
    "every step of the way and does not speak: what you hear is noise of plausible length. "
    "Set XTTS_BASE_MODEL=xtts_v2 on your own videos for a voice."
)


@dataclass(frozen=True)
class Spoken:
    """What the service answered."""

    text: str
    voice: str
    file: str
    duration_s: float
    real_time_factor: float
    model_version: str


def run(output: Path, console: Console) -> int:
    """Run the demo and write `sentence.wav`, `index.html` and `demo.env` into `output`.

    Returns the exit code: 1 when a stage failed or a blocking check did not pass.
    """
    if not EXAMPLE.is_dir():
        raise XttsError(
            "The demo's videos are not there",
            where=str(EXAMPLE),
            remedy="Run the demo from a clone of the repository",
        )
    _point_environment_at(output)
    with open_instance() as instance, Display(console) as display:
        runner = Runner(instance, display)
        prepare(runner)
        if runner.ok:
            train(runner)
    console.print(display.table())
    if not runner.ok:
        return 1
    store = runner.platform.store
    with console.status("Starting the service"), _service(store) as client:
        spoken = _speak(store, client, output / WAV_NAME)
    _report(store, display, spoken, output, console)
    return 0


def _point_environment_at(output: Path) -> None:
    """A corpus, a configuration and a Dagster home of the demo's own: it must not touch the
    user's. `demo.env` has them for a shell."""
    variables = {
        "DAGSTER_HOME": output / "dagster",
        "XTTS_CORPUS_ROOT": output / "corpus",
        "XTTS_VIDEOS_CSV": EXAMPLE / "videos.csv",
        "XTTS_CONFIG_DIR": EXAMPLE / "config",
    }
    for name in [name for name in os.environ if name.startswith("XTTS_")]:
        del os.environ[name]
    os.environ.update({name: str(path) for name, path in variables.items()})
    _write_instance(output / "dagster")
    write_text(
        output / ENV_NAME,
        "".join(f"{name}={shlex.quote(str(path))}\n" for name, path in variables.items()),
    )


def _write_instance(home: Path) -> None:
    """The project's dagster.yaml with its storage below `home`, from wherever it is opened."""
    instance = yaml.safe_load((PROJECT / "dagster.yaml").read_text(encoding="utf-8"))
    for section in (
        instance["storage"]["sqlite"],
        instance["local_artifact_storage"]["config"],
        instance["compute_logs"]["config"],
    ):
        section["base_dir"] = str(home / section["base_dir"])
    write_text(home / "dagster.yaml", yaml.safe_dump(instance, sort_keys=False))


@contextmanager
def _service(store: CorpusStore) -> Iterator[SynthesisClient]:
    """A service on a free port that speaks with the release, stopped at the end."""
    from xtts_grpc.client import SynthesisClient

    log = store.logs_dir / "xtts-serve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "xtts_grpc.serve"),
            *("--address", "127.0.0.1:0", "--end-with-stdin"),
        ],
        # Its end, whoever ends this process, ends the service.
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = _Address(process, log)
    try:
        with SynthesisClient(address.wait()) as client:
            _wait_until_serving(client, process, log)
            yield client
    finally:
        process.terminate()
        process.wait()


class _Address:
    """Copies the service's log to a file and finds its address in it."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._address: str | None = None
        self._known = threading.Event()
        threading.Thread(target=self._copy, daemon=True).start()

    def wait(self) -> str:
        self._known.wait(START_TIMEOUT_S)
        if self._address is None:
            raise _not_started(self._log)
        return self._address

    def _copy(self) -> None:
        assert self._process.stderr is not None
        with self._log.open("w", encoding="utf-8") as log:
            for line in self._process.stderr:
                log.write(line)
                log.flush()
                if found := re.search(r"listening on (\S+)", line):
                    self._address = found[1]
                    self._known.set()
        self._known.set()


def _wait_until_serving(client: SynthesisClient, process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not client.get_model().serving:
        if process.poll() is not None or time.monotonic() > deadline:
            raise _not_started(log)
        time.sleep(0.1)


def _not_started(log: Path) -> NotReadyError:
    return NotReadyError("The service did not start", where=str(log), remedy="Its log says why")


def _speak(store: CorpusStore, client: SynthesisClient, wav: Path) -> Spoken:
    """Clone a voice from the demo's best clips, and have it say the sentence."""
    clips = [clip for clip in _clips(store) if clip["accepted"]]
    best = max(clips, key=lambda clip: (clip["duration_s"] >= 3.0, clip["snr_db"]))
    voice = client.clone_voice(
        [(store.root / best["path"]).read_bytes()], label=best["speaker"], consent=best["licence"]
    )
    speech = client.synthesize(SENTENCE, voice_id=voice.voice_id, language="pt-BR", seed=SEED)
    aside = wav.with_name(f".{wav.name}")
    aside.write_bytes(speech.audio)
    aside.replace(wav)
    return Spoken(
        text=SENTENCE,
        voice=f"{best['speaker']} (cloned from {best['clip_id']})",
        file=wav.name,
        duration_s=speech.duration_s,
        real_time_factor=speech.real_time_factor,
        model_version=speech.model_version,
    )


def _report(
    store: CorpusStore, display: Display, spoken: Spoken, output: Path, console: Console
) -> None:
    clips = _clips(store)
    training = _training(store)
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        Path(__file__).with_name("demo.html.j2").read_text(encoding="utf-8")
    )
    write_text(
        output / PAGE_NAME,
        page.render(
            disclaimer=DISCLAIMER,
            spoken=asdict(spoken),
            training=training,
            clips=clips,
            stages=display.entries,
        ),
    )
    accepted = [clip for clip in clips if clip["accepted"]]
    rejected = [clip for clip in clips if not clip["accepted"]]
    summary = Table(show_header=False, box=None)
    summary.add_row("clips", f"{len(accepted)} accepted, {len(rejected)} rejected")
    for clip in rejected:
        summary.add_row("", f"{clip['clip_id']}: {', '.join(clip['reasons'])}")
    for name, value in training.items():
        summary.add_row(name, str(value))
    summary.add_row(
        "sentence", f"{spoken.duration_s:.2f} s, real-time factor {spoken.real_time_factor:.2f}"
    )
    summary.add_row("model", spoken.model_version)
    summary.add_row("voice", spoken.voice)
    summary.add_row("audio", str(output / WAV_NAME))
    summary.add_row("page", str(output / PAGE_NAME))
    console.print(Panel(summary, title="From two videos to a spoken sentence", expand=False))
    console.print(f"[yellow]{DISCLAIMER}[/]")
    console.print(
        f"The graph in the browser: set -a; . {shlex.quote(str(output / ENV_NAME))}; set +a; "
        f"{Path(sys.executable).with_name('dagster')} dev -w {PROJECT / 'workspace.yaml'}",
        highlight=False,
        soft_wrap=True,
    )


def _training(store: CorpusStore) -> Mapping[str, Any]:
    serving = read_json(store.root / "serving.json")
    metrics = read_json(store.root / serving["path"] / "manifest.json")["metrics"]
    return {
        "validation loss of the base": round(metrics["base_val_loss"], 4),
        "validation loss after training": round(metrics["val_loss"], 4),
        "epochs": metrics["epochs"],
        "steps": metrics["steps"],
        "training seconds": round(metrics["training_s"], 1),
    }


def _clips(store: CorpusStore) -> list[dict[str, Any]]:
    """Every row of the metadata, with its `split` (None: rejected)."""
    side: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for key in store.keys("metadata"):
        side |= {
            row["clip_id"]: row["split"] for row in pq.read_table(store.split(key)).to_pylist()
        }
        rows += pq.read_table(store.metadata(key)).to_pylist()
    return [{**row, "split": side.get(row["clip_id"])} for row in rows]
