"""What a request asks for, checked: each refusal names its field and what would be right."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xtts_core.errors import RequestError
from xtts_core.model.sampling import Sampling
from xtts_core.settings import MIN_TEMPERATURE, EngineSettings
from xtts_grpc.v1 import synthesis_pb2 as pb

MIN_SPEED, MAX_SPEED = 0.5, 2.0
MAX_TEMPERATURE = 2.0
MAX_REPETITION_PENALTY = 20.0
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000

_SEEDS = 2**32
_LONGEST_QUOTE = 64


@dataclass(frozen=True)
class Task:
    """What the engine is to say: `sampling.seed` is always set."""

    text: str
    language: str
    sampling: Sampling
    seed: int


def check_page_size(asked: int) -> int:
    """How many items a page may hold.

    Raises:
        RequestError: more than a page may ever hold.
    """
    if asked > MAX_PAGE_SIZE:
        raise RequestError(
            f"{asked} items are too many for a page",
            where="page_size",
            remedy=f"Ask for up to {MAX_PAGE_SIZE}",
        )
    return asked or DEFAULT_PAGE_SIZE


def default_sampling(settings: EngineSettings, *, seed: int) -> Sampling:
    """The sampling settings of config/service.yaml."""
    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        seed=seed,
        penalise_prefix=settings.penalise_prefix,
        retries=settings.runaway_retries,
    )


def check_utterance(
    utterance: pb.Utterance,
    languages: Sequence[str],
    settings: EngineSettings,
    max_characters: int,
) -> Task:
    """The task that an utterance asks for.

    Args:
        languages: the codes that the model knows.
        settings: the sampling settings for what the utterance leaves open.

    Raises:
        RequestError: a field is missing or out of range.
    """
    text = utterance.text.strip()
    if len(text) > max_characters:
        raise RequestError(
            f"The text has {len(text)} characters",
            where="utterance.text",
            remedy=f"Send up to {max_characters} in one call",
        )
    if not any(character.isalnum() for character in text):
        raise RequestError(
            "There is nothing to say", where="utterance.text", remedy="Send a text with words"
        )
    language = match_language(utterance.language, languages)
    seed = utterance.seed if utterance.HasField("seed") else secrets.randbelow(_SEEDS)
    return Task(text, language, _sampling(utterance, settings, seed), seed)


def check_spoken_length(sentences: Sequence[str], most: int) -> None:
    """Numbers and symbols are written out to ten times their length.

    Raises:
        RequestError: the sentences have more characters than may be spoken in one call.
    """
    length = sum(map(len, sentences))
    if length > most:
        raise RequestError(
            f"The text has {length} characters when its numbers and symbols are written out",
            where="utterance.text",
            remedy=f"Send a text of up to {most} written out in one call",
        )


def match_language(tag: str, languages: Sequence[str]) -> str:
    """The model's code for a BCP 47 tag: `pt` for `pt-BR`, `zh-cn` for `zh`.

    Raises:
        RequestError: the model does not know the language.
    """
    wanted = tag.strip().lower().replace("_", "-")
    for code in languages:
        if code.lower() == wanted:
            return code
    for code in languages:
        if wanted and code.lower().split("-")[0] == wanted.split("-")[0]:
            return code
    raise RequestError(
        f"The language {quoted(tag)} is not known" if wanted else "The language is missing",
        where="utterance.language",
        remedy=f"Name one of {', '.join(languages)}",
    )


def quoted(value: str) -> str:
    """What a request said, for a message: gRPC's clients take no more than 8 kB of it."""
    return repr(value) if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]!r}…"


def _sampling(utterance: pb.Utterance, settings: EngineSettings, seed: int) -> Sampling:
    sampling = default_sampling(settings, seed=seed)
    if utterance.HasField("speed"):
        _in_range(utterance.speed, MIN_SPEED, MAX_SPEED, "utterance.speed")
        sampling = replace(sampling, speed=utterance.speed)
    asked = utterance.sampling
    where = "utterance.sampling"
    if asked.HasField("temperature"):
        _in_range(asked.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE, f"{where}.temperature")
        sampling = replace(sampling, temperature=asked.temperature)
    if asked.HasField("top_k"):
        _at_least_one(asked.top_k, f"{where}.top_k")
        sampling = replace(sampling, top_k=asked.top_k)
    if asked.HasField("top_p"):
        _above_zero(asked.top_p, 1.0, f"{where}.top_p")
        sampling = replace(sampling, top_p=asked.top_p)
    if asked.HasField("repetition_penalty"):
        _in_range(
            asked.repetition_penalty, 1.0, MAX_REPETITION_PENALTY, f"{where}.repetition_penalty"
        )
        sampling = replace(sampling, repetition_penalty=asked.repetition_penalty)
    if asked.HasField("max_audio_tokens"):
        _at_least_one(asked.max_audio_tokens, f"{where}.max_audio_tokens")
        sampling = replace(sampling, max_audio_tokens=asked.max_audio_tokens)
    return sampling


# A comparison that is written as "not inside" refuses NaN too.


def _in_range(value: float, low: float, high: float, where: str) -> None:
    if not _as_sent(low) <= value <= _as_sent(high):
        raise RequestError(
            f"{value:g} is out of range", where=where, remedy=f"Send {low:g} to {high:g}"
        )


def _as_sent(bound: float) -> float:
    """A bound as a request's `float` has it: 0.01 comes as 0.0099999998."""
    rounded: float = struct.unpack("f", struct.pack("f", bound))[0]
    return rounded


def _above_zero(value: float, high: float, where: str) -> None:
    if not 0 < value <= high:
        raise RequestError(
            f"{value:g} is out of range", where=where, remedy=f"Send above 0, up to {high:g}"
        )


def _at_least_one(value: int, where: str) -> None:
    if value < 1:
        raise RequestError(f"{value} is out of range", where=where, remedy="Send 1 or more")
