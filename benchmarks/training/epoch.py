"""What an epoch is made of: every clip once, in batches that pad little.

Clips of 7 to 11.6 s, as segmentation prefers them, with a fifth of shorter ones. The peer is
coqui-tts's way with the same clips (dataset.py: a draw with replacement for each place of a batch).
Limits: every clip exactly once, and less than 5 % of padding.

    python benchmarks/training/epoch.py
"""

from __future__ import annotations

import os
import platform
import random
import sys
from collections import Counter
from collections.abc import Sequence

from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.training.data import Clip, LoadedTensors, epoch_batches

CLIPS, PADDING_LIMIT = 2_000, 0.05


def clip(number: int, draw: random.Random) -> Clip:
    seconds = draw.uniform(1.0, 7.0) if draw.random() < 0.2 else draw.uniform(7.0, 11.6)
    row = dict.fromkeys(("clip_id", "sha256"), f"clip-{number}") | {
        **dict.fromkeys(("video_id", "speaker", "text"), "a"),
        **{"language": "pt", "split": "train", "snr_db": 0.0},
        **dict.fromkeys(("bandwidth_hz", "speaker_similarity")),
    }
    return Clip(samples=int(seconds * SAMPLE_RATE_HZ), tensors=LoadedTensors({}), **row)


def padding(batches: Sequence[Sequence[Clip]]) -> float:
    """The share of the codes' places that hold none."""
    places = sum(max(c.n_codes for c in batch) * len(batch) for batch in batches)
    return 1 - sum(c.n_codes for batch in batches for c in batch) / places


def main() -> int:
    draw = random.Random(0)
    clips = [clip(number, draw) for number in range(CLIPS)]
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{CLIPS} clips{'':14} {'batch':>6} {'seen':>6} {'twice+':>7} {'padding':>8}")
    held = True
    for size in (2, 4, 8, 16):
        drawn = [[draw.choice(clips) for _ in range(size)] for _ in range(CLIPS // size)]
        ours = epoch_batches(clips, size, seed=0, epoch=1)
        for name, batches in (("coqui-tts", drawn), ("xtts_core", ours)):
            seen = Counter(c.clip_id for batch in batches for c in batch)
            repeated = sum(count > 1 for count in seen.values())
            print(f"{name:25} {size:6} {len(seen):6} {repeated:7} {padding(batches):8.1%}")
        held &= len(seen) == CLIPS and not repeated and padding(ours) < PADDING_LIMIT
    print(f"every clip once, padding below {PADDING_LIMIT:.0%}: {'held' if held else 'NOT HELD'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
