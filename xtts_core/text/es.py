"""Spanish."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, Rule, followed_by_new_sentence, normaliser, words_of
from xtts_core.text.numbers import (
    INTEGER,
    MAX_SPOKEN,
    NUMBER,
    cardinal,
    digits,
    ordinal,
    spoken_value,
)

_LANGUAGE = "es"


def _integer(text: str, before_noun: bool = False) -> str:
    plain = text.replace(".", "")
    value = spoken_value(plain)
    if (plain.startswith("0") and len(plain) > 1) or value >= MAX_SPOKEN:
        return digits(plain, _LANGUAGE)
    words = cardinal(value, _LANGUAGE)
    if not before_noun:
        return words
    return re.sub(r"\buno$", "un", re.sub(r"veintiuno$", "veintiún", words))


def _number(text: str, before_noun: bool = False) -> str:
    sign = "menos " if text.startswith("-") else ""
    whole, _, decimals = text.removeprefix("-").partition(",")
    if not decimals:
        return sign + _integer(whole, before_noun)
    zeros = len(decimals) - len(decimals.lstrip("0"))
    rest = [_integer(decimals[zeros:])] if decimals[zeros:] else []
    return " ".join([sign + _integer(whole), "coma", *["cero"] * zeros, *rest])


_CURRENCIES = {
    "$": ("dólar", "dólares", "centavo", "centavos"),
    "US$": ("dólar", "dólares", "centavo", "centavos"),
    "R$": ("real", "reales", "centavo", "centavos"),
    "€": ("euro", "euros", "céntimo", "céntimos"),
    "£": ("libra", "libras", "penique", "peniques"),
}
_SIGN = r"(?:R\$|US\$|\$|€|£)"
_SCALE = r"(?:\s(mil|millón|millones)\b)?"
_CURRENCY = re.compile(rf"({_SIGN})\s?({NUMBER}){_SCALE}")
_CURRENCY_AFTER = re.compile(rf"(?<!\d)({NUMBER}){_SCALE}\s?({_SIGN})")


def _money(amount: str, sign: str, scale: str | None) -> str:
    one, many, cent, cents = _CURRENCIES[sign]
    if scale:
        return f"{_number(amount)} {scale}{' de' if scale != 'mil' else ''} {many}"
    whole, _, fraction = amount.partition(",")
    if len(fraction) > 2:
        return f"{_number(amount)} {many}"
    units, hundredths = spoken_value(whole.replace(".", "")), int((fraction + "00")[:2])
    parts = []
    if units or not hundredths:
        parts.append(f"{_integer(whole, True)} {one if units == 1 else many}")
    if hundredths:
        words = _integer(str(hundredths), True)
        parts.append(f"{words} {cent if hundredths == 1 else cents}")
    return " con ".join(parts)


def currency(text: str) -> str:
    """7,50 €, $ 20, 3 millones €."""
    text = _CURRENCY.sub(lambda m: _money(m[2], m[1], m[3]), text)
    text = _CURRENCY_AFTER.sub(lambda m: _money(m[1], m[3], m[2]), text)
    return re.sub(_SIGN, lambda m: f" {_CURRENCIES[m[0]][1]} ", text)


_CLOCK = re.compile(r"(?<![\w,.:])([01]?\d|2[0-3]):([0-5]\d)(?:\s?h\b)?(?![\w:])")


def hours(text: str) -> str:
    """14:30, 8:00 h."""

    def speak(match: re.Match[str]) -> str:
        hour = cardinal(int(match[1]), _LANGUAGE)
        hour = re.sub(r"uno$", "una", hour)
        minute = int(match[2])
        return f"{hour} y {cardinal(minute, _LANGUAGE)}" if minute else f"{hour} en punto"

    return _CLOCK.sub(speak, text)


_UNITS = {
    "km/h": ("kilómetro por hora", "kilómetros por hora"),
    "km": ("kilómetro", "kilómetros"),
    "m": ("metro", "metros"),
    "cm": ("centímetro", "centímetros"),
    "mm": ("milímetro", "milímetros"),
    "kg": ("kilo", "kilos"),
    "g": ("gramo", "gramos"),
    "ml": ("mililitro", "mililitros"),
    "l": ("litro", "litros"),
    "L": ("litro", "litros"),
    "°C": ("grado celsius", "grados celsius"),
    "ºC": ("grado celsius", "grados celsius"),
    "°": ("grado", "grados"),
    "m²": ("metro cuadrado", "metros cuadrados"),
    "%": ("por ciento", "por ciento"),
    "¢": ("centavo", "centavos"),
    "GB": ("gigabyte", "gigabytes"),
    "MB": ("megabyte", "megabytes"),
}
_MEASURE = re.compile(
    rf"(?<!\d)((?:(?<![\w)])-)?{NUMBER})\s?"
    rf"({'|'.join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))})(?![\w²³/])"
)


def units(text: str) -> str:
    """20 %, 2,5 km, 30 °C."""

    def speak(match: re.Match[str]) -> str:
        one, many = _UNITS[match[2]]
        single = match[1] in {"1", "-1"}
        return f"{_number(match[1], match[2] != '%')} {one if single else many}"

    return _MEASURE.sub(speak, text)


_ORDINAL = re.compile(rf"(?<![\w,.])({INTEGER})(?:\.?\s?([ºª])|\.?(er|[oa])\b)")
_RANGE = re.compile(r"(?<=\d)(?:-|\s?–\s?)(?=\d)")
_SIGNED = re.compile(r"(?<![\w)])([-+])\s?(?=\d)")
_FUSED = re.compile(rf"(?<={LETTER})-?(?=\d)|(?<=\d)-?(?={LETTER})")
_PLAIN = re.compile(rf"{NUMBER}(?=\s(?!(?:a|la|las|para|hasta|y|o|de|en)\b)([a-zà-ÿ]+))?")
_DOTTED = re.compile(r"(?<![\w,])\d+(?:\.\d+)+(?!\d)")


def numbers(text: str) -> str:
    """Ordinals with gender, ranges and what digits are left."""

    def ordinal_words(match: re.Match[str]) -> str:
        value = spoken_value(match[1].replace(".", ""))
        if not 0 < value < 1000:
            return match[1]
        words, mark = ordinal(value, _LANGUAGE), match[2] or match[3]
        if mark in "ªa":
            return re.sub(r"o\b", "a", words)
        return re.sub(r"(primer|tercer)o$", r"\1", words) if mark == "er" else words

    def dotted(match: re.Match[str]) -> str:
        if re.fullmatch(INTEGER, match[0]):
            return match[0]
        return " punto ".join(_integer(part) for part in match[0].split("."))

    def plain(match: re.Match[str]) -> str:
        words = _number(match[0], before_noun=match[1] is not None)
        if match[1] is None or not match[1].endswith("a" if match[0] == "1" else "as"):
            return words
        return re.sub(r"ientos\b", "ientas", re.sub(r"\bun$|ún$", "una", words))

    text = _RANGE.sub(" a ", _ORDINAL.sub(ordinal_words, text))
    text = _SIGNED.sub(lambda m: "menos " if m[1] == "-" else "más ", text)
    text = _FUSED.sub(" ", _DOTTED.sub(dotted, text))
    return _PLAIN.sub(plain, text)


_ABBREVIATIONS = {
    "sr": "señor", "sra": "señora", "srta": "señorita", "dr": "doctor", "dra": "doctora",
    "st": "santo", "sto": "santo", "sta": "santa", "co": "compañía", "jr": "junior",
    "ltd": "limitada", "prof": "profesor", "profa": "profesora", "av": "avenida",
    "avda": "avenida", "ud": "usted", "uds": "ustedes", "pág": "página", "etc": "etcétera",
    "núm": "número", "ej": "ejemplo", "dña": "doña", "tel": "teléfono",
}  # fmt: skip
_ABBREVIATION = re.compile(rf"(?i)\b({'|'.join(sorted(_ABBREVIATIONS, key=len, reverse=True))})\.")


def abbreviations(text: str) -> str:
    """Sra., Dr., etc.: the full stop stays only where it also ends a sentence."""

    def expand(match: re.Match[str]) -> str:
        ends = not match.string[match.end() :].strip() or (
            match[1].lower() in {"etc", "ltd", "jr"} and followed_by_new_sentence(match)
        )
        return _ABBREVIATIONS[match[1].lower()] + ("." if ends else "")

    text = re.sub(r"(?i)\bp\.\s?ej\.", "por ejemplo", text)
    text = re.sub(r"(?i)\bn\.?[º°](?!\w)", "número", text)
    text = re.sub(r"\bEE\.\s?UU\.?(?!\w)", "Estados Unidos", text)
    text = re.sub(r"(?<![\w.])D\.\s(?=[A-ZÀ-Ý][a-zà-ÿ])", "don ", text)
    return _ABBREVIATION.sub(expand, text)


_SYMBOLS = {
    "&": " y ", "+": " más ", "=": " igual a ", "@": " arroba ", "%": " por ciento ",
    "°": " grados ", "#": " numeral ", "/": " ", "×": " por ", "÷": " entre ", "¿": " ", "¡": " ",
    "^": " elevado a ", "<": " menor que ", ">": " mayor que ", "±": " más o menos ",
    "≥": " mayor o igual que ", "≤": " menor o igual que ", "≈": " aproximadamente ",
    "√": " raíz cuadrada de ", "π": " pi ",
}  # fmt: skip
_SYMBOL = re.compile(f"[{re.escape(''.join(_SYMBOLS))}]")


def symbols(text: str) -> str:
    """&, +, @, #…: said where they have a name; ¿ and ¡ only announce."""
    return _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)


_MONTHS = words_of(
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"
)
_DATE = re.compile(r"(?<![\d/.,])(\d{1,2})/(\d{2})(?:/(\d{4}))?(?![\d/]|,\d)")


def dates(text: str) -> str:
    """15/03, 15/03/2023."""

    def speak(match: re.Match[str]) -> str:
        day, month = int(match[1]), int(match[2])
        if not (1 <= day <= 31 and 1 <= month <= 12):
            return match[0]
        words = f"{cardinal(day, _LANGUAGE)} de {_MONTHS[month - 1]}"
        return f"{words} de {cardinal(int(match[3]), _LANGUAGE)}" if match[3] else words

    return _DATE.sub(speak, text)


_HALF = re.compile(r"(?<![\w/,.])1/2(?![\w/]|,\d)(?:(?= ([a-zà-ÿ]+)))?")


def fractions(text: str) -> str:
    """1/2 litro, 1/2 hora."""
    return _HALF.sub(lambda m: "media" if (m[1] or "").endswith("a") else "medio", text)


_ROMAN = r"(?=[IVX])(X{0,3}(?:IX|IV|V?I{0,3}))(?![\w'-])"
_CENTURY = re.compile(rf"(?i:\b(siglo)) {_ROMAN}")
_RULER = re.compile(
    r"\b(Felipe|Carlos|Alfonso|Fernando|Isabel|Juan|Pedro|Enrique|Jaime|Luis|Sancho|Pío|Benedicto"
    rf"|Juan Pablo|Pablo|Gregorio|León|Clemente|Alejandro|Francisco) {_ROMAN}"
)
_VALUES = {"I": 1, "V": 5, "X": 10}


def roman_numerals(text: str) -> str:
    """siglo XXI, Felipe VI: rulers take ordinals to ten, cardinals from there."""

    def value(numeral: str) -> int:
        values = [_VALUES[letter] for letter in numeral]
        return sum(
            -v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True)
        )

    def ruler(match: re.Match[str]) -> str:
        rank = value(match[2])
        if rank > 10:
            return f"{match[1]} {cardinal(rank, _LANGUAGE)}"
        words = ordinal(rank, _LANGUAGE)
        return f"{match[1]} {re.sub('o$', 'a', words) if match[1] == 'Isabel' else words}"

    text = _CENTURY.sub(lambda m: f"{m[1]} {cardinal(value(m[2]), _LANGUAGE)}", text)
    return _RULER.sub(ruler, text)


_RULES: tuple[Rule, ...] = (
    dates,
    fractions,
    roman_numerals,
    currency,
    hours,
    units,
    numbers,
    abbreviations,
    symbols,
)

normalize = normaliser(_RULES)
