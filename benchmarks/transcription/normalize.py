"""The texts of 1 000 clips through the Brazilian normaliser, beside coqui-tts's own cleaner.

A clip's text is two real sentences of the recordings and one case of tests/text/pt_br.tsv, which
brings the numbers, dates and money that cost the most. The limit is 1 s for all of them, from a
fresh process with nothing cached or loaded, num2words' import among it. The peer,
`multilingual_cleaners` of the XTTS tokenizer, knows no dates, hours, units, addresses or acronyms.

    python benchmarks/transcription/normalize.py [TRUTH.json ...]
"""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CLIPS = 1000
ROUNDS = 5
LIMIT_S = 1.0

MEASURE = """
import json, sys, time
texts = json.load(sys.stdin)
start = time.perf_counter()
if sys.argv[1] == "xtts_core":
    from xtts_core.text import normalize
    spoken = [normalize(text, "pt-BR") for text in texts]
else:
    from TTS.tts.layers.xtts.tokenizer import multilingual_cleaners
    start = time.perf_counter()
    spoken = [multilingual_cleaners(text, "pt") for text in texts]
seconds = time.perf_counter() - start
digits = sum(any(c.isdigit() for c in text) for text in spoken)
json.dump([seconds, digits], sys.stdout)
"""
PEERS = {"xtts_core": "xtts_core.text.normalize", "coqui": "coqui-tts multilingual_cleaners"}


def clip_texts(truths: list[Path]) -> list[str]:
    """The texts of `CLIPS` clips, of about nine seconds of speech each."""
    sentences = [
        sentence["text"]
        for truth in truths
        for sentence in json.loads(truth.read_text(encoding="utf-8"))["speech"]
    ]
    with (REPOSITORY / "tests/text/pt_br.tsv").open(encoding="utf-8", newline="") as file:
        cases = [row["input"] for row in csv.DictReader(file, delimiter="\t", quoting=3)]
    return [
        f"{sentences[i % len(sentences)]} {sentences[(7 * i + 3) % len(sentences)]} "
        f"{cases[i % len(cases)]}"
        for i in range(CLIPS)
    ]


def measure(name: str, texts: list[str]) -> tuple[float, int]:
    """Seconds in a fresh process, and how many texts still hold a digit."""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, name],
        input=json.dumps(texts),
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    seconds, digits = json.loads(output.stdout)
    return seconds, digits


def main() -> int:
    truths = [Path(argument) for argument in sys.argv[1:]] or sorted(
        (REPOSITORY / "examples/demo").glob("*.truth.json")
    )
    texts = clip_texts(truths)
    characters = sum(map(len, texts))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{CLIPS} texts, {characters / CLIPS:.0f} characters each, {ROUNDS} fresh processes")
    print(f"{'':34} {'median s':>9} {'max s':>7} {'characters/s':>13} {'with digits left':>17}")
    medians = {}
    for name, title in PEERS.items():
        rounds = [measure(name, texts) for _ in range(ROUNDS)]
        seconds = [r[0] for r in rounds]
        medians[name] = statistics.median(seconds)
        print(
            f"{title:34} {medians[name]:9.2f} {max(seconds):7.2f} "
            f"{characters / medians[name]:13,.0f} {rounds[0][1]:17}"
        )
    print(f"ratio to the peer: {medians['xtts_core'] / medians['coqui']:.1f}")
    held = medians["xtts_core"] < LIMIT_S
    print(f"limit {LIMIT_S:g} s: {'held' if held else 'NOT HELD'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
