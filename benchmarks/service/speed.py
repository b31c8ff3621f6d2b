"""How fast one text, a stream and eight texts at once are spoken, beside coqui-tts's own
`Xtts.inference` and `inference_stream`.

Both have the same random weights at the public size, speak the same number of codes of the same
text, and take two threads; coqui-tts computes in float32. Limits, as shares of coqui-tts's time:
one text of 10 s 0.88 in float32, with int8 weights 0.55; a stream of 20 s 0.4 in float32, with int8
weights 0.25; its first audio 0.7 at the same 20 codes and 0.4 with our own first chunk. Eight texts
at once give 2.3 times the audio per second that coqui-tts gives one after another, with int8
weights 3.8 times. What is short is measured in turns, and the median of the pairs counts: the speed
of shared machines changes within minutes.

    OMP_NUM_THREADS=2 python benchmarks/service/speed.py [--seconds 10] [--rounds 2]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, get_args

import numpy as np
import torch
from public_size import write_base

from xtts_core.model.engine import EDGE_S, Chunks, Engine, Latents
from xtts_core.model.loading import load_model
from xtts_core.model.projections import Precision
from xtts_core.model.sampling import Sampling
from xtts_core.settings import EngineSettings

TEXT = "a feira abre às seis horas, e quem chega primeiro encontra as melhores frutas da cidade."
CODE_S = 1_024 / 22_050
EDGE = round(EDGE_S * 24_000)
CROWD = 8
FIRST_ROUNDS = 5
COQUI_CHUNK, OUR_FIRST_CHUNK = 20, EngineSettings().first_chunk_tokens
PRECISIONS = get_args(Precision)
LIMITS = {
    ("one", "float32"): 0.88,
    ("one", "int8"): 0.55,
    **{("first", precision): 0.7 for precision in ("float32", "float16", "int8")},
    **{("own first", precision): 0.4 for precision in ("float32", "float16", "int8")},
    ("stream", "float32"): 0.4,
    ("stream", "int8"): 0.25,
    ("crowd", "float32"): 2.3,
    ("crowd", "int8"): 3.8,
}


class Coqui:
    """coqui-tts's own speech of a fixed number of codes."""

    def __init__(self, base: Path, voice: Latents) -> None:
        self._model = load_model(base)
        self._model.eval()
        self._voice = voice

    def _asked(self, codes: int) -> tuple[Any, ...]:
        self._model.gpt.max_gen_mel_tokens = codes
        torch.manual_seed(0)
        return TEXT, "pt", self._voice.gpt_cond, self._voice.speaker

    def whole(self, codes: int) -> np.ndarray[Any, Any]:
        """The audio of `inference`."""
        audio: np.ndarray[Any, Any] = self._model.inference(*self._asked(codes))["wav"]
        return audio

    def stream(self, codes: int) -> Iterator[Any]:
        """The pieces of `inference_stream`."""
        pieces: Iterator[Any] = self._model.inference_stream(
            *self._asked(codes), stream_chunk_size=COQUI_CHUNK
        )
        return pieces


def sampling(codes: int, seed: int = 0) -> Sampling:
    return Sampling(seed=seed, max_audio_tokens=codes, min_audio_tokens=0)


def taken(work: Callable[[], Any]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def until_heard(pieces: Iterator[Any]) -> None:
    """Take pieces up to the first that holds audio."""
    while not len(next(pieces)):
        pass


def spoken_by_crowd(engine: Engine, voice: Latents, codes: int) -> float:
    def speak(seed: int) -> int:
        return len(engine.synthesize(TEXT, "pt", voice, sampling(codes, seed)))

    started = perf_counter()
    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(speak, range(CROWD)))
    return perf_counter() - started


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=10.0, help="of audio of one text")
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--base", type=Path, help="a folder to keep the model in")
    asked = arguments.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    codes = round(asked.seconds / CODE_S)
    with tempfile.TemporaryDirectory() as folder:
        base = asked.base or Path(folder) / "base"
        if not base.exists():
            write_base(base)
        voice = Latents(torch.randn(1, 32, 1_024), torch.randn(1, 512, 1))
        results = compare(base, voice, codes, asked.rounds)
    print(f"\n{'':24s}{'ratio':>8s}{'limit':>8s}")
    good = True
    for (what, precision), ratio in results.items():
        limit = LIMITS.get((what, precision))
        held = limit is None or (ratio >= limit if what == "crowd" else ratio <= limit)
        good &= held
        word = "" if limit is None else f"{limit:8.2f}" + ("" if held else "  NOT HELD")
        print(f"{what + ', ' + precision:24s}{ratio:8.2f}{word}")
    return 0 if good else 1


def first_audio(
    coqui: Coqui, engines: dict[str, Engine], voice: Latents, rounds: int
) -> dict[tuple[str, str], float]:
    """Our seconds to the first audio of a stream over coqui-tts's, at its chunk and at ours."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        theirs = taken(lambda: until_heard(coqui.stream(OUR_FIRST_CHUNK + COQUI_CHUNK)))
        for name, engine in engines.items():
            for kind, first in (("first", COQUI_CHUNK), ("own first", OUR_FIRST_CHUNK)):
                chunks = Chunks(first, COQUI_CHUNK)
                with contextlib.closing(
                    engine.stream(TEXT, "pt", voice, sampling(2 * COQUI_CHUNK), chunks)
                ) as pieces:
                    ours = taken(lambda pieces=pieces: until_heard(pieces))
                times.setdefault((kind, name), []).append(ours / theirs)
        print(f"first audio of a stream: coqui-tts {theirs:.2f} s", flush=True)
    return {key: median(ratios) for key, ratios in times.items()}


def compare(base: Path, voice: Latents, codes: int, rounds: int) -> dict[tuple[str, str], float]:
    coqui = Coqui(base, voice)
    engines = {
        precision: Engine.load(
            base, EngineSettings.model_validate({"device": "cpu", "weights": precision})
        )
        for precision in PRECISIONS
    }
    theirs = coqui.whole(20)
    ours = engines["float32"].synthesize(TEXT, "pt", voice, sampling(20))
    between = slice(EDGE, len(theirs) - EDGE)
    gap = np.abs(ours[between] - theirs[between]).max() / np.abs(theirs).max()
    print(f"20 codes of both: {len(ours)} and {len(theirs)} samples, {gap:.1e} of the peak apart")

    one: dict[str, list[float]] = {"coqui-tts": [], **{name: [] for name in engines}}
    for _ in range(rounds):
        one["coqui-tts"].append(taken(lambda: coqui.whole(codes)))
        for name, engine in engines.items():
            one[name].append(
                taken(lambda e=engine: e.synthesize(TEXT, "pt", voice, sampling(codes)))
            )
    seconds = codes * CODE_S
    for name, times in one.items():
        print(
            f"one text of {seconds:.0f} s: {name:10s} {median(times):6.1f} s "
            f"({median(times) / seconds:.2f} of real time)",
            flush=True,
        )
    theirs_s = median(one["coqui-tts"])
    results = {("one", name): median(one[name]) / theirs_s for name in engines}

    results |= first_audio(coqui, engines, voice, FIRST_ROUNDS)
    theirs_whole = taken(lambda: list(coqui.stream(2 * codes)))
    print(f"a stream of {2 * seconds:.0f} s: coqui-tts {theirs_whole:.1f} s", flush=True)
    chunks = Chunks(OUR_FIRST_CHUNK, COQUI_CHUNK)
    for name, engine in engines.items():
        ours_whole = taken(
            lambda e=engine: list(e.stream(TEXT, "pt", voice, sampling(2 * codes), chunks))
        )
        print(f"a stream of {2 * seconds:.0f} s: {name} {ours_whole:.1f} s", flush=True)
        results["stream", name] = ours_whole / theirs_whole
    for name, engine in engines.items():
        crowd_s = spoken_by_crowd(engine, voice, codes)
        print(
            f"{CROWD} texts at once: {name:10s} {crowd_s:6.1f} s, "
            f"{CROWD * seconds / crowd_s:.2f} s of audio a second",
            flush=True,
        )
        results["crowd", name] = CROWD * theirs_s / crowd_s
    return results


if __name__ == "__main__":
    sys.exit(main())
