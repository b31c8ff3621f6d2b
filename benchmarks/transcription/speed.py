"""The speed and the word error rate of the recognisers, with the same weights.

The clips are the true sentences of a recording, two together where they fit, 4 to 11.6 s. The peers
are openai-whisper's `decode`, clip by clip; faster-whisper's own `transcribe`, which fills each
clip up to 30 s as well; and several clips packed into one window of 30 s, parted again where their
words lie in time. Both engines are then measured as they are used here, with the words' times and
the guards. Every line is greedy or with a beam of five; the engines use `OMP_NUM_THREADS` threads
(default: all cores).

A word is misplaced where a clip that is heard with others has it, heard alone lacks it, and one of
its neighbours lost it. The default engine is at least twice as fast as openai-whisper with the same
beam, at most one point of word error rate worse, and misplaces no word.

    python benchmarks/transcription/speed.py [RECORDING.webm [CLIPS [BEAM]]]

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
from collections import Counter
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
from xtts_core.transcription.words import Piece
from xtts_core.transcription.words import joined as words_with_times

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "feira-dora.webm"
LANGUAGE = "pt"
LONGEST_S = 11.6
BEFORE_S, AFTER_S = 0.1, 0.25
TIMES_FASTER = 2.0
POINTS_WORSE = 0.01
GAP_S = 1.0
"""Between packed clips. With 2 s they were no faster and no righter."""
AT_ONCE = 4
PEER = "openai-whisper decode"
DEFAULT = "engine faster-whisper (default)"

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


def openai_whisper_itself(weights: Path, beam: int) -> Hear:
    import whisper

    model: Any = whisper.load_model(str(weights), device="cpu")
    options = whisper.DecodingOptions(
        language=LANGUAGE, beam_size=beam, without_timestamps=True, fp16=False
    )

    def hear(clip: Audio) -> str:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(clip), model.dims.n_mels)
        text: str = whisper.decode(model, mel, options).text
        return text

    return lambda clips: [hear(clip) for clip in clips]


def packed(weights: Path, beam: int) -> Hear:
    """Several clips in one window, a silence between them; a word is that of the nearest clip."""
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

    threads = int(os.environ["OMP_NUM_THREADS"])
    model: Any = WhisperModel(str(weights), "cpu", compute_type="int8", cpu_threads=threads)
    tokenizer = Tokenizer(model.hf_tokenizer, True, task="transcribe", language=LANGUAGE)
    prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    window, gap = 30 * asr.SAMPLE_RATE_HZ, int(GAP_S * asr.SAMPLE_RATE_HZ)

    def hear(clips: Sequence[Audio]) -> list[str]:
        audios: list[Audio] = []
        places: list[tuple[int, float, float]] = []
        for clip in clips:
            if not audios or len(audios[-1]) + len(clip) > window:
                audios.append(np.zeros(0, np.float32))
            first = len(audios[-1])
            edges = [edge / asr.SAMPLE_RATE_HZ for edge in (first, first + len(clip))]
            places.append((len(audios) - 1, edges[0], edges[1]))
            audios[-1] = np.concatenate([audios[-1], clip, np.zeros(gap, np.float32)])
        texts = [""] * len(clips)
        for start in range(0, len(audios), AT_ONCE):
            batch = [audio[:window] for audio in audios[start : start + AT_ONCE]]
            features = [model.feature_extractor(a, padding=window - len(a)) for a in batch]
            encoded = model.encode(np.stack(features)[..., : asr.FULL_WINDOW])
            results = model.model.generate(encoded, [prompt] * len(batch), beam_size=beam)
            tokens: Any = [result.sequences_ids[0] for result in results]
            timed = model.find_alignment(tokenizer, tokens, encoded, asr.FULL_WINDOW)
            for number, pieces in enumerate(timed, start):
                for word in words_with_times(
                    Piece(p["word"], p["start"], p["end"], p["probability"]) for p in pieces
                ):
                    middle_s = (word.start_s + word.end_s) / 2
                    _, nearest = min(
                        (max(start_s - middle_s, middle_s - end_s), index)
                        for index, (pack, start_s, end_s) in enumerate(places)
                        if pack == number
                    )
                    texts[nearest] += f" {word.text}"
        return texts

    return hear


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


def misplaced(together: Sequence[str], alone: Sequence[str]) -> float:
    """The share of words that went from a clip to a neighbour when they were heard together."""
    pairs = [
        tuple(Counter(words_of(normalize(text, LANGUAGE))) for text in texts)
        for texts in zip(together, alone, strict=True)
    ]
    gained = [heard - by_itself for heard, by_itself in pairs]
    lost = [Counter[str](), *(by_itself - heard for heard, by_itself in pairs), Counter[str]()]
    moved = (gains & (lost[i] + lost[i + 2]) for i, gains in enumerate(gained))
    return sum(map(Counter.total, moved)) / sum(heard.total() for heard, _ in pairs)


def main() -> int:
    recording = Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    beams = [int(sys.argv[3])] if len(sys.argv) > 3 else [1, 5]
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
        print(
            f"{'':32} {'beam':>4} {'of real time':>13} {'WER':>7} {'misplaced':>10} "
            f"{'x openai-whisper':>17}"
        )
        for beam in beams:
            ct2, openai = weights["faster-whisper"], weights["openai-whisper"]
            lines = {
                PEER: openai_whisper_itself(openai, beam),
                "faster-whisper transcribe": faster_whisper_itself(ct2, beam),
                "faster-whisper, packed": packed(ct2, beam),
                "engine openai-whisper": ours("openai-whisper", openai, beam),
                DEFAULT: ours("faster-whisper", ct2, beam),
            }
            factors, rates, shares = {}, {}, {}
            for line, hear in lines.items():
                hear(clips[:1])
                start = time.perf_counter()
                heard = hear(clips)
                factors[line] = (time.perf_counter() - start) / seconds
                rates[line] = error_rate(said, heard)
                in_company = line in ("faster-whisper, packed", DEFAULT)
                alone = [hear([clip])[0] for clip in clips] if in_company else heard
                shares[line] = misplaced(heard, alone)
                print(
                    f"{line:32} {beam:4} {factors[line]:13.3f} {rates[line]:7.4f} "
                    f"{shares[line]:10.4f} {factors[PEER] / factors[line]:17.2f}",
                    flush=True,
                )
            faster = factors[PEER] / factors[DEFAULT]
            worse = rates[DEFAULT] - rates[PEER]
            passed = faster >= TIMES_FASTER and worse <= POINTS_WORSE and not shares[DEFAULT]
            held &= passed
            print(
                f"beam {beam}: {faster:.2f} times as fast, bar {TIMES_FASTER:g}; "
                f"{100 * worse:+.2f} points, bar {100 * POINTS_WORSE:+g}; "
                f"{100 * shares[DEFAULT]:.2f} % misplaced, bar 0: "
                f"{'held' if passed else 'NOT HELD'}"
            )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
