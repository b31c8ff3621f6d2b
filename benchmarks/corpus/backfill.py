"""What a video costs when many short ones are prepared by real Dagster runs.

Makes short videos (one to two sentences of the demo, each with its own content and its sidecar
subtitles, so that nothing is transcribed), a corpus and a DAGSTER_HOME with this project's
dagster.yaml in a temporary folder, then starts `dagster dev` and prepares every video:

- `--by backfill`: a backfill of the job prepare_video over all keys, as the UI launches it;
- `--by sensor`: videos_csv_sensor finds the rows;
- `--by xtts`: the peer, `xtts run`: the same work in one process, without a run's own process.

    python benchmarks/corpus/backfill.py [videos] [--by ...] [--set key=value]...

`--set` changes a setting of dagster.yaml, `--multiprocess` gives each step a process of its own.
CPU seconds and memory are sampled from the processes. There is no bar: the table is what
docs/runbook.md takes its settings from. Exits 1 where a run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import yaml

from xtts_core.corpus.catalogue import COLUMNS
from xtts_core.store import CorpusStore
from xtts_core.transcription.subtitles import read_cues

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo"
BIN = Path(sys.executable).parent
SAMPLE_S = 0.2
SHORTEST_S, LONGEST_S = 3.0, 12.0
MARGIN_S = 0.3
SETTLE_S = 1.0
START_WITHIN_S = 180.0
SENSORS = ("videos_csv_sensor", "release_sensor", "dead_runs_sensor")

MULTIPROCESS = """
import dagster as dg
from xtts_assets import definitions
from xtts_assets.jobs import PREPARE_VIDEO_ASSETS, prepare_base_model
from xtts_assets.platform import Platform

defs = dg.Definitions(
    assets=definitions.defs.assets,
    jobs=[
        prepare_base_model,
        dg.define_asset_job(
            "prepare_video",
            selection=list(PREPARE_VIDEO_ASSETS),
            executor_def=dg.multiprocess_executor.configured({"max_concurrent": 1}),
        ),
    ],
    resources={"platform": Platform()},
)
"""

DATASET = {
    # A video's only clip that is held out fails a blocking check, and these have one each.
    "split": {"train_share": 0.99, "val_share": 0.01},
    "transcription": {"verify_subtitles": False},
}

LAUNCH = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on PartitionSetNotFoundError { message }
  }
}
"""


TICKS = """
{
  sensorOrError(sensorSelector: {
    repositoryLocationName: "xtts",
    repositoryName: "__repository__",
    sensorName: "videos_csv_sensor"
  }) {
    ... on Sensor { sensorState { ticks(statuses: [SUCCESS]) { timestamp endTimestamp } } }
  }
}
"""


@dataclass
class Process:
    """What was seen of one process: CPU seconds, and the most memory in bytes."""

    role: str
    cpu_s: float = 0.0
    peak: int = 0


class Sampler:
    """CPU and memory of a program and of all that it starts, by role."""

    def __init__(self, root: psutil.Process) -> None:
        self.root = root
        self.seen: dict[tuple[int, float], Process] = {}

    def sample(self) -> None:
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                key = (process.pid, process.create_time())
                if key not in self.seen or self.seen[key].role == "other":
                    self.seen[key] = Process(_role(process.cmdline()))
                found, times = self.seen[key], process.cpu_times()
                found.cpu_s = times.user + times.system
                found.peak = max(found.peak, process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue

    def cpu_s(self, role: str | None = None) -> float:
        return sum(p.cpu_s for p in self.seen.values() if role in (None, p.role))

    def peak_mb(self, role: str) -> float:
        return max((p.peak for p in self.seen.values() if p.role == role), default=0) / 2**20


def _role(command: Sequence[str]) -> str:
    line = " ".join(command)
    for role, pattern in (
        ("run", r"spawn_main|execute_(run|step)"),
        ("daemon", r"dagster\._daemon|dagster-daemon"),
        ("webserver", r"dagster_webserver|dagster-webserver"),
        ("code server", r"api grpc|code-server"),
    ):
        if re.search(pattern, line):
            return role
    return "other"


class Deployment:
    """A corpus of short videos, and a DAGSTER_HOME beside it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, multiprocess: bool) -> None:
        self.home = folder
        self.store = CorpusStore(folder / "data")
        self.sensors = () if multiprocess else SENSORS
        config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
        for dotted, value in settings.items():
            *groups, name = dotted.split(".")
            into = config
            for group in groups:
                into = into.setdefault(group, {})
            into[name] = value
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        location: dict[str, Any] = {
            "python_module": {
                "module_name": "xtts_assets.definitions",
                "working_directory": str(ROOT),
                "location_name": "xtts",
            }
        }
        if multiprocess:
            module = self.home / "location.py"
            module.write_text(MULTIPROCESS)
            location = {"python_file": {"relative_path": str(module), "location_name": "xtts"}}
        self.config = self.home / "config"
        shutil.copytree(DEMO / "config", self.config, dirs_exist_ok=True)
        (self.config / "dataset.yaml").write_text(yaml.safe_dump(DATASET))
        self.workspace = self.home / "workspace.yaml"
        self.workspace.write_text(yaml.safe_dump({"load_from": [location]}))

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "XTTS_CORPUS_ROOT": str(self.store.root),
            "XTTS_VIDEOS_CSV": str(self.home / "media" / "videos.csv"),
            "XTTS_CONFIG_DIR": str(self.config),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
        }

    def make_videos(self, count: int) -> list[str]:
        """FLAC files of 3 to 12 s with subtitles; the offset makes those of one cue differ."""
        import av

        with av.open(str(DEMO / "feira-dora.webm")) as container:
            resampler = av.AudioResampler(format="s16", layout="mono")
            pieces = [
                piece.to_ndarray()[0]
                for frame in container.decode(audio=0)
                for piece in resampler.resample(frame)
            ]
            rate = container.streams.audio[0].rate
        sound = np.concatenate(pieces)
        cues = read_cues(DEMO / "feira-dora.pt-BR.vtt")
        spans = [
            cues[first:last]
            for last in range(len(cues) + 1)
            for first in range(max(0, last - 2), last)
            if SHORTEST_S <= cues[last - 1].end_s - cues[first].start_s <= LONGEST_S
        ]
        media = self.home / "media"
        media.mkdir(parents=True, exist_ok=True)
        keys = [f"short-{i:05}" for i in range(count)]
        for i, key in enumerate(keys):
            spoken = spans[i % len(spans)]
            lead_s = MARGIN_S + i // len(spans) / 1000
            start_s = max(0.0, spoken[0].start_s - lead_s)
            end_s = spoken[-1].end_s + MARGIN_S
            soundfile.write(
                media / f"{key}.flac", sound[int(start_s * rate) : int(end_s * rate)], rate
            )
            (media / f"{key}.pt-BR.vtt").write_text(
                "WEBVTT\n\n"
                + "".join(
                    f"{_clock(c.start_s - start_s)} --> {_clock(c.end_s - start_s)}\n{c.text}\n\n"
                    for c in spoken
                )
            )
        rows = (f"{key},{key}.flac,{key},pt-BR,dora,free,auto" for key in keys)
        (media / "videos.csv").write_text("\n".join([",".join(COLUMNS[:7]), *rows, ""]))
        return keys

    def call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(BIN / program), *arguments],
            env=self.environment,
            cwd=self.home,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def instance_mb(self) -> float:
        files = (self.home / ".dagster").rglob("*.db*")
        return sum(file.stat().st_size for file in files) / 2**20


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    return f"00:{int(minutes):02}:{rest:06.3f}"


class Server:
    """`dagster dev`. It ignores SIGTERM when it was started in the background."""

    def __init__(self, deployment: Deployment) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/graphql"
        self.log = (deployment.home / "dev.log").open("w")
        self.process = subprocess.Popen(
            [str(BIN / "dagster"), "dev", "-w", str(deployment.workspace), "--port", str(port)],
            env=deployment.environment,
            cwd=deployment.home,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"dagster dev does not answer: {self.log.name}")
            time.sleep(SETTLE_S)

    def _answers(self) -> bool:
        try:
            found = self.query(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
            )
        except OSError:
            return False
        return bool(found["repositoriesOrError"].get("nodes"))

    def query(self, text: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps({"query": text, "variables": variables or {}}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)["data"]
        return found

    def launch_backfill(self, keys: Sequence[str]) -> None:
        repository = {
            "repositoryLocationName": "xtts",
            "repositoryName": "__repository__",
        }
        params = {
            "selector": {
                "partitionSetName": "prepare_video_partition_set",
                "repositorySelector": repository,
            },
            "partitionNames": list(keys),
        }
        found = self.query(LAUNCH, {"params": params})["launchPartitionBackfill"]
        if found["__typename"] != "LaunchBackfillSuccess":
            raise RuntimeError(f"the backfill was refused: {found}")

    def ended(self) -> dict[str, int]:
        """The runs of prepare_video by final status."""
        counts = {}
        for status in ("SUCCESS", "FAILURE", "CANCELED"):
            where = f'{{pipelineName: "prepare_video", statuses: [{status}]}}'
            text = f"{{ runsOrError(filter: {where}, limit: 1) {{ ... on Runs {{ count }} }} }}"
            counts[status] = self.query(text)["runsOrError"]["count"]
        return counts

    def spans(self) -> list[tuple[float, float]]:
        """When each run of prepare_video started and ended."""
        text = (
            '{ runsOrError(filter: {pipelineName: "prepare_video"}) '
            "{ ... on Runs { results { startTime endTime } } } }"
        )
        runs = self.query(text)["runsOrError"]["results"]
        return [(run["startTime"], run["endTime"]) for run in runs]

    def ticks_s(self) -> list[float]:
        """How long each tick of videos_csv_sensor that asked for runs took, with what the daemon
        did to enqueue them."""
        found = self.query(TICKS)["sensorOrError"]["sensorState"]["ticks"]
        return [tick["endTimestamp"] - tick["timestamp"] for tick in found if tick["endTimestamp"]]

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def prepare(deployment: Deployment, keys: Sequence[str], by: str) -> int:
    """Prepare all videos, print what it cost, and return how many runs failed."""
    if by == "xtts":
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        deployment.call("xtts", "run", "--skip", "base_model", "--skip", "ljspeech_dataset")
        wall_s, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        report(deployment, len(keys), wall_s, cpu_s, 0)
        return 0
    for name in deployment.sensors:
        if by != "sensor" or name != "videos_csv_sensor":
            deployment.call("dagster", "sensor", "stop", name, "-w", str(deployment.workspace))
    server = Server(deployment)
    sampler = Sampler(psutil.Process(server.process.pid))
    try:
        start = time.monotonic()
        if by == "backfill":
            server.launch_backfill(keys)
        told = start
        while sum((ended := server.ended()).values()) < len(keys):
            for _ in range(int(SETTLE_S / SAMPLE_S)):
                sampler.sample()
                time.sleep(SAMPLE_S)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"  {told - start:6.0f} s: {ended}", flush=True)
        wall_s = time.monotonic() - start
        spans = server.spans()
        ticks_s = server.ticks_s() if by == "sensor" else []
    finally:
        server.kill()
    failed = ended["FAILURE"] + ended["CANCELED"]
    report(deployment, len(keys), wall_s, sampler.cpu_s(), failed)
    working_s = max(end for _, end in spans) - min(start for start, _ in spans)
    run_s = statistics.median(end - start for start, end in spans)
    print(
        f"  first start to last end: {working_s / len(keys):.2f} s per video, a run {run_s:.1f} s"
    )
    if ticks_s:
        print(f"  ticks: {len(ticks_s)}, the longest {max(ticks_s):.1f} s")
    print(
        "  CPU s per video: "
        + ", ".join(
            f"{role} {sampler.cpu_s(role) / len(keys):.2f}"
            for role in ("run", "daemon", "code server", "webserver", "other")
        )
    )
    print(
        "  peak MB: "
        + ", ".join(
            f"{role} {sampler.peak_mb(role):.0f}"
            for role in ("run", "daemon", "code server", "webserver")
        )
    )
    return failed


def report(deployment: Deployment, count: int, wall_s: float, cpu_s: float, failed: int) -> None:
    print(
        f"  {count} videos in {wall_s:.0f} s: {wall_s / count:.2f} s and {cpu_s / count:.2f} CPU s "
        f"per video, {failed} runs failed, instance {deployment.instance_mb():.1f} MB",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=int, nargs="?", default=20)
    parser.add_argument("--by", choices=("backfill", "sensor", "xtts"), default="backfill")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--multiprocess", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = {
        key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in given.set)
    }
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"by {given.by}, {'multiprocess, ' if given.multiprocess else ''}{settings or 'as is'}")
    folder = given.folder or Path(tempfile.mkdtemp())
    try:
        deployment = Deployment(folder, settings, multiprocess=given.multiprocess)
        keys = deployment.make_videos(given.videos)
        deployment.call("xtts", "run", "--only", "base_model")
        return 1 if prepare(deployment, keys, given.by) else 0
    finally:
        if given.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
