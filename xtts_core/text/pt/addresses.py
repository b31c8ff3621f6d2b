"""E-mail addresses, URLs and @names."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, when
from xtts_core.text.pt.grammar import integer, spelled

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(
    r"(?:https?://|www\.)[^\s,;!()]+"
    r"|\b(?:[\w-]+\.)+(?:com|org|net|gov|edu|info|app|dev|tv|io|br|pt)(?:\.br|\.pt)?"
    r"\b(?!\.\w)(?:/[^\s,;!()]*)?",
    re.IGNORECASE,
)
_HANDLE = re.compile(rf"(?<![\w.])@(?={LETTER})[\w.]*\w")
_PART = re.compile(rf"{LETTER}+|\d+|[^\w]|_")
_SIGNS = {
    ".": "ponto",
    "@": "arroba",
    "/": "barra",
    "-": "hífen",
    "_": "underline",
    "+": "mais",
    "?": "interrogação",
    "=": "igual",
    "&": "e comercial",
    "#": "cerquilha",
    ":": "dois pontos",
    "%": "por cento",
    "~": "til",
}
_READ = {"www": "dáblio dáblio dáblio", "tv": "tê vê"}
_CONSONANTS = re.compile(r"(?i)[b-df-hj-np-tv-z]{1,5}")


@when(r"\w\.\w|@|://")
def addresses(text: str) -> str:
    """E-mail addresses, URLs and @names sign by sign; the protocol is not read, and what has no
    vowel is spelt."""

    def word(part: str) -> str:
        if part.isdecimal():
            return integer(part)
        if known := _SIGNS.get(part) or _READ.get(part.lower()):
            return known
        return spelled(part) if _CONSONANTS.fullmatch(part) else part

    def spell(match: re.Match[str]) -> str:
        address, stop = re.fullmatch(r"(.*?)([./?]*)", match[0]).groups()  # type: ignore[union-attr]
        parts = _PART.findall(re.sub(r"(?i)^https?://", "", address))
        return " ".join(map(word, parts)) + stop.replace("/", "")

    return _HANDLE.sub(spell, _URL.sub(spell, _EMAIL.sub(spell, text)))
