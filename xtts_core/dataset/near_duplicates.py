"""Texts that say nearly the same, found without comparing each with each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection
from math import ceil

_WORD = re.compile(r"\w+")
_EPSILON = 1e-9


def near_duplicates(
    texts: Collection[str], others: Collection[str], similarity: float
) -> dict[str, tuple[str, float]]:
    """For each of `texts` that is like one of `others`: the one most like it, and how much.

    Two texts are as alike as their sets of words: the share of all their words that both have
    (Jaccard). Sets that are `similarity` alike share one of their rarest words, so only those are
    compared: the prefix filter of Bayardo, Ma & Srikant, "Scaling up all pairs similarity search"
    (WWW 2007). Exact, and of memory for `others` alone.

    Args:
        similarity: in (0, 1].
    """
    sets = {other: words for other in sorted(others) if (words := _words(other))}
    counts = Counter(word for words in sets.values() for word in words)

    def rarest(words: frozenset[str]) -> list[str]:
        kept = len(words) - ceil(similarity * len(words) - _EPSILON) + 1
        return sorted(words, key=lambda word: (counts[word], word))[:kept]

    with_word: defaultdict[str, list[str]] = defaultdict(list)
    for other, words in sets.items():
        for word in rarest(words):
            with_word[word].append(other)

    found: dict[str, tuple[str, float]] = {}
    for text in texts:
        if not (words := _words(text)):
            continue
        least, most = similarity * len(words) - _EPSILON, len(words) / similarity + _EPSILON
        for other in {other for word in rarest(words) for other in with_word.get(word, ())}:
            if not least <= len(sets[other]) <= most:
                continue
            alike = _jaccard(words, sets[other])
            if alike >= similarity and (-alike, other) < _rank(found.get(text)):
                found[text] = (other, alike)
    return found


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _rank(found: tuple[str, float] | None) -> tuple[float, str]:
    return (0.0, "") if found is None else (-found[1], found[0])
