"""How the next audio code is drawn from the GPT's logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Draw = Callable[[Tensor, Tensor], Tensor]
"""From the codes spoken [1, n] and the logits [1, codes] to the next code [1, 1]."""


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn. The defaults are those of coqui-tts's `inference`.

    Attributes:
        top_k: 1 always takes the likeliest code.
        speed: above 1 faster, below 1 slower; the pitch stays.
        seed: the same seed, text, voice and model give the same audio; None draws one.
        max_audio_tokens: the most codes (46 ms each) of one sentence; None: by its length.
        min_audio_tokens: the fewest codes before a stop; None: by its length, 0: as coqui-tts.
        penalise_prefix: the repetition penalty counts code 1 and the start code as spoken, as
            coqui-tts's stand-ins for the prompt make it.
        retries: how often a sentence that ran away is spoken again with another seed.
    """

    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 0.85
    repetition_penalty: float = 10.0
    speed: float = 1.0
    seed: int | None = None
    max_audio_tokens: int | None = None
    min_audio_tokens: int | None = None
    penalise_prefix: bool = True
    retries: int = 0


def drawing(sampling: Sampling, generator: torch.Generator) -> Draw:
    """A function that draws the next code as transformers' `generate` does."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    shape = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)),
            TemperatureLogitsWarper(float(sampling.temperature)),
            TopKLogitsWarper(sampling.top_k),
            TopPLogitsWarper(float(sampling.top_p)),
        ]
    )

    def draw(spoken: Tensor, logits: Tensor) -> Tensor:
        scores: Tensor = shape(spoken, logits)  # type: ignore[arg-type]
        return torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)

    return draw
