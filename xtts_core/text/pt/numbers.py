"""Ordinals, and what digits no other rule has taken."""

from __future__ import annotations

import re

from xtts_core.text.common import when
from xtts_core.text.numbers import INTEGER, NUMBER, spoken_value
from xtts_core.text.pt.grammar import (
    PLURAL_NOUN_AFTER,
    SCALES,
    counts_feminine,
    number,
    ordinal,
)
from xtts_core.text.pt.identifiers import parted
from xtts_core.text.pt.units import UNIT

_POINT_AFTER = r"(?:\.(?=\s[a-zà-ÿ]))?"
_ORDINAL = re.compile(rf"(?<![\w,.])({INTEGER})\.?\s?([ºª])(s?)(?!\w){_POINT_AFTER}")
_TYPED_ORDINAL = re.compile(rf"(?<![\w,.])({INTEGER})([oa])(s?)(?!\w){_POINT_AFTER}")


@when(r"\d")
def ordinals(text: str) -> str:
    """2ª, 1º, 3os, in the gender that the mark shows."""

    def speak(match: re.Match[str]) -> str:
        value = spoken_value(match[1].replace(".", ""))
        if not 0 < value < 10_000:
            return match[0]
        return ordinal(value, match[2] in "ªa", plural=bool(match[3]))

    return _TYPED_ORDINAL.sub(speak, _ORDINAL.sub(speak, text))


_DECIMAL_POINT = re.compile(
    rf"(?<=[$€£¥])(\s?-?\d+)\.(\d\d?)(?![.,]?\d)|(?<![\w.,])(\d+)\.(\d\d?)"
    rf"(?=\s?(?:%|(?:k|{UNIT})(?!\w))|\s(?:reais|dólares|euros|{SCALES})\b)"
)


_SPACED_THOUSANDS = re.compile(
    r"(?i)(?<![\w.,/+(:-])(?<![\d)]\s)(?<!dia )(?<!tel )(?<!telefone )(?<!fone )(?<!celular )"
    r"(?<!whatsapp )(?<!ligue )(?<!número )(?<!código )"
    r"[1-9]\d{0,2}(?:\s\d{3})+(?![\w/.-]|\s\d)"
)


@when(r"\d[. ]\d")
def decimals(text: str) -> str:
    """A point before one or two digits marks decimals in money, measures, percentages and before
    mil and milhões; a space before groups of three digits parts thousands, but not in a telephone
    number."""
    text = _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", "."), text)
    return _DECIMAL_POINT.sub(
        lambda m: f"{m[1]},{m[2]}" if m[1] is not None else f"{m[3]},{m[4]}", text
    )


_PLAIN = re.compile(NUMBER)
_PLURAL_NOUN_AFTER = re.compile(PLURAL_NOUN_AFTER)


@when(r"\d")
def numbers(text: str) -> str:
    """Cardinals and decimals, in the gender of their noun; `de` after whole millions, and no
    `um` before mil."""

    def plain(match: re.Match[str]) -> str:
        if match[0] == "1" and match.string.startswith(" mil ", match.end()):
            return ""
        words = number(match[0], counts_feminine(match, plural=match[0] not in {"1", "01"}))
        of_millions = words.endswith(("lhão", "lhões")) and _PLURAL_NOUN_AFTER.match(
            match.string, match.end()
        )
        return f"{words} de" if of_millions else words

    return _PLAIN.sub(plain, parted(text))
