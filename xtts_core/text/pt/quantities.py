"""Ranges, scores, sums, percentages and fractions: how numbers stand to each other."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, when
from xtts_core.text.numbers import NUMBER, spoken_value
from xtts_core.text.pt.grammar import (
    cardinal,
    feminine_noun,
    integer,
    number,
    ordinal,
    spelled,
    value_of,
)
from xtts_core.text.pt.units import UNIT, is_feminine_unit, unit_name

_DASH = r"(?:-|\s?–\s?)"
_BETWEEN = re.compile(rf"(?i)\b(entre {NUMBER}[h%]?)(?:-|\s?–\s?|\s-\s)(?=\d)")
_FROM_HOUR = re.compile(
    rf"(?i)\b(das \d{{1,2}}(?:h(?:[0-5]\d)?|:[0-5]\d)?){_DASH}(?=\d{{1,2}}(?:h|:[0-5]\d))"
)
_SPACED = re.compile(
    rf"(?<![\d,.:-])({NUMBER})(h(?:[0-5]\d)?|:[0-5]\d|%)?(?:\s[-–]\s?|–\s)"
    rf"(?=({NUMBER})(h|:[0-5]\d)?)"
)
_ORDINAL_RANGE = re.compile(r"(?<=\d[ºªoa])[-–](?=\d+[ºªoa](?!\w))")
_RANGE = re.compile(r"(?<=[\dh%])[-–](?=\d)(?!\d+-\d)")


@when(r"\d")
def ranges(text: str) -> str:
    """10-20, 14h–16h and 1ª-4ª are said with `a`; with `e` after entre, with `às` after das."""

    def spaced(match: re.Match[str]) -> str:
        rising = value_of(match[1]) < value_of(match[3])
        by_the_clock = match[2] not in (None, "%") and match[4]
        return f"{match[1]}{match[2] or ''} a " if rising or by_the_clock else match[0]

    text = _ORDINAL_RANGE.sub(" a ", text)
    text = _FROM_HOUR.sub(r"\1 às ", _BETWEEN.sub(r"\1 e ", text))
    return _RANGE.sub(" a ", _SPACED.sub(spaced, text))


_SCORE = re.compile(r"(?<![\w,.])(\d{1,3})\s?[x×]\s?(\d{1,3})(?![\w²³]|[,.]\d)")
_SCORE_WORDS = re.compile(
    r"(?i)\b(?:venc|ganh|perd|empat|gole|derrot|placar|vit[óo]ria|vantagem|resultado|abriu|virou)"
)
_TEAM_BEFORE = re.compile(r"(?:^|\s)[A-ZÀ-Ý][\w-]+\s$")
_TEAM_AFTER = re.compile(r"\s[A-ZÀ-Ý]\w")
_TIMES = re.compile(r"(?<=\d)\s?[x×]\s?(?=\d)")
_SIDES = re.compile(rf"(\d\s?(?:{UNIT}))\s?[x×]\s?(?=\d)")
_TIMES_AFTER = re.compile(r"(?<!\d)(\d+)\s?[x×](?:/(dia|semana|mês|ano|hora))?(?!\w)")
_MATCH = re.compile(r"(?<=\w) [x×] (?=[A-ZÀ-Ý])")


@when(r"\d\s?[x×]|\w\s?[x×](?:\s|\d)")
def scores(text: str) -> str:
    """Brasil x Chile; 2x1 between two names or after a word of winning and losing is
    `dois a um`, which counts nothing and is masculine; else 3x4 is `três por quatro`, and 3x
    alone `três vezes`."""

    def score(match: re.Match[str]) -> str:
        before, after = match.string[: match.start()], match.string[match.end() :]
        teams = _TEAM_BEFORE.search(before) and _TEAM_AFTER.match(after)
        played = teams or _SCORE_WORDS.search(before[-60:])
        if played:
            return f"{integer(match[1])} a {integer(match[2])}"
        return f"{match[1]} por {match[2]}"

    def times(match: re.Match[str]) -> str:
        name = "vez" if match[1] == "1" else "vezes"
        return f"{match[1]} {name}" + (f" por {match[2]}" if match[2] else "")

    def opponents(match: re.Match[str]) -> str:
        home = _TEAM_BEFORE.search(f"{match.string[: match.start()]} ")
        return " versus " if home else match[0]

    text = _SIDES.sub(r"\1 por ", text)
    text = _TIMES.sub(" por ", _SCORE.sub(score, text))
    return _MATCH.sub(opponents, _TIMES_AFTER.sub(times, text))


_OPERATION = re.compile(rf"(?<=\d)\s?([-–x×*/])\s?(?={NUMBER}(?:\s?[-+–x×*/÷]\s?{NUMBER})*\s?=)")
_OPERATORS = {"-": "menos", "–": "menos", "/": "dividido por"}
_PRODUCT = re.compile(r"(?<=\d)\s?\*\s?(?=\d)")
_POWER = re.compile(r"(?<![\d.])(\d+)\s?(?:\^(-?\d+)|([²³]))")
_POWER_OF_LETTER = re.compile(
    r"(?<![^\W\d_]|/)(?!(?:[kdcm]?m)[²³])([A-Za-z]|[b-df-hj-np-tv-z]{2})(?:\^(-?\d+)|([²³]))(?!\w)"
)
_NEGATIVE = re.compile(r"(?<!\d\s)(?<!\S)–(?=\d)")
_SIGNED = re.compile(r"(?<![\w)])([-+])\s?(?=\d)")


@when(r"[-–+=~√^²³*]")
def mathematics(text: str) -> str:
    """5 - 3 = 2, 10^6, 5², √9, ~50, and x², mc²; a raised 2 or 3 after a number of four digits or a
    word is the mark of a note."""

    def power(match: re.Match[str]) -> str:
        base, exponent, mark = match.groups()
        if base.isalpha():
            base = f" {spelled(base)}"
        elif mark and len(base) > 3:
            return base
        if exponent:
            return f"{base} elevado a {exponent.replace('-', 'menos ')}"
        return f"{base} {'ao quadrado' if mark == '²' else 'ao cubo'}"

    text = _NEGATIVE.sub("-", text)
    text = _OPERATION.sub(lambda m: f" {_OPERATORS.get(m[1], 'vezes')} ", text)
    text = _POWER_OF_LETTER.sub(power, _POWER.sub(power, _PRODUCT.sub(" vezes ", text)))
    return re.sub(r"~\s?(?=\d)", "cerca de ", text.replace("√", " raiz quadrada de "))


@when(r"\d")
def signs(text: str) -> str:
    """-5, + 3."""
    return _SIGNED.sub(lambda m: "menos " if m[1] == "-" else "mais ", text)


_PERCENT = re.compile(rf"((?:(?<![\w)])-)?{NUMBER})\s?([%‰])")


@when(r"[%‰]")
def percentages(text: str) -> str:
    """70%, 2,5%, 5‰."""
    return _PERCENT.sub(lambda m: f"{number(m[1])} por {'cento' if m[2] == '%' else 'mil'} ", text)


_NO_NOUN = "d[aeo]s?|n[ao]s?|e|a|ao|à|ou|em|por|para|pra|com|que|mais|antes|depois|atrás"
_FRACTION = re.compile(
    r"(?<![\w/,.])(?<!apartamento )(?<!apartamentos )(?<!sala )(?<!salas )(?<!número )"
    r"(?<!lote )(?<!quadra )(?<!bloco )(?:(\d+)\s(e\s)?)?(\d{1,3})/(\d{1,4})(?![\w/]|,\d)"
    rf"(?:\s(?:({UNIT})(?![\w/²³])|(?!(?:{_NO_NOUN})\b)({LETTER}+)))?"
)
_NOUN_BEFORE = re.compile(rf"({LETTER}+)\se\s$")
_PARTS = {2: "meio", 3: "terço", 100: "centésimo", 1000: "milésimo"}
_SLASH = re.compile(r"(?<=\d)\s?/\s?(?=\d)")


@when(r"\d\s?/\s?\d")
def fractions(text: str) -> str:
    """1/2, 3/4, and 2 1/2 with its noun between (duas colheres e meia), but after both
    where 2 e 1/2 is written; other slashes between numbers are read `barra`."""

    def part(top: int, bottom: int, feminine: bool) -> str:
        if bottom == 2:
            return "meia" if feminine else "meio"
        name = _PARTS.get(bottom) or (
            ordinal(bottom) if bottom <= 10 else f"{cardinal(bottom)} avo"
        )
        many = top > 1 or (bottom > 10 and bottom not in _PARTS)
        return f"{cardinal(top)} {name}{'s' if many else ''}"

    def speak(match: re.Match[str]) -> str:
        whole, joined, upper, lower, unit, noun = match.groups()
        top, bottom = int(upper), int(lower)
        if not 0 < top < bottom:
            return match[0]
        plural = whole is not None and spoken_value(whole) > 1
        before = _NOUN_BEFORE.search(match.string[max(0, match.start() - 30) : match.start()])
        counted = noun or (before[1] if before else None)
        many = plural or (counted or "").endswith("s")
        feminine = is_feminine_unit(unit) if unit else feminine_noun(counted, many)
        name = unit_name(unit, plural) if unit else noun or ""
        words = part(top, bottom, feminine)
        if whole is None:
            return f"{words} {name}".rstrip()
        order = ("e", words, name) if joined and bottom == 2 else (name, "e", words)
        return " ".join(filter(None, (integer(whole, feminine), *order)))

    return _SLASH.sub(" barra ", _FRACTION.sub(speak, text))
