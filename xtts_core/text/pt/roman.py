"""Roman numerals."""

from __future__ import annotations

import re

from xtts_core.text.common import when
from xtts_core.text.pt.grammar import cardinal, feminine_noun, ordinal

_ROMAN = r"(?=[IVX]|[LC][IVXLC])C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_ROMANS = rf"{_ROMAN}(?:(?:, | e | a | ao | à |\s?[-–]\s?){_ROMAN})*"
_DASH = re.compile(r"\s?[-–]\s?")
_EACH = re.compile("[IVXLC]+")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_RANKED = re.compile(
    r"(?<!\w)((?i:séculos?|capítulos?|cantos?|cenas?|atos?|papa|rei|rainha|dom|imperador|bento|pio|leão|"
    r"luís|henrique|filipe|felipe|pedro|joão|carlos|josé|maria|elizabeth|isabel|francisco|paulo|"
    r"gregório|clemente|alexandre|ricardo|eduardo|jorge|catarina|nicolau)"
    rf"(?:\s[A-ZÀ-Ý]\w+)?\s)({_ROMANS})(?![\w'-]|\.\w|\s?[º°])"
)
_FEMININE_RANKED = {"maria", "elizabeth", "isabel", "catarina", "rainha", "cena", "cenas"}
_LOWER_CENTURY = re.compile(r"\b(século )([ivx]+)\b")
_NUMBERED = re.compile(
    r"(?<!\w)((?i:(?:parte|volume|tomo|fase|tipo|livro|título|anexo|artigo|inciso|grau|etapa|"
    rf"alínea|item|módulo|unidade|classe|bloco)s?|nível|níveis|itens|fantasy|gta|rocky|star\swars"
    rf"|super\sbowl|episódio)\s)({_ROMANS})(?![\w'-]|\.\w)"
)
_LISTED = re.compile(
    rf"(?<![\w'-]){_ROMAN}(?:, {_ROMAN})* e {_ROMAN}(?<=[IVX]{{2}})(?![\w'-]|\.\w)"
)
_BEFORE_NOUN = re.compile(rf"(?<![\w-])({_ROMAN})(?<=[IVX]{{2}})(?=\s([A-ZÀ-Ý]\w+))")
_ONE_LETTER_BEFORE_NOUN = re.compile(
    r"(?<!\w)((?i:a|o|na|no|da|do|à|ao|pela|pelo)\s)([IV])(?=\s([A-ZÀ-Ý][a-zà-ÿ]+))"
)
_AFTER_WORD = re.compile(rf"(?<=[a-zà-ÿ]\s)({_ROMAN})(?<=[IVX]{{2}})(?![\w'-]|\.\w)")
_YEAR = re.compile(
    r"\b(?=[MDCLXVI]{4})M{1,2}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})\b"
)


def _value(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral.upper()]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


def _rank(numeral: str, feminine: bool = False) -> str:
    """Ordinal up to ten, cardinal from there (Cunha & Cintra)."""
    value = _value(numeral)
    return ordinal(value, feminine) if value <= 10 else cardinal(value)


@when(r"[IVXLCM]|\bséculo [ivx]")
def roman_numerals(text: str) -> str:
    """século XIX, capítulo IV, Dom Pedro II, II Guerra Mundial, parte III, MCMXXII."""

    def ranked(match: re.Match[str]) -> str:
        feminine = not _FEMININE_RANKED.isdisjoint(match[1].lower().split())
        numerals = _DASH.sub(" a ", match[2])
        return match[1] + _EACH.sub(lambda numeral: _rank(numeral[0], feminine), numerals)

    def counted(numerals: str) -> str:
        return _EACH.sub(lambda numeral: cardinal(_value(numeral[0])), numerals)

    def numbered(match: re.Match[str]) -> str:
        return match[1] + counted(_DASH.sub(" a ", match[2]))

    def before_noun(numeral: str, noun: str) -> str:
        return ordinal(_value(numeral), feminine_noun(noun, plural=False))

    def century(match: re.Match[str]) -> str:
        valid = re.fullmatch(_ROMAN, match[2].upper())
        return match[1] + _rank(match[2]) if valid else match[0]

    text = _RANKED.sub(ranked, text)
    text = _LOWER_CENTURY.sub(century, text)
    text = _NUMBERED.sub(numbered, text)
    text = _LISTED.sub(lambda m: counted(m[0]), text)
    text = _ONE_LETTER_BEFORE_NOUN.sub(lambda m: m[1] + before_noun(m[2], m[3]), text)
    text = _BEFORE_NOUN.sub(lambda m: before_noun(m[1], m[2]), text)
    text = _AFTER_WORD.sub(lambda m: _rank(m[1]), text)
    return _YEAR.sub(lambda m: cardinal(_value(m[0])), text)
