"""The memory of raw_audio and segments, without Dagster: it does not grow with the recording.

Each length is worked on in a process of its own, whose peak (ru_maxrss) stays under 300 MB with
every pass but the one over the voices, which loads torch and is told apart on the shortest. The
peer is a process that imports what the stages import and does nothing.

    python benchmarks/corpus/memory.py [RECORDING.webm [MINUTES ...]]
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from recording import DEMO, repeated

LIMIT_MB = 300.0
MINUTES = (10.0, 60.0, 600.0)

IMPORTS = """
import av, onnxruntime, soundfile, soxr, webrtcvad, pyarrow.parquet
import xtts_core.corpus.raw_audio, xtts_core.corpus.segments
"""
STAGES = """
import sys
from pathlib import Path
from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.corpus.segments import make_segments
from xtts_core.corpus.videos import make_video
from xtts_core.settings import DatasetSettings, SpeakerSettings
from xtts_core.store import CorpusStore
folder, speakers = Path(sys.argv[1]), sys.argv[2]
settings = DatasetSettings(speakers=SpeakerSettings(engine=speakers))
store = CorpusStore(folder / "corpus")
make_video(store, settings, folder / "videos.csv", "a")
make_raw_audio(store, settings, "a")
make_segments(store, settings, "a")
"""
PEAK = "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"


def peak_mb(program: str, *arguments: str) -> float:
    command = [sys.executable, "-c", program + PEAK, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def stages_mb(source: Path, minutes: float, speakers: str) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repeated(source, minutes, folder / "long.webm")
        (folder / "videos.csv").write_text("video_id,source\na,long.webm\n", encoding="utf-8")
        return peak_mb(STAGES, name, speakers)


def main() -> int:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO
    lengths = tuple(map(float, sys.argv[2:])) or MINUTES
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{source.name}; {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    print(f"{'imports alone':34} {peak_mb(IMPORTS):6.0f} MB")
    held = True
    for minutes in lengths:
        peak = stages_mb(source, minutes, "off")
        held &= peak < LIMIT_MB
        word = "held" if peak < LIMIT_MB else "NOT HELD"
        print(f"{f'{minutes:g} minutes':34} {peak:6.0f} MB  limit {LIMIT_MB:g}: {word}", flush=True)
    with_voices = stages_mb(source, min(lengths), "resemblyzer")
    print(f"{f'{min(lengths):g} minutes, with the voices':34} {with_voices:6.0f} MB")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
