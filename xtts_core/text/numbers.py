"""How numbers are written where the comma marks the decimals (Portuguese, Spanish)."""

from __future__ import annotations

import re
from functools import lru_cache

INTEGER = r"(?:\d{1,3}(?:\.\d{3})+(?!\d)|\d+)"
NUMBER = rf"(?:{INTEGER}(?:,\d+)?)"
MAX_SPOKEN = 10**15
"""Numbers from here on are read digit by digit."""


def spoken_value(row: str) -> int:
    """The value of a row of digits, and `MAX_SPOKEN` for any that is larger: int() refuses more
    than 4 300 digits."""
    row = row.lstrip("0")
    return int(row or "0") if len(row) < len(str(MAX_SPOKEN)) else MAX_SPOKEN


@lru_cache(maxsize=65_536)
def cardinal(value: int, language: str) -> str:
    """num2words' cardinal without the commas it sets inside Brazilian numbers."""
    from num2words import num2words

    words: str = num2words(value, lang=language)
    return words.replace(",", "").replace("-", " ") if language != "en" else english(words)


def english(words: str) -> str:
    """num2words' English without commas and hyphens: `one thousand two hundred and five`."""
    return words.replace(",", "").replace("-", " ")


@lru_cache(maxsize=4096)
def ordinal(value: int, language: str) -> str:
    """num2words' ordinal, masculine where the language tells."""
    from num2words import num2words

    words: str = num2words(value, lang=language, to="ordinal")
    return words.replace(",", "").replace("-", " ")


def digits(text: str, language: str) -> str:
    """Every digit of `text` by itself; other characters separate groups with a comma."""
    groups = re.findall(r"\d+", text)
    return ", ".join(" ".join(cardinal(int(d), language) for d in group) for group in groups)
