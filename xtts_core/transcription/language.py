"""Which language a text is in, told by how usual its words are in each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from xtts_core.transcription.alignment import words_of

CANDIDATES = ("pt", "es", "en", "fr", "it", "de", "nl", "pl")
"""The languages of XTTS in Latin letters with much speech on the web."""
ENOUGH_WORDS = 1_000


def likeliest_language(texts: Iterable[str], declared: str) -> str | None:
    """The language in which the words are most usual, of `CANDIDATES` and the declared one.

    By the mean Zipf frequency of the first thousand words in the small lists of wordfreq, which are
    read in 0.03 s each: the pt-BR samples have 5.7 in Portuguese and 3.1 in Spanish, the next one.
    None where there is no word, or no list for the declared language.

    Args:
        texts: normalised.
        declared: a tag such as `pt-BR`.
    """
    from wordfreq import available_languages, zipf_frequency

    own = declared.split("-")[0].lower()
    words = list(islice((word for text in texts for word in words_of(text)), ENOUGH_WORDS))
    if not words or own not in available_languages("small"):
        return None

    def usual(language: str) -> float:
        return sum(zipf_frequency(word, language, wordlist="small") for word in words)

    return max((own, *CANDIDATES), key=usual)
