"""The words of a recognised text with their times.

Both engines find them alike, from the attention of Whisper's decoder to the audio (dynamic time
warping; openai-whisper, timing.py: find_alignment), in steps of 20 ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Piece(NamedTuple):
    """What an engine times: a word with the space before it, a punctuation mark, part of a word."""

    text: str
    start_s: float
    end_s: float
    probability: float


class Word(NamedTuple):
    """A word as it was written, with its punctuation; seconds from the start of the clip.

    `probability` is the lowest of its parts, each the mean of its tokens.
    """

    text: str
    start_s: float
    end_s: float
    probability: float


def joined(pieces: Iterable[Piece]) -> tuple[Word, ...]:
    """The words, parted at spaces; punctuation counts neither in their times nor probabilities."""
    words: list[Word] = []
    for piece in pieces:
        text = piece.text.strip()
        if not text:
            continue
        if not words or piece.text[0].isspace():
            words.append(
                Word(
                    text,
                    round(float(piece.start_s), 2),
                    round(float(piece.end_s), 2),
                    round(float(piece.probability), 4),
                )
            )
        elif any(letter.isalnum() for letter in text):
            before = words[-1]
            words[-1] = before._replace(
                text=before.text + text,
                end_s=round(float(piece.end_s), 2),
                probability=min(before.probability, round(float(piece.probability), 4)),
            )
        else:
            words[-1] = words[-1]._replace(text=words[-1].text + text)
    return tuple(words)
