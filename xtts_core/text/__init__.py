"""From written to spoken text: the one way text reaches a tokenizer, in the dataset and in the
service alike.

A language is a module of this package with `normalize(text) -> str`, named by its primary tag.
"""

from __future__ import annotations

import re
from importlib import import_module

from xtts_core.errors import RequestError

NORMALISER_VERSION = "5"
"""Bumped whenever some text comes out differently; part of a checkpoint's manifest."""

_LANGUAGES = ("en", "es", "pt")

MIN_SENTENCE_CHARACTERS = 15
"""XTTS adds sounds after very short texts (idiap/coqui-ai-TTS#514, coqui-ai/TTS#3516), so a
shorter sentence is spoken together with its neighbour."""


class LanguageError(RequestError):
    """A language that has no normaliser."""


def languages() -> list[str]:
    """The primary tags of the languages that `normalize` takes."""
    return list(_LANGUAGES)


def normalize(text: str, language: str) -> str:
    """`text` as it is spoken: lowercase words, with the punctuation that carries prosody.

    The result holds no digit, symbol or quotation mark, is a fixed point of this function, and
    is left as it is by the cleaner of coqui-tts (TTS.tts.layers.xtts.tokenizer).

    Args:
        language: a tag such as `pt`, `pt-BR` or `en`; what follows its primary tag is ignored.

    Raises:
        LanguageError: there is no normaliser for the language.
    """
    primary = language.split("-")[0].lower()
    if primary not in _LANGUAGES:
        raise LanguageError(
            f"There is no text normaliser for the language {language!r}",
            where="language",
            remedy=f"Use one of {', '.join(languages())}",
        )
    spoken: str = import_module(f"{__name__}.{primary}").normalize(text)
    return spoken


def split_sentences(text: str, language: str, max_characters: int) -> list[str]:
    """`text` normalised and cut into sentences of at most `max_characters` characters.

    A longer sentence is cut at its last clause mark that fits, else between words, and a word
    that is longer by itself inside the word. Joined with spaces the pieces give the text again.
    A sentence of fewer than `MIN_SENTENCE_CHARACTERS` joins its neighbour where both fit.
    """
    pieces = [
        piece
        for sentence in re.split(r"(?<=[.?!;])\s+", normalize(text, language))
        for piece in _fitting(sentence, max_characters)
        if piece
    ]
    joined: list[str] = []
    for piece in pieces:
        short = joined and min(len(joined[-1]), len(piece)) < MIN_SENTENCE_CHARACTERS
        if short and len(joined[-1]) + 1 + len(piece) <= max_characters:
            joined[-1] += f" {piece}"
        else:
            joined.append(piece)
    return joined


def _fitting(sentence: str, max_characters: int) -> list[str]:
    pieces = []
    while len(sentence) > max_characters:
        head = sentence[: max_characters + 1]
        clauses = [mark.end() for mark in re.finditer(r"[,:]\s", head)]
        cut = clauses[-1] if clauses else head.rfind(" ") + 1 or max_characters
        pieces.append(sentence[:cut].rstrip())
        sentence = sentence[cut:].lstrip()
    return [*pieces, sentence]
