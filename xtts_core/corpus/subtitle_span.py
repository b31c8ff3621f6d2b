"""Subtitles of a part of a recording: their times moved, and what is spoken outside left out.

A cue that is cut by an edge of the span is handled so that no clip gets words that it does not
speak, and no clip lacks words without it being seen. Rolling captions have word times, so their
words are told apart. For others nobody knows which words lie inside: the cue is dropped, with
those near it, so that a clip which holds some of its speech has an uncovered stretch of more than
`MAX_UNCOVERED_S` and is transcribed by other means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from xtts_core.transcription.subtitles import (
    MAX_UNCOVERED_S,
    REPEAT_S,
    TAG,
    TIMING,
    TOLERANCE_S,
    VERBATIM,
    WORD_TIME,
    seconds_of,
    written_cues,
)


@dataclass(frozen=True)
class _Cue:
    start_s: float
    end_s: float
    place: str
    lines: tuple[str, ...]

    @property
    def plain(self) -> list[str]:
        return [TAG.sub("", line).strip() for line in self.lines]


def subtitles_in_span(vtt: str, start_s: float, end_s: float = math.inf) -> str:
    """The cues of a WebVTT text that lie between two times of the recording (seconds), as WebVTT
    whose time 0 is `start_s`; its notes, styles and cue numbers are left out."""
    cues = list(_cues(vtt))
    if any(WORD_TIME.search(line) for cue in cues for line in cue.lines):
        kept = _rolling(cues, start_s, end_s)
    else:
        kept = _whole(cues, start_s, end_s)
    header = VERBATIM if vtt.startswith(VERBATIM) else "WEBVTT"
    return f"{header}\n\n" + "".join(_written(cue, start_s, end_s) for cue in kept)


def _whole(cues: list[_Cue], start_s: float, end_s: float) -> list[_Cue]:
    for cue in cues:
        if cue.start_s < start_s - TOLERANCE_S and cue.end_s > start_s + TOLERANCE_S:
            start_s = max(start_s, cue.end_s + MAX_UNCOVERED_S)
            break
    for cue in reversed(cues):
        if cue.end_s > end_s + TOLERANCE_S and cue.start_s < end_s - TOLERANCE_S:
            end_s = min(end_s, cue.start_s - MAX_UNCOVERED_S)
            break
    return [
        cue
        for cue in cues
        if min(cue.end_s, end_s) > max(cue.start_s, start_s)
        and cue.start_s >= start_s - TOLERANCE_S
        and cue.end_s <= end_s + TOLERANCE_S
    ]


def _rolling(cues: list[_Cue], start_s: float, end_s: float) -> list[_Cue]:
    kept = [
        replace(cue, lines=_words_in(cue, start_s, end_s))
        for cue in cues
        if cue.start_s < end_s and cue.end_s > start_s
    ]
    before = [cue for cue in cues if cue.end_s <= start_s]
    if kept and before and kept[0].end_s - kept[0].start_s > REPEAT_S:
        # Without the cue before, what this one repeats of it would count as spoken again.
        repeated = set(before[-1].plain)
        lines = (
            line
            for line, plain in zip(kept[0].lines, kept[0].plain, strict=True)
            if plain not in repeated
        )
        kept[0] = replace(kept[0], lines=tuple(lines))
    return [cue for cue in kept if any(cue.plain)]


def _words_in(cue: _Cue, start_s: float, end_s: float) -> tuple[str, ...]:
    """The lines with the words that start in the span; those before the first time of a line
    start with the cue."""
    if cue.end_s - cue.start_s <= REPEAT_S or (cue.start_s >= start_s and cue.end_s <= end_s):
        return cue.lines
    lines = []
    for line in cue.lines:
        pieces = [(cue.start_s, 0)]
        pieces += [
            (seconds_of(*found.groups()), found.start()) for found in WORD_TIME.finditer(line)
        ]
        pieces.append((math.inf, len(line)))
        lines.append(
            "".join(
                line[at:following]
                for (time_s, at), (_, following) in pairwise(pieces)
                if start_s <= time_s < end_s
            )
        )
    # An empty line would end the cue.
    return tuple(line for line in lines if line)


def _cues(vtt: str) -> Iterator[_Cue]:
    for _, line, lines in written_cues(vtt):
        if timing := TIMING.match(line):
            times = timing.groups()
            yield _Cue(seconds_of(*times[:4]), seconds_of(*times[4:8]), times[8] or "", lines)


def _written(cue: _Cue, start_s: float, end_s: float) -> str:
    def moved(time_s: float) -> str:
        return _clock(min(max(time_s, start_s), end_s) - start_s)

    lines = (
        WORD_TIME.sub(lambda found: f"<{moved(seconds_of(*found.groups()))}>", line)
        for line in cue.lines
    )
    body = "".join(f"{line}\n" for line in lines)
    return f"{moved(cue.start_s)} --> {moved(cue.end_s)}{cue.place}\n{body}\n"


def _clock(time_s: float) -> str:
    thousandths = round(time_s * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
