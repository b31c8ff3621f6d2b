"""How right the texts of clips are, with the subtitles as they are, damaged, and without any.

A recording goes through `videos`, `raw_audio`, `segments` and `transcripts` with Whisper `base`
(from its package, no download). Each variant is a row of the table: how many words of the clips
that are kept are wrong (the word error rate against what was said, both normalised), where the
texts come from, and how many clips are rejected.

- `manual`: the subtitles as they came. At most 1 % wrong.
- `damaged`: each cue half a second early or late, a fifth of the cues missing and a fifth said in
  other words (paraphrases.tsv). At most 3 % wrong. A bad clip is one whose cues, taken as they
  stand, do not say what is said; it is caught where it is rejected or its text is right.
- `none`: without subtitles, not worse than faster-whisper itself with the same weights on the true
  sentences, one by one.

Bar 1 is the first line: the rolling captions give each spoken word once.

    python benchmarks/transcription/cascade.py RECORDING.webm [RECORDING.webm ...]

Beside each RECORDING lie its `.truth.json`, `.pt-BR.vtt` and, for the first line, `.pt-orig.vtt`.
Exits 1 where a bar is not held.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import csv
import json
import platform
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from speed import faster_whisper_itself, sounds_of

from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.corpus.segments import make_segments
from xtts_core.corpus.videos import make_video
from xtts_core.settings import (
    SAMPLE_RATE_HZ,
    DatasetSettings,
    SpeakerSettings,
    TranscriptionSettings,
)
from xtts_core.store import CorpusStore
from xtts_core.text import normalize
from xtts_core.transcription.alignment import words_of
from xtts_core.transcription.subtitles import Cue, read_cues, words
from xtts_core.transcription.transcripts import make_transcripts
from xtts_core.transcription.weights import find_weights
from xtts_core.transcription.wer import word_errors

LANGUAGE = "pt-BR"
DEMO = Path(__file__).parents[2] / "examples" / "demo" / "feira-dora.webm"
SHIFT_S = 0.5
SEED = 1
BEAM = 5
MARGIN_S = 0.3
BARS = {"manual": 0.01, "damaged": 0.03}
SETTINGS = DatasetSettings(
    speakers=SpeakerSettings(engine="off"),
    transcription=TranscriptionSettings(whisper_model="base", whisper_hp_model="base"),
)


@dataclass
class Result:
    """Word errors and words of the clips that are kept, and what became of the clips."""

    wrong: int = 0
    said: int = 0
    clips: int = 0
    rejected: int = 0
    bad: int = 0
    caught: int = 0

    @property
    def wer(self) -> float:
        return self.wrong / max(1, self.said)


def spoken(sentences: Sequence[Mapping[str, Any]], start_s: float, end_s: float) -> list[str]:
    """The words said between two times."""
    inside = (
        sentence["spoken"]
        for sentence in sentences
        if start_s - MARGIN_S <= (sentence["start"] + sentence["end"]) / 2 <= end_s + MARGIN_S
    )
    return words_of(normalize(" ".join(inside), LANGUAGE))


def errors(said: Sequence[str], text: str) -> int:
    return word_errors(" ".join(said), " ".join(words_of(text)))[0]


def damaged(cues: Sequence[Cue]) -> list[Cue]:
    """Each cue half a second early or late, a fifth missing, a fifth in other words."""
    with (Path(__file__).parent / "paraphrases.tsv").open(encoding="utf-8") as file:
        others = {row["said"]: row["paraphrase"] for row in csv.DictReader(file, delimiter="\t")}
    chance = random.Random(SEED)
    order = chance.sample(range(len(cues)), len(cues))
    fifth = len(cues) // 5
    missing, reworded = set(order[:fifth]), set(order[fifth : 2 * fifth])
    found = []
    for index, cue in enumerate(cues):
        if index not in missing:
            late_s = chance.choice((-SHIFT_S, SHIFT_S))
            text = others[cue.text] if index in reworded else cue.text
            found.append(Cue(max(0.0, cue.start_s + late_s), cue.end_s + late_s, text))
    return found


def vtt(cues: Sequence[Cue]) -> str:
    def clock(seconds: float) -> str:
        minutes, rest = divmod(seconds, 60)
        return f"{int(minutes):02}:{rest:06.3f}"

    lines = (f"{clock(cue.start_s)} --> {clock(cue.end_s)}\n{cue.text}\n" for cue in cues)
    return "WEBVTT\n\n" + "\n".join(lines)


def prepared(folder: Path, recording: Path, subtitles: str | None) -> CorpusStore:
    media = folder / recording.name
    media.symlink_to(recording.resolve())
    if subtitles is not None:
        media.with_suffix(f".{LANGUAGE}.vtt").write_text(subtitles, encoding="utf-8")
    catalogue = folder / "videos.csv"
    catalogue.write_text(f"video_id,source\na,{media.name}\n", encoding="utf-8")
    store = CorpusStore(folder / "corpus")
    make_video(store, SETTINGS, catalogue, "a")
    make_raw_audio(store, SETTINGS, "a")
    make_segments(store, SETTINGS, "a")
    make_transcripts(store, SETTINGS, "a")
    return store


def judged(
    store: CorpusStore, cues: Sequence[Cue], sentences: Sequence[Mapping[str, Any]]
) -> tuple[Result, Counter[str]]:
    result, sources = Result(), Counter[str]()
    texts = pq.read_table(store.transcripts("a")).to_pylist()
    segments = pq.read_table(store.segments_table("a")).to_pylist()
    for segment, text in zip(segments, texts, strict=True):
        start_s = segment["start_sample"] / SAMPLE_RATE_HZ
        end_s = segment["end_sample"] / SAMPLE_RATE_HZ
        said = spoken(sentences, start_s, end_s)
        wrong = errors(said, text["text"])
        kept = bool(text["text"]) and not text["guards"]
        result.clips += 1
        result.rejected += not kept
        sources[text["source"]] += kept
        if kept:
            result.wrong += wrong
            result.said += len(said)
        shown = (c.text for c in cues if start_s <= (c.start_s + c.end_s) / 2 <= end_s)
        if cues and errors(said, normalize(" ".join(shown), LANGUAGE)):
            result.bad += 1
            result.caught += not kept or wrong == 0
    return result, sources


def plain_wer(recording: Path, sentences: Sequence[Mapping[str, Any]], cache: Path) -> float:
    """faster-whisper itself on the true sentences, one by one."""
    hear = faster_whisper_itself(find_weights("base", "faster-whisper", None, cache), BEAM)
    wrong = said = 0
    sounds = sounds_of(recording, sentences, cache)
    for sentence, heard in zip(sentences, hear(sounds), strict=True):
        truth = words_of(normalize(sentence["spoken"], LANGUAGE))
        wrong += errors(truth, normalize(heard, LANGUAGE))
        said += len(truth)
    return wrong / said


def rolling_holds(recording: Path, sentences: Sequence[Mapping[str, Any]]) -> bool:
    path = recording.with_suffix(".pt-orig.vtt")
    if not path.exists():
        print(f"no rolling captions: {path.name}")
        return True
    shown = " ".join(word.text for word in words(path))
    found = words_of(normalize(shown, LANGUAGE))
    truth = [word for s in sentences for word in words_of(normalize(s["spoken"], LANGUAGE))]
    print(
        f"rolling captions: {len(found)} words, {len(truth)} were said: "
        f"{'equal' if found == truth else 'NOT EQUAL'}"
    )
    return found == truth


def main() -> int:
    held = True
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for recording in [Path(name) for name in sys.argv[1:]] or [DEMO]:
        truth = json.loads(recording.with_suffix(".truth.json").read_text(encoding="utf-8"))
        sentences = truth["speech"]
        manual = recording.with_suffix(f".{LANGUAGE}.vtt")
        print(f"\n{recording.name}, {os.environ['OMP_NUM_THREADS']} threads")
        held &= rolling_holds(recording, sentences)
        with tempfile.TemporaryDirectory() as name:
            bars = {**BARS, "none": plain_wer(recording, sentences, Path(name))}
        variants = {
            "manual": manual.read_text(encoding="utf-8"),
            "damaged": vtt(damaged(read_cues(manual))),
            "none": None,
        }
        for variant, text in variants.items():
            with tempfile.TemporaryDirectory() as name:
                store = prepared(Path(name), recording, text)
                written = store.raw_subtitles("a", LANGUAGE)
                cues = read_cues(written) if text else []
                result, sources = judged(store, cues, sentences)
            passed = result.wer <= bars[variant]
            held &= passed
            print(
                f"{variant:8} WER {result.wer:7.4f}  bar {bars[variant]:.4f}: "
                f"{'held' if passed else 'NOT HELD'}; {result.clips} clips, "
                f"{result.rejected} rejected, {dict(sources)}; "
                f"bad {result.bad}, caught {result.caught}"
            )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
