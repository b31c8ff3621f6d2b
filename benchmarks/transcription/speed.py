"""The speed and the word error rate of the recognisers, clip by clip, with the same weights.

The clips are the true sentences of a recording, two together where they fit, 4 to 11.6 s. The peers
are openai-whisper, and faster-whisper's own `transcribe`, which fills each clip up to 30 s as well.
Every line is greedy or with a beam of five; the engines use `OMP_NUM_THREADS` threads (default: all
cores). The default engine is at least twice as fast as openai-whisper with the same beam, and at
most one point of word error rate worse. Each clip is recognised by itself, so the share of words
that land in another clip is nought by construction.

    python benchmarks/transcription/speed.py [RECORDING.webm [CLIPS]]

RECORDING has its `.truth.json` beside it. Exits 1 where a bar is not held.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from xtts_core.corpus.decode import decode
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.text import normalize
from xtts_core.transcription import asr
from xtts_core.transcription.alignment import words_of
from xtts_core.transcription.weights import find_weights
from xtts_core.transcription.wer import word_errors

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "feira-dora.webm"
LANGUAGE = "pt"
LONGEST_S = 11.6
BEFORE_S, AFTER_S = 0.1, 0.25
TIMES_FASTER = 2.0
POINTS_WORSE = 0.01

Audio = npt.NDArray[np.float32]
Hear = Callable[[Sequence[Audio]], list[str]]


def sounds_of(recording: Path, sentences: Sequence[Mapping[str, Any]], folder: Path) -> list[Audio]:
    """The sound of each sentence (`start` and `end` in seconds) and its margins, at 16 kHz."""
    wav = folder / f"{recording.stem}.wav"
    decode(recording, wav)
    sounds = []
    for sentence in sentences:
        start_s, end_s = max(0.0, sentence["start"] - BEFORE_S), sentence["end"] + AFTER_S
        first, last = round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ)
        sound = sf.read(wav, start=first, stop=last, dtype="float32")[0]
        sounds.append(soxr.resample(sound, SAMPLE_RATE_HZ, asr.SAMPLE_RATE_HZ))
    return sounds


def joined(sentences: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours as one, where both fit into a clip."""
    found: list[dict[str, Any]] = []
    for sentence in sentences:
        length_s = sentence["end"] - found[-1]["start"] + BEFORE_S + AFTER_S if found else math.inf
        if length_s <= LONGEST_S:
            before = found.pop()
            spoken = f"{before['spoken']} {sentence['spoken']}"
            found.append({"start": before["start"], "end": sentence["end"], "spoken": spoken})
        else:
            found.append(dict(sentence))
    return found


def ours(engine: str, weights: Path, beam: int) -> Hear:
    recogniser = asr.load_recogniser(engine, weights, "cpu", beam, 0.0)
    return lambda clips: [heard.text for heard in recogniser.transcribe(clips, LANGUAGE)]


def faster_whisper_itself(weights: Path, beam: int) -> Hear:
    from faster_whisper import WhisperModel

    threads = int(os.environ["OMP_NUM_THREADS"])
    model: Any = WhisperModel(str(weights), "cpu", compute_type="int8", cpu_threads=threads)

    def hear(clip: Audio) -> str:
        options = {"language": LANGUAGE, "beam_size": beam, "without_timestamps": True}
        found, _ = model.transcribe(clip, condition_on_previous_text=False, **options)
        return " ".join(segment.text.strip() for segment in found)

    return lambda clips: [hear(clip) for clip in clips]


def error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    wrong = total = 0
    for spoken, text in zip(said, heard, strict=True):
        words = [" ".join(words_of(normalize(side, LANGUAGE))) for side in (spoken, text)]
        errors, count = word_errors(*words)
        wrong, total = wrong + errors, total + count
    return wrong / total


def main() -> int:
    recording = Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    held = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = json.loads(recording.with_suffix(".truth.json").read_text(encoding="utf-8"))
        sentences = joined(truth["speech"])[:most]
        clips = sounds_of(recording, sentences, folder)
        said = [sentence["spoken"] for sentence in sentences]
        seconds = sum(map(len, clips)) / asr.SAMPLE_RATE_HZ
        weights = {
            engine: find_weights("base", engine, None, folder / "whisper")
            for engine in ("openai-whisper", "faster-whisper")
        }
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        print(
            f"{recording.name}: {len(clips)} clips of {seconds / len(clips):.1f} s, base, "
            f"{os.environ['OMP_NUM_THREADS']} threads"
        )
        print(f"{'':28} {'beam':>4} {'of real time':>13} {'WER':>7} {'x openai-whisper':>17}")
        for beam in (1, 5):
            lines = {
                "openai-whisper": ours("openai-whisper", weights["openai-whisper"], beam),
                "faster-whisper's own": faster_whisper_itself(weights["faster-whisper"], beam),
                "faster-whisper (default)": ours("faster-whisper", weights["faster-whisper"], beam),
            }
            factors, rates = {}, {}
            for line, hear in lines.items():
                hear(clips[:1])
                start = time.perf_counter()
                heard = hear(clips)
                factors[line] = (time.perf_counter() - start) / seconds
                rates[line] = error_rate(said, heard)
                faster = factors["openai-whisper"] / factors[line]
                print(
                    f"{line:28} {beam:4} {factors[line]:13.3f} {rates[line]:7.4f} {faster:17.2f}",
                    flush=True,
                )
            faster = factors["openai-whisper"] / factors["faster-whisper (default)"]
            worse = rates["faster-whisper (default)"] - rates["openai-whisper"]
            passed = faster >= TIMES_FASTER and worse <= POINTS_WORSE
            held &= passed
            print(
                f"beam {beam}: {faster:.2f} times as fast, bar {TIMES_FASTER:g}; "
                f"{100 * worse:+.2f} points, bar {100 * POINTS_WORSE:+g}: "
                f"{'held' if passed else 'NOT HELD'}"
            )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
