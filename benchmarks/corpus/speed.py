"""What it takes to get from an hour of video to clips, beside FFmpeg's decoder.

The peer is `ffmpeg -threads 1 -i in -ac 1 -ar 22050 out.wav`, in the same run. Each line is the
median of the rounds, the stages as they run in Dagster (hashes, checks, picture and records
included) in this process, on `OMP_NUM_THREADS` threads (default: all cores). raw_audio and
segments together take at most 1.6 times the peer's time with webrtcvad and 4 times with the
default engine. The pass over the voices is run once, on the recording as it is, and is told
apart.

    python benchmarks/corpus/speed.py [RECORDING.webm [MINUTES]]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from recording import DEMO, repeated

from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.corpus.segments import make_segments
from xtts_core.corpus.videos import make_video
from xtts_core.settings import DatasetSettings, SpeakerSettings, VadSettings
from xtts_core.stage import forget
from xtts_core.store import CorpusStore, read_json

ROUNDS = 3
BARS = {"webrtc": 1.6, "default": 4.0}


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def corpus(folder: Path, media: Path) -> CorpusStore:
    store = CorpusStore(folder / media.stem)
    csv_path = folder / f"{media.stem}.csv"
    csv_path.write_text(f"video_id,source\na,{media.resolve()}\n", encoding="utf-8")
    make_video(store, DatasetSettings(), csv_path, "a")
    return store


def made(store: CorpusStore, settings: DatasetSettings, stage: str) -> float:
    """The seconds of one stage, made anew."""
    forget(store, stage, "a")
    make = {"raw_audio": make_raw_audio, "segments": make_segments}[stage]
    return timed(lambda: make(store, settings, "a"))


def main() -> int:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    silent_speakers = SpeakerSettings(engine="off")
    engines = {
        "webrtc": DatasetSettings(speakers=silent_speakers, vad=VadSettings(engine="webrtc")),
        "default": DatasetSettings(speakers=silent_speakers),
    }
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        media = repeated(source, minutes, folder / "long.webm")
        store = corpus(folder, media)
        ffmpeg = ["ffmpeg", "-v", "error", "-y", "-threads", "1", "-i", str(media)]
        peer = [*ffmpeg, "-ac", "1", "-ar", "22050", str(folder / "peer.wav")]
        for _ in range(ROUNDS):
            seconds.setdefault("ffmpeg", []).append(timed(lambda: subprocess.run(peer, check=True)))
            raw = made(store, engines["default"], "raw_audio")
            seconds.setdefault("raw_audio", []).append(raw)
            for engine, settings in engines.items():
                found = made(store, settings, "segments")
                seconds.setdefault(f"segments, {engine}", []).append(found)
        duration_s = read_json(store.raw_provenance("a"))["duration_s"]
        short = corpus(folder, source)
        short_s = voices_s = 0.0
        made(short, engines["default"], "raw_audio")
        for settings in (engines["default"], DatasetSettings()):
            short_s, voices_s = voices_s, made(short, settings, "segments")
        voices_s -= short_s
        source_s = read_json(short.raw_provenance("a"))["duration_s"]

    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{source.name} for {duration_s / 60:.1f} minutes; {os.environ['OMP_NUM_THREADS']} threads"
    )
    print(
        f"{'median of ' + str(ROUNDS):26} {'s':>7} {'worst':>7} {'x real time':>12} {'/ ffmpeg':>9}"
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(
            f"{name:26} {median:7.2f} {max(seconds[name]):7.2f} {duration_s / median:12.0f}"
            f" {median / medians['ffmpeg']:9.2f}"
        )
    held = True
    for engine, bar in BARS.items():
        both = medians["raw_audio"] + medians[f"segments, {engine}"]
        ratio = both / medians["ffmpeg"]
        held &= ratio <= bar
        word = "held" if ratio <= bar else "NOT HELD"
        print(
            f"{'raw_audio + ' + engine:26} {both:7.2f} {'':7} {duration_s / both:12.0f} "
            f"{ratio:9.2f}  bar {bar:g}: {word}"
        )
    print(
        f"the pass over the voices, apart: {voices_s:.2f} s for {source_s / 60:.1f} minutes "
        f"({source_s / voices_s:.0f} x real time)"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
