"""What the languages in Latin script share: odd characters before the rules, punctuation after.

A language is a tuple of rules; `normaliser` makes its `normalize` of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps

Rule = Callable[[str], str]

LETTER = r"[^\W\d_ªº²³¹]"
"""Any letter, in a regular expression."""

_KEYCAP = re.compile("[0-9#*]\ufe0f?\u20e3")
_ODD = re.compile(r"[^\x20-\x7e\u00c0-\u024f]|[İıſ]")
_QUOTES = re.compile(r"[\"`]|'{2,}")
_APOSTROPHE = re.compile(rf"(?<!{LETTER})'|'(?!{LETTER})")
_HYPHEN_OUTSIDE_WORD = re.compile(rf"(?<!{LETTER})-|-(?!{LETTER})")
_EMOTICON = re.compile(r"(?<!\S)(?:[:;=][-']?[()DPp|*3]+|<3+|[xX]D)(?=[\s.,!?]|$)")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_DASH_IN_WORD = re.compile(r"(?<=\S)—(?=\S)")
_EXPONENT = re.compile(f"(?<=[0-9])(?=[{_SUPERSCRIPTS}]{{2}}|[⁰⁴-⁹⁻])⁻?[{_SUPERSCRIPTS}]+")
_TAG = re.compile(
    r"""(?i)</?[a-z][a-z0-9]*(?:\s[a-z-]+=(?:"[^"<>]*"|'[^'<>]*'|[^\s<>"']+))*\s?/?>"""
)
_POWER_DIGITS = str.maketrans(f"{_SUPERSCRIPTS}⁻", "0123456789-")
_SPOKEN_ODD = {
    **dict.fromkeys("\u2018\u2019\u02bc\u2032\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a", '"'),
    **dict.fromkeys("\u2013\u2012", "–"),
    **dict.fromkeys("\u2014\u2015", "—"),
    **dict.fromkeys("\u2010\u2011\u2212", "-"),
    **dict.fromkeys("ªº°²³¹±×÷µ§¿¡€£¥¢‰≈≠≤≥√∞″", None),
    "¼": " 1/4",
    "½": " 1/2",
    "¾": " 3/4",
    **dict.fromkeys("⁰⁴⁵⁶⁷⁸⁹", ""),
    "\u2044": "/",
    "\u00ad": "",
    # Regular expressions that ignore case take these for s and i, which the rules' tables lack.
    "ſ": "s",
    "İ": "I",
    "ı": "i",
    "™": " ",
    "℠": " ",
}


def words_of(text: str) -> list[str]:
    """The words of a list that is written as one string."""
    return text.split()


def prepare(text: str) -> str:
    """Unicode NFC with one form of each mark: quotation marks, emoji and emoticons gone, `–` for
    every dash but an em dash that stands free, ASCII for every decimal digit, `^` before a power
    other than ² and ³, marks of notes and tags of HTML gone, and compatibility characters (`℃`,
    `㎞`) spelt out.
    """
    text = _EMOTICON.sub(" ", unicodedata.normalize("NFC", _KEYCAP.sub(" ", text)))
    text = _EXPONENT.sub(lambda power: "^" + power[0].translate(_POWER_DIGITS), text)
    text = _DASH_IN_WORD.sub("–", _ODD.sub(lambda odd: _plain(odd[0]), text))
    text = _TAG.sub(" ", text)
    text = _APOSTROPHE.sub(" ", _QUOTES.sub(" ", text))
    return re.sub(r"\s+", " ", text).strip()


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if character in _SPOKEN_ODD:
        plain = _SPOKEN_ODD[character]
        return character if plain is None else plain
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    spelt = unicodedata.normalize("NFKC", character)
    if spelt != character and not spelt.startswith(" "):
        return "".join(c if c.isascii() else _plain(c) for c in spelt)
    if category in {"Ll", "Lu", "Lo", "Lt"}:
        return character
    return "" if category in {"Mn", "Me", "Mc", "Cf"} else " "


_BRACKETS_AT_END = re.compile(r"^[\s(\[{})\]–-]+|[\s(\[{})\]–]+$")
_PAUSE = re.compile(r"\s*(?:[()\[\]{}–]|--+|(?<=\s)-(?=\s))[\s()\[\]{}–]*")
_BRACKET_BEFORE_MARK = re.compile(r"[)\]}]\s*(?=[.,?!;:])")
_UNSPOKEN = re.compile(r"[^\w\s.,?!;:'-]|[\d_ªº²³¹µ]")
_MARKS = re.compile(r"\s*[.,?!;:](?:\s*[.,?!;:])*")
_LEADING = re.compile(r"^[\s.,?!;:-]+")


def finish(text: str) -> str:
    """Dashes and brackets as commas, one mark at a time, nothing unspoken, lowercase."""
    text = _BRACKETS_AT_END.sub("", text.replace("—", "–"))
    text = _PAUSE.sub(", ", _BRACKET_BEFORE_MARK.sub("", text))
    text = _UNSPOKEN.sub(" ", text)
    text = _HYPHEN_OUTSIDE_WORD.sub(" ", _APOSTROPHE.sub(" ", text))
    text = _LEADING.sub("", _MARKS.sub(lambda run: _strongest(run[0]) + " ", text))
    text = unicodedata.normalize("NFC", text.lower())
    text = re.sub("[\u0300-\u036f]", "", text)
    return re.sub(r"\s+", " ", text).strip()


def _strongest(run: str) -> str:
    """One mark for a run such as `?!` or `.,`; three dots stay three."""
    for mark in "?!":
        if mark in run:
            return mark
    if re.search(r"\.\s*\.", run):
        return "..."
    return next(mark for mark in ".;:," if mark in run)


def when(pattern: str) -> Callable[[Rule], Rule]:
    """A decorator: a text in which `pattern` does not occur passes the rule as it is."""
    occurs = re.compile(pattern).search

    def only(rule: Rule) -> Rule:
        @wraps(rule)
        def apply(text: str) -> str:
            return rule(text) if occurs(text) else text

        return apply

    return only


def normaliser(rules: Sequence[Rule]) -> Rule:
    """A language's `normalize`: `prepare`, its own rules in order, `finish`, until nothing
    changes any more.

    One rule can make room for another (a removed symbol may bring `av` and its full stop
    together), so a second pass is what makes normalisation idempotent. It is cheap: the first
    pass leaves nothing but words.
    """

    def normalize(text: str) -> str:
        while (spoken := _once(text)) != text:
            text = spoken
        return text

    def _once(text: str) -> str:
        text = prepare(text)
        for rule in rules:
            text = rule(text)
        return finish(text)

    return normalize


def followed_by_new_sentence(match: re.Match[str]) -> bool:
    """Whether a capital letter or the end of the text stands after a match."""
    rest = match.string[match.end() :].lstrip(" )\"'")
    return not rest or rest[0].isupper()
