"""Subtitles: WebVTT and SRT cues, YouTube's rolling captions, and which cues a clip speaks.

YouTube's automatic captions show two lines: the line before, and below it the new one, whose
words carry their times (`um<00:00:07.042><c> episódio</c>`). Between two such cues stands one of
10 ms that only repeats. yt-dlp keeps all of them (yt-dlp/yt-dlp#1734), so each phrase is there
two or three times.
"""

from __future__ import annotations

import codecs
import html
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from xtts_core.errors import TranscriptionError

REPEAT_S = 0.02
"""A cue of at most this length repeats the one before (YouTube's last 10 ms)."""
TOLERANCE_S = 0.35
"""How far a cue may reach over a clip's edge, or into a clip it does not belong to: the longer
margin of a clip (0.25 s) and the 0.1 s by which captions usually start early."""
MAX_UNCOVERED_S = 1.5
"""The longest stretch of a clip that no cue covers. A longer one may be speech that nobody
wrote down; pauses inside the samples' sentences reach 1.4 s."""

VERBATIM = "WEBVTT verbatim"
"""The header of subtitles in which brackets and names before colons are said like the rest."""

TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})(?:[.,](\d{1,3}))?"
TIMING = re.compile(rf"^\s*{TIME}\s*--?>\s*{TIME}(\s.*)?$")
_BREAK = re.compile(r"(?i)<br\s*/?>|\\[nh]|\{\\[^}]*\}")
"""Line breaks in HTML and in Advanced SubStation Alpha, and what the latter overrides."""
_ARROW = re.compile(r"-->|\d\s*[-–—=]>\s*\d")
WORD_TIME = re.compile(rf"<{TIME}>")
TAG = re.compile(r"</?[^<>]*>")
_SOUND = (
    r"música|music|risos?|risadas?|rindo|aplausos?|palmas|applause|laughter|silêncio|vinheta|gritos?|"
    r"suspira|suspiros?|chorando|choro|tosse|inaudível|inaudible"
)
_ANNOTATION = re.compile(
    rf"\[[^\]]*\]:?|[♪♫♬♩]+|\((?:{_SOUND})[^)]*\)|\*(?:{_SOUND})[^*]*\*", re.IGNORECASE
)
_ASIDE = re.compile(r"^[-–—\s]*\([^()]*\)\s*$", re.MULTILINE)
"""`(porta batendo)`, which is all there is in its lines."""
_SUNG = re.compile(r"^\s*#+\s+(.*?)\s+#+\s*$", re.MULTILINE)
_ROLE = (
    r"(?i:REPÓRTER|NARRADORA?|APRESENTADORA?|ENTREVISTADORA?|ENTREVISTAD[OA]|LOCUTORA?|JORNALISTA|"
    r"HOMEM|MULHER|MENIN[OA]|CRIANÇA|VOZ|TODOS)"
)
_SPEAKER = re.compile(
    r"^\s*(?:>>+\s*|[-–—]\s+)?"
    rf"(?:(?:{_ROLE})(?: \d+)?(?: \([^()]*\))?\s*:\s+|[A-ZÀ-Ý][A-ZÀ-Ý .]+\d*:\s+(?=.*[a-zà-ÿ]))?",
    re.MULTILINE,
)
"""Before a text in capitals like its own, what stands before a colon is spoken, unless it is a
role: `ELE DISSE: NÃO VOU`."""
_NAME = r"[A-ZÀ-Ý][\w.'’-]*(?: (?:d[aeo]s? |e )?[A-ZÀ-Ý][\w.'’-]*){0,2}"
_ANNOUNCED = re.compile(rf"^\s*>>+\s*{_NAME}(?: \([^()]*\))?\s*:\s+", re.MULTILINE)
_TITLED = rf"(?:(?:Dra?|Sra?|Profa?)\. )?{_NAME}(?: \d+)?"
_NAMED = re.compile(rf"(?:\A|^\s*[-–—])\s*({_TITLED})(?: \([^()]*\))?\s*:\s+", re.MULTILINE)
"""What may be a speaker's name, at the start of a cue or after the dash of a line."""


@dataclass(frozen=True)
class Cue:
    """What is said between two times, in seconds from the start of the video."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Word:
    """One spoken word and its times, in seconds from the start of the video."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class _Block:
    start_s: float
    end_s: float
    lines: tuple[str, ...]


def read_cues(path: Path) -> list[Cue]:
    """The cues of a WebVTT or SRT file in time order, without tags, speaker labels, sounds
    (`[Música]`) and ♪; a cue with nothing left is dropped, and so is one of `broken_cues`. A file
    that begins with `VERBATIM` has nothing taken out.

    Raises:
        TranscriptionError: the file is no text, or has no cue that can be read, or no word.
    """
    blocks = _blocks(path)[0]
    if read_text(path).startswith(VERBATIM):
        return [
            Cue(block.start_s, block.end_s, html.unescape(" ".join(" ".join(block.lines).split())))
            for block in blocks
        ]
    shown = [_audible("\n".join(block.lines)) for block in blocks]
    # Once, `Atenção: ...` is speech as likely as a label.
    begun = Counter(name for text in shown for name in set(_NAMED.findall(text)))
    names = {name for name, cues in begun.items() if cues > 1}
    cues = [
        Cue(block.start_s, block.end_s, said)
        for block, text in zip(blocks, shown, strict=True)
        if (said := _without_speakers(text, names))
    ]
    if not cues:
        raise _unusable("The subtitle file has no cue with words", path)
    return sorted(cues, key=lambda cue: (cue.start_s, cue.end_s))


def words(path: Path) -> list[Word]:
    """The words of rolling captions, each once, in order, with their times.

    Words of a line without times of its own share the line's cue by their letters.

    Raises:
        TranscriptionError: as in `read_cues`.
    """
    found: list[Word] = []
    shown: list[str] = []
    for block in _blocks(path)[0]:
        lines = [line for line in block.lines if TAG.sub("", line).strip()]
        plain = [_clean(line) for line in lines]
        if block.end_s - block.start_s > REPEAT_S:
            for line in lines[_repeated(shown, plain) :]:
                found += _timed(line, block)
        shown = plain
    return found


def between(spoken: Sequence[Word], start_s: float, end_s: float) -> Sequence[Word]:
    """The words, given in order, whose middle lies between two times."""
    first, last = (bisect_left(spoken, time_s, key=_middle_s) for time_s in (start_s, end_s))
    return spoken[first:last]


def words_between(spoken: Sequence[Word], start_s: float, end_s: float) -> str:
    """The text of the words, given in order, whose middle lies between two times."""
    return " ".join(word.text for word in between(spoken, start_s, end_s))


def cues_of_clip(cues: Sequence[Cue], start_s: float, end_s: float) -> str | None:
    """The text of the cues that a clip speaks, or None where it cannot be told from times alone.

    None: no cue lies inside; a cue is cut by an edge of the clip, so that some of its words are
    spoken outside; or more than `MAX_UNCOVERED_S` of the clip has no cue. Cues may reach
    `TOLERANCE_S` over an edge, and a neighbour's cue as much into the clip.
    """
    inside: list[Cue] = []
    for cue in cues:
        overlap = min(cue.end_s, end_s) - max(cue.start_s, start_s)
        if overlap <= 0:
            continue
        if cue.start_s >= start_s - TOLERANCE_S and cue.end_s <= end_s + TOLERANCE_S:
            if overlap > min(TOLERANCE_S, (cue.end_s - cue.start_s) / 2):
                inside.append(cue)
        elif overlap > TOLERANCE_S:
            return None
    if not inside:
        return None
    edges = [start_s, *(time for cue in inside for time in (cue.start_s, cue.end_s)), end_s]
    gaps = (after - before for before, after in zip(edges[::2], edges[1::2], strict=True))
    if max(gaps) > MAX_UNCOVERED_S:
        return None
    return " ".join(cue.text for cue in inside)


def _middle_s(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def read_text(path: Path) -> str:
    """The text of a subtitle file: UTF-8, UTF-16 with its mark, or else Windows-1252, in which
    most old Brazilian SRT files are written. U+FFFD stands for what is damaged in UTF-8.

    Raises:
        TranscriptionError: it is none of these.
    """
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    mostly_utf8 = content.decode("utf-8-sig", errors="replace")
    damaged = mostly_utf8.count("\ufffd")
    # An accent in Windows-1252 is hardly ever valid UTF-8 by chance.
    if not wide and 3 * damaged <= sum(char > "\x7f" for char in mostly_utf8):
        text = _encoded_once(mostly_utf8)
    else:
        try:
            text = content.decode("utf-16" if wide else "cp1252")
        except UnicodeDecodeError as wrong:
            raise TranscriptionError(
                f"The subtitle file is no text: {wrong}", where=str(path), remedy="Save it as UTF-8"
            ) from wrong
    # Windows line ends that were converted twice would put an empty line after each.
    return text.replace("\r\r\n", "\n")


def _encoded_once(text: str) -> str:
    """The text as it was before somebody took its UTF-8 for Windows-1252 (`nÃ£o`), if most of its
    accents say so."""
    accents = re.findall(r"[^\x00-\x7f]+", text)
    repaired = {accent: _reread(accent) for accent in set(accents)}
    if 2 * sum(repaired[accent] is not None for accent in accents) <= len(accents):
        return text
    return re.sub(r"[^\x00-\x7f]+", lambda found: repaired[found[0]] or "\ufffd", text)


def _reread(accent: str) -> str | None:
    try:
        # The five bytes that Windows-1252 leaves open were kept as control characters.
        return b"".join(
            char.encode("latin-1" if char in "\x81\x8d\x8f\x90\x9d" else "cp1252")
            for char in accent
        ).decode("utf-8")
    except UnicodeError:
        return None


def broken_cues(path: Path) -> list[str]:
    """The cues that are left out because their times cannot be read, each with its line.

    Raises:
        TranscriptionError: as in `read_cues`.
    """
    return _blocks(path)[1]


def written_cues(text: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Each cue of a WebVTT or SRT text as it is written: the number of the line with its times,
    that line, and the lines below, without the number of the next cue."""
    lines = text.splitlines()
    # In rolling WebVTT captions a line of one space is part of the cue.
    ends_cue = re.compile(r"" if text.startswith("WEBVTT") else r"\s*")
    number = 0
    while number < len(lines):
        if not _ARROW.search(lines[number]) or lines[number].startswith("NOTE"):
            number += 1
            continue
        body = number + 1
        while body < len(lines) and not (
            ends_cue.fullmatch(lines[body]) or _ARROW.search(lines[body])
        ):
            body += 1
        end = body
        next_follows = body < len(lines) and _ARROW.search(lines[body])
        if next_follows and body - 1 > number and lines[body - 1].strip().isdigit():
            end = body - 1
        yield number + 1, lines[number], tuple(lines[number + 1 : end])
        number = body


def _blocks(path: Path) -> tuple[list[_Block], list[str]]:
    """The cues that can be read, and the others."""
    blocks: list[_Block] = []
    broken: list[str] = []
    for number, timing, lines in written_cues(read_text(path)):
        try:
            start_s, end_s = _times(timing)
            if damaged := next((line for line in lines if "\ufffd" in line), None):
                raise ValueError(f"a letter is damaged: {damaged.strip()!r}")
        except ValueError as error:
            broken.append(f"line {number}: {error}")
        else:
            blocks.append(_Block(start_s, end_s, lines))
    if not blocks:
        raise _unusable(
            f"The subtitle file has no cue that can be read: {broken[0]}"
            if broken
            else "The subtitle file has no cue",
            path,
        )
    return blocks, broken


def _unusable(what: str, path: Path) -> TranscriptionError:
    return TranscriptionError(
        what,
        where=str(path),
        remedy="Give a WebVTT or SRT file, or set this video's `subtitles` to none",
    )


def _times(line: str) -> tuple[float, float]:
    match = TIMING.match(line)
    if match is None:
        raise ValueError(f"no readable times: {line.strip()!r}")
    start_s, end_s = seconds_of(*match.groups()[:4]), seconds_of(*match.groups()[4:8])
    if end_s < start_s:
        raise ValueError(f"it ends before it starts: {line.strip()!r}")
    return start_s, end_s


def seconds_of(hours: str | None, minutes: str, seconds: str, decimals: str | None) -> float:
    """The groups of `TIME` as seconds."""
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return round(whole + float(f"0.{decimals or 0}"), 3)


def _plain(text: str) -> str:
    text = html.unescape(TAG.sub("", _BREAK.sub(" ", text)))
    return _ANNOTATION.sub(" ", text.replace("\u200b", "").replace("\ufeff", ""))


def _audible(text: str) -> str:
    """The lines of a cue without tags and sounds; a speaker's label still begins its line."""
    return _SUNG.sub(r"\1", _ASIDE.sub(" ", _plain(text)))


def _without_speakers(text: str, names: Set[str]) -> str:
    """The words of a cue; `names` are the speakers whom only their repetition tells."""
    text = _ANNOUNCED.sub("", text)
    text = _NAMED.sub(lambda found: " " if found[1] in names else found[0], text)
    return " ".join(_SPEAKER.sub("", text).split())


def _clean(line: str) -> str:
    return " ".join(_SPEAKER.sub("", _plain(line)).split())


def _repeated(shown: Sequence[str], plain: Sequence[str]) -> int:
    """How many lines at the top of a cue were already at the bottom of the one before."""
    return next(
        (n for n in range(min(len(shown), len(plain)), 0, -1) if shown[-n:] == plain[:n]), 0
    )


def _timed(line: str, block: _Block) -> list[Word]:
    """The words of one line; a time tag stands before the word that it starts.

    A tag that goes back in time or leaves the cue is moved to the nearest time that does not.
    """
    pieces = WORD_TIME.split(line)
    starts = [block.start_s]
    for i in range(1, len(pieces), 5):
        starts.append(min(max(seconds_of(*pieces[i : i + 4]), starts[-1]), block.end_s))
    ends = [*starts[1:], block.end_s]
    found: list[Word] = []
    for text, start_s, end_s in zip(pieces[::5], starts, ends, strict=True):
        found += _spread(_clean(text).split(), start_s, end_s)
    return found


def _spread(texts: Sequence[str], start_s: float, end_s: float) -> list[Word]:
    letters = sum(map(len, texts))
    spoken, found = 0, []
    for text in texts:
        begin = start_s + (end_s - start_s) * spoken / letters
        spoken += len(text)
        end = start_s + (end_s - start_s) * spoken / letters
        found.append(Word(round(begin, 3), round(end, 3), text))
    return found
