"""What weights of fewer bits cost and save: the error of the logits, the share of greedy codes that
stay the same, and the milliseconds of a step for one and for eight sentences.

The codes of float32 are given to the other precisions too, so that each is judged code by code;
`spoken` tells how far a sentence's own greedy codes stay the same. No sentence may stop before its
last code: a toy model would after its first. Measured are a model of random weights at the public
size and, where its folder is given, a trained checkpoint.

    OMP_NUM_THREADS=2 python benchmarks/service/precision.py [data/checkpoints/VERSION]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import torch
from public_size import write_base
from torch import Tensor

from xtts_core.model.decoder import Decoder, Request
from xtts_core.model.engine import Engine, read_reference
from xtts_core.model.loading import load_model
from xtts_core.model.projections import Precision
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.text import normalize

TEXTS = (
    "A feira abre às seis horas, e quem chega primeiro encontra as melhores frutas.",
    "Você pode me dizer de que plataforma sai o trem que vai para o litoral?",
    "O ônibus passou lotado; esperamos outro durante quase meia hora.",
    "Também é preciso lembrar que nenhuma mudança acontece sem o trabalho de muita gente.",
)
CROWD = 8
COSINE_LIMIT = 0.99


class Voice:
    """A model's greedy codes and the logits that they were drawn from."""

    def __init__(self, directory: Path, precision: Precision, gpt_cond: Tensor) -> None:
        self._tokenizer = Tokenizer.load(directory)
        self._decoder = Decoder(load_model(directory).gpt, slots=CROWD, precision=precision)
        self._gpt_cond = gpt_cond

    def request(self, text: str, most: int, given: list[int], logits: list[Tensor]) -> Request:
        """Greedy, but for the codes that are given; puts the logits of each code into `logits`."""
        codes = iter(given)

        def draw(spoken: Tensor, scores: Tensor) -> Tensor:
            # All but the stop code's, which is kept out by an infinite one.
            logits.append(scores[0, scores[0].isfinite()])
            following = next(codes, None)
            return (
                scores.argmax(-1, keepdim=True)
                if following is None
                else spoken.new_tensor([[following]])
            )

        tokens = self._tokenizer.encode(normalize(text, "pt"), "pt")
        return Request(tokens, self._gpt_cond, draw, most, most, True, lambda: None)

    def say(self, text: str, most: int, given: list[int]) -> tuple[list[int], Tensor]:
        logits: list[Tensor] = []
        codes = [code for code, _ in self._decoder.decode(self.request(text, most, given, logits))]
        return codes, torch.stack(logits)

    def step_s(self, sentences: int, steps: int = 12) -> float:
        """The seconds of a step of so many sentences at once."""
        crowd: list[Iterator[Any]] = [
            self._decoder.decode(self.request(TEXTS[n % len(TEXTS)], 100, [], []))
            for n in range(sentences)
        ]
        for sentence in crowd:
            next(sentence)
        times = []
        for _ in range(steps):
            started = perf_counter()
            for sentence in crowd:
                next(sentence)
            times.append(perf_counter() - started)
        for sentence in crowd:
            sentence.close()
        return min(times)


def judge(name: str, directory: Path, gpt_cond: Tensor, most: int) -> float:
    """Print the table of a model; the lowest cosine of all."""
    exact = Voice(directory, "float32", gpt_cond)
    said = [exact.say(text, most, []) for text in TEXTS]
    total = sum(len(codes) for codes, _ in said)
    print(f"\n{name}: {total} greedy codes of {len(TEXTS)} texts")
    print(f"{'':10s}{'cosine':>10s}{'equal':>8s}{'spoken':>8s}{'ms, one':>9s}{'eight':>7s}")
    lowest = 1.0
    for precision in get_args(Precision):
        voice = exact if precision == "float32" else Voice(directory, precision, gpt_cond)
        cosines, equal, spoken = [], 0, 0
        for text, (codes, logits) in zip(TEXTS, said, strict=True):
            _, theirs = voice.say(text, most, codes)
            cosines.append(torch.cosine_similarity(logits, theirs, dim=1).min().item())
            equal += int((logits.argmax(1) == theirs.argmax(1)).sum())
            own, _ = voice.say(text, most, [])
            pairs = zip(own, codes, strict=False)
            spoken += next((n for n, (a, b) in enumerate(pairs) if a != b), len(codes))
        lowest = min(lowest, *cosines)
        print(
            f"{precision:10s}{min(cosines):10.6f}{equal / total:8.1%}{spoken / total:8.1%}"
            f"{1e3 * voice.step_s(1):9.1f}{1e3 * voice.step_s(CROWD):7.1f}",
            flush=True,
        )
    return lowest


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("checkpoint", type=Path, nargs="?", help="a trained one")
    arguments.add_argument("--base", type=Path, help="a folder to keep the random model in")
    asked = arguments.parse_args()
    lowest = 1.0
    if asked.checkpoint:
        engine = Engine(load_model(asked.checkpoint), Tokenizer.load(asked.checkpoint), "", {})
        clips = sorted(asked.checkpoint.glob("voices/*/*.wav"))
        gpt_cond = engine.latents([read_reference(clip) for clip in clips]).gpt_cond
        lowest = judge(str(asked.checkpoint), asked.checkpoint, gpt_cond, 200)
    with tempfile.TemporaryDirectory() as folder:
        base = asked.base or Path(folder) / "base"
        if not base.exists():
            write_base(base)
        torch.manual_seed(0)
        lowest = min(lowest, judge("public size", base, torch.randn(1, 32, 1_024), 40))
    print(f"\nlowest cosine {lowest:.4f}, limit {COSINE_LIMIT}")
    return 0 if lowest >= COSINE_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
