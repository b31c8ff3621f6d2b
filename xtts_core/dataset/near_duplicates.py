"""Texts that say nearly the same, found without comparing each with each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Set
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
    words = {other: own for other in sorted(others) if (own := _words(other))}
    counts = Counter(word for own in words.values() for word in own)
    rank = {word: i for i, word in enumerate(sorted(counts, key=lambda w: (counts[w], w)))}
    sets = {other: {rank[word] for word in own} for other, own in words.items()}

    def rarest(ranks: Set[int], size: int) -> list[int]:
        # Words that no other text has are the rarest of all, and find nothing.
        kept = len(ranks) - ceil(similarity * size - _EPSILON) + 1
        return sorted(ranks)[: max(kept, 0)]

    with_word: defaultdict[int, list[str]] = defaultdict(list)
    for other, ranks in sets.items():
        for word in rarest(ranks, len(ranks)):
            with_word[word].append(other)

    found: dict[str, tuple[str, float]] = {}
    for text in texts:
        own = _words(text)
        size = len(own)
        ranks = {rank[word] for word in own if word in rank}
        least, most = similarity * size - _EPSILON, size / similarity + _EPSILON
        for other in {other for word in rarest(ranks, size) for other in with_word.get(word, ())}:
            if not least <= len(sets[other]) <= most:
                continue
            shared = len(ranks & sets[other])
            alike = shared / (size + len(sets[other]) - shared)
            if alike >= similarity and (-alike, other) < _rank(found.get(text)):
                found[text] = (other, alike)
    return found


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text))


def _rank(found: tuple[str, float] | None) -> tuple[float, str]:
    return (0.0, "") if found is None else (-found[1], found[0])
