"""What the dataset of 100 000 clips costs: splits of every video, fan-in, LJSpeech index.

The limits are 20 s and 1 GB of resident memory for the three together, each video's stages recorded
as the graph records them. The clips' audio is linked, not copied, and tiny: only their number
counts here. The texts are drawn from wordfreq's 20 000 commonest words, one in fifty is another's
with a word changed. The peer, in the same run, is pandas: it reads both folders of parquet files as
they stand, merges them and writes the index, and looks at nothing.

    python benchmarks/dataset/fan_in.py [clips [clips a video]]

Exits 1 where a limit is not held.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from recorded_corpus import RecordedCorpus
from wordfreq import top_n_list, zipf_frequency

CLIPS = 100_000
CLIPS_PER_VIDEO = 100
LIMIT_S = 20.0
LIMIT_MB = 1_000.0

OURS = """
import json, resource, sys, time
from pathlib import Path
from xtts_core.dataset.ljspeech import make_ljspeech_dataset
from xtts_core.dataset.split import make_train_val_splits
from xtts_core.settings import DatasetSettings
from xtts_core.store import CorpusStore

store = CorpusStore(Path(sys.argv[1]))
figures = {}
start = time.perf_counter()
for key in store.keys("metadata"):
    make_train_val_splits(store, DatasetSettings(), key)
figures["splits"] = time.perf_counter() - start
start = time.perf_counter()
result = make_ljspeech_dataset(store)
figures["fan-in and LJSpeech index"] = time.perf_counter() - start
assert not result.blocked, result.blocked
start = time.perf_counter()
assert make_ljspeech_dataset(store).skipped
figures["the same, nothing changed"] = time.perf_counter() - start
print(json.dumps({
    "seconds": figures,
    "clips": result.row_count,
    "left_out": result.metadata["left_out_clips"],
    "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""

PANDAS = """
import json, resource, sys, time
import pandas as pd
start = time.perf_counter()
clips = pd.read_parquet(f"{sys.argv[1]}/metadata").query("accepted")
clips = clips.merge(pd.read_parquet(f"{sys.argv[1]}/splits"), on="clip_id")
clips[["clip_id", "text_raw", "text"]].to_csv(
    f"{sys.argv[1]}/pandas.csv", sep="|", header=False, index=False
)
print(json.dumps({
    "seconds": {"read, merge, write the index": time.perf_counter() - start},
    "clips": len(clips),
    "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def main() -> int:
    asked = [int(argument) for argument in sys.argv[1:]]
    clips, per_video = asked + [CLIPS, CLIPS_PER_VIDEO][len(asked) :]
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(Path(folder), clips, per_video)
        ours, pandas = (measured(script, Path(folder)) for script in (OURS, PANDAS))
    print(f"{clips} clips of {-(-clips // per_video)} videos; {ours['left_out']} left out\n")
    for name, found in (("xtts_core", ours), ("pandas", pandas)):
        for step, seconds in found["seconds"].items():
            print(f"{name:10} {step:30} {seconds:8.2f} s")
        print(f"{name:10} {'resident at most':30} {found['mb']:8.0f} MB")
    seconds = sum(list(ours["seconds"].values())[:2])
    held = seconds <= LIMIT_S and ours["mb"] <= LIMIT_MB
    peer = sum(pandas["seconds"].values())
    print(
        f"\nsplits, fan-in and index {seconds:.1f} s (limit {LIMIT_S:g}), "
        f"{seconds / peer:.1f} times pandas; "
        f"{ours['mb']:.0f} MB (limit {LIMIT_MB:g}): {'held' if held else 'NOT HELD'}"
    )
    return 0 if held else 1


def measured(script: str, root: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], check=True, capture_output=True, text=True
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def build_corpus(root: Path, clips: int, per_video: int) -> None:
    """Every stage from `videos` to `metadata` as a finished one."""
    texts = drawn_texts(random.Random(0))
    corpus = RecordedCorpus(root)
    for start in range(0, clips, per_video):
        count = min(per_video, clips - start)
        corpus.add(f"video{start // per_video:05}", list(islice(texts, count)))


def drawn_texts(draw: random.Random) -> Iterator[str]:
    words = [word for word in top_n_list("pt", 20_000) if word.isalpha()]
    weights = np.cumsum([10 ** zipf_frequency(word, "pt") for word in words]).tolist()
    last: list[str] = []
    while True:
        if last and draw.random() < 0.02:
            last[draw.randrange(len(last))] = draw.choice(words)
        else:
            last = draw.choices(words, cum_weights=weights, k=draw.randint(12, 32))
        yield " ".join(last)


if __name__ == "__main__":
    sys.exit(main())
