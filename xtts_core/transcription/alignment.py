"""Which part of the subtitles a clip speaks, told by what a recogniser heard in the clip.

The times of subtitles say where to look, and no more: they may be half a second off, and a cue may
be said in two clips. What was heard, whose words may be wrong but whose extent is that of the
clip, is laid along the written words of the cues around it (a fitting alignment: all of what was
heard, any stretch of what is written; Needleman and Wunsch 1970 with free ends). The written words
are taken then, since a person wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from xtts_core.transcription.subtitles import Cue

REACH_S = 2.0
"""Cues so far from the clip are looked at: late or early by a second, and the second that the
words at a cue's ends may be off when their times are shared out by letters."""
INSIDE_COST = 5
"""Letters that a clip must gain or lose by it to begin or end inside a cue. Clips are cut in
pauses, most of which end a cue; a recogniser easily misses a first `e` or `não`, not more."""
DRIFT_COST_PER_S = 8
"""Letters by which a second of distance outweighs likeness, so that of two equal cues the nearer
one is taken."""
MAX_UNWRITTEN_LETTERS = 8
"""More heard letters than this, in two words and more, where a cue begins or ends: a cue is missing
there. Less may be the recogniser's slip."""

FEWEST_CHARACTERS = 40
"""A shorter cue is divided by this: one letter that was heard wrongly is much of a `sim`."""
FEWEST_LETTERS_OF_ANOTHER = 3
"""Where so many letters of a short cue differ, and most of it, another word was said: `não` for
`sim`, or nothing."""

_ASIDE = re.compile(r"\([^()]*\)|^[A-ZÀ-Ý][^:.!?]{0,40}:(?=\s)")
_WORD = re.compile(r"\w[\w'-]*")

Normalise = Callable[[str], str]


@dataclass(frozen=True)
class Spoken:
    """The part of the cues that a clip speaks.

    `text` as it is written, None where an edge of the clip lies within an expression that is only
    spoken as a whole (`R$ 7,50`); `cer` the character error rate between it and what was heard,
    normalised and without punctuation, of the cue that differs most; `complete` whether the cues
    have all that was heard.
    """

    text: str | None
    cer: float
    complete: bool


def spoken_part(
    cues: Sequence[Cue], start_s: float, end_s: float, heard: str, normalise: Normalise
) -> Spoken | None:
    """What a clip says in the words of the cues, or None where that cannot be told.

    None: nothing was heard, no cue is near, or what was heard is not in them at all. What a cue has
    in parentheses or before a colon at its start may be an aside or a speaker's name: it counts as
    written only where it was heard.

    Args:
        cues: in time order, in seconds of the video as `start_s` and `end_s`.
        heard: what a recogniser heard in the clip.
    """
    near = [cue for cue in cues if cue.end_s > start_s - REACH_S and cue.start_s < end_s + REACH_S]
    said = words_of(normalise(heard))
    written = _Written(near, normalise)
    if not said or not written.words:
        return None
    fit = _fit(said, written, start_s, end_s)
    for number, cue in enumerate(near):
        for aside in _ASIDE.findall(cue.text):
            rest = near[number].text.replace(aside, " ", 1)
            shorter = replace(near[number], text=" ".join(rest.split()))
            without = [*near[:number], shorter, *near[number + 1 :]]
            trial = _Written(without, normalise)
            if trial.words and (other := _fit(said, trial, start_s, end_s)).cost < fit.cost:
                near, written, fit = without, trial, other
    if fit.first == fit.last:
        return None
    return Spoken(
        text=written.text(fit.first, fit.last),
        cer=max(_disagreements(said, written, fit)),
        complete=not _unwritten(said, written, fit),
    )


def words_of(text: str) -> list[str]:
    """The words of a normalised text, without punctuation."""
    return _WORD.findall(text)


class _Written:
    """The spoken words of some cues, and how they are written."""

    def __init__(self, cues: Sequence[Cue], normalise: Normalise) -> None:
        self._cues = cues
        self._normalise = normalise
        self._spoken = [words_of(normalise(cue.text)) for cue in cues]
        self.words = [word for words in self._spoken for word in words]
        self.starts = [0, *accumulate(map(len, self._spoken))]
        """The first word of each cue, and one past the last of all."""
        self.times_s: list[float] = []
        """When the words begin, shared out by letters, and when the last one ends."""
        for cue, words in zip(cues, self._spoken, strict=True):
            letters = max(1, sum(map(len, words)))
            before = accumulate(map(len, words[:-1]), initial=0) if words else ()
            span_s = cue.end_s - cue.start_s
            self.times_s += [cue.start_s + span_s * count / letters for count in before]
        self.times_s.append(cues[-1].end_s if cues else 0.0)

    def text(self, first: int, last: int) -> str | None:
        """Words `first` up to, not including, `last` as written; None where a cue cannot be divided
        there."""
        parts = []
        for cue, words, start in zip(self._cues, self._spoken, self.starts, strict=False):
            begin, end = max(first - start, 0), min(last - start, len(words))
            if begin >= end:
                continue
            part = cue.text if (begin, end) == (0, len(words)) else self._part(cue, begin, end)
            if part is None:
                return None
            parts.append(part)
        return " ".join(parts)

    def _part(self, cue: Cue, begin: int, end: int) -> str | None:
        tokens = cue.text.split()
        whole = words_of(self._normalise(cue.text))
        cuts = {0: 0, len(whole): len(tokens)}
        for cut in range(1, len(tokens)):
            left = words_of(self._normalise(" ".join(tokens[:cut])))
            right = words_of(self._normalise(" ".join(tokens[cut:])))
            if left + right == whole:
                cuts[len(left)] = cut
        if begin not in cuts or end not in cuts:
            return None
        return " ".join(tokens[cuts[begin] : cuts[end]])


@dataclass(frozen=True)
class _Fit:
    """The stretch of the written words, `first` and one past the `last`, that is nearest to what
    was said, and its distance in letters; where each word that was said stands in it; and which of
    these have no partner."""

    first: int
    last: int
    cost: float
    places: Sequence[int]
    alone: frozenset[int]


def _fit(said: Sequence[str], written: _Written, start_s: float, end_s: float) -> _Fit:
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    changed = cdist(said, written.words, scorer=Levenshtein.distance).tolist()
    edges = set(written.starts)

    def edge(at: int, clip_s: float) -> float:
        inside = 0 if at in edges else INSIDE_COST
        return inside + DRIFT_COST_PER_S * abs(written.times_s[at] - clip_s)

    count = len(written.words)
    costs = [[edge(at, start_s) for at in range(count + 1)]]
    for at in range(1, count + 1):
        costs[0][at] = min(costs[0][at], costs[0][at - 1] + _cost(written.words[at - 1]))
    for index, word in enumerate(said):
        before = costs[-1]
        row = [before[0] + _cost(word)]
        for at, other in enumerate(written.words, 1):
            row.append(
                min(
                    before[at - 1] + changed[index][at - 1],
                    before[at] + _cost(word),
                    row[-1] + _cost(other),
                )
            )
        costs.append(row)
    cost, last = min((costs[-1][at] + edge(at, end_s), at) for at in range(count + 1))
    at, index = last, len(said)
    places, alone = [0] * len(said), set()
    while index:
        word = said[index - 1]
        if at and costs[index][at] == costs[index - 1][at - 1] + changed[index - 1][at - 1]:
            index, at = index - 1, at - 1
            places[index] = at
        elif costs[index][at] == costs[index - 1][at] + _cost(word):
            index -= 1
            places[index] = at
            alone.add(index)
        else:
            at -= 1
    while at and costs[0][at] == costs[0][at - 1] + _cost(written.words[at - 1]):
        at -= 1
    return _Fit(at, last, cost, places, frozenset(alone))


def _cost(word: str) -> int:
    """Of a word that only one side has: its letters and the space."""
    return len(word) + 1


def _unwritten(said: Sequence[str], written: _Written, fit: _Fit) -> set[int]:
    """The heard words where a cue is missing: some that stand where one begins or ends."""
    by_place: dict[int, list[int]] = {}
    for index in sorted(fit.alone):
        by_place.setdefault(fit.places[index], []).append(index)
    return {
        index
        for at, indices in by_place.items()
        if at in written.starts
        and len(indices) > 1
        and sum(len(said[index]) for index in indices) > MAX_UNWRITTEN_LETTERS
        for index in indices
    }


def _disagreements(said: Sequence[str], written: _Written, fit: _Fit) -> Iterator[float]:
    """The character error rate of the part of each cue that is spoken."""
    from rapidfuzz.distance import Levenshtein

    unwritten = _unwritten(said, written, fit)
    for start, end in pairwise(written.starts):
        first, last = max(start, fit.first), min(end, fit.last)
        if first >= last:
            continue
        # What stands after the last word belongs to the last cue.
        until = last + 1 if last == fit.last else last
        heard = (
            word
            for index, word in enumerate(said)
            if first <= fit.places[index] < until and index not in unwritten
        )
        shown = " ".join(written.words[first:last])
        distance = Levenshtein.distance(shown, " ".join(heard))
        another = distance >= FEWEST_LETTERS_OF_ANOTHER and distance > len(shown) / 2
        yield distance / (len(shown) if another else max(len(shown), FEWEST_CHARACTERS))
