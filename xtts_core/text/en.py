"""English, American in its money and measures."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, Rule, followed_by_new_sentence, normaliser, words_of
from xtts_core.text.numbers import MAX_SPOKEN, cardinal, digits, ordinal, spoken_value

_LANGUAGE = "en"
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = rf"(?:{_INTEGER}(?:\.\d+)?)"


def _number(text: str) -> str:
    sign = "minus " if text.startswith("-") else ""
    whole, _, decimals = text.removeprefix("-").replace(",", "").partition(".")
    padded = whole.startswith("0") and len(whole) > 1
    value = spoken_value(whole)
    spell = padded or value >= MAX_SPOKEN
    words = digits(whole, _LANGUAGE) if spell else cardinal(value, _LANGUAGE)
    return f"{sign}{words} point {digits(decimals, _LANGUAGE)}" if decimals else sign + words


_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "US$": ("dollar", "dollars", "cent", "cents"),
    "R$": ("real", "reais", "centavo", "centavos"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_SIGN = r"(?:R\$|US\$|\$|€|£|¥)"
_CURRENCY = re.compile(
    rf"({_SIGN})\s?({_NUMBER})(?:\s(thousand|million|billion|trillion)\b|(bn|tn|[KkMB])(?!\w))?"
)
_SHORT_SCALES = {
    "k": "thousand", "m": "million", "b": "billion", "bn": "billion", "tn": "trillion",
}  # fmt: skip
_CURRENCY_AFTER = re.compile(rf"(?<!\d)({_NUMBER})\s?(€|£)")


def _money(amount: str, sign: str, scale: str | None) -> str:
    one, many, cent, cents = _CURRENCIES[sign]
    if scale:
        return f"{_number(amount)} {scale} {many}"
    whole, _, fraction = amount.replace(",", "").partition(".")
    if len(fraction) > 2:
        return f"{_number(amount)} {many}"
    units, hundredths = spoken_value(whole), int((fraction + "00")[:2])
    parts = [f"{_number(whole)} {one if units == 1 else many}"] if units or not hundredths else []
    if hundredths:
        words = cardinal(hundredths, _LANGUAGE)
        parts.append(f"{words} {cent if hundredths == 1 else cents}")
    return " and ".join(parts)


def currency(text: str) -> str:
    """$1,234.50, £2, $3 million, $5M."""

    def speak(match: re.Match[str]) -> str:
        scale = _SHORT_SCALES[match[4].lower()] if match[4] else match[3]
        return _money(match[2], match[1], scale)

    text = _CURRENCY.sub(speak, text)
    text = _CURRENCY_AFTER.sub(lambda m: _money(m[1], m[2], None), text)
    return re.sub(_SIGN, lambda m: f" {_CURRENCIES[m[0]][1]} ", text)


_CLOCK = re.compile(r"(?<![\w.:])([01]?\d|2[0-3]):([0-5]\d)(?![\w:])")


def hours(text: str) -> str:
    """10:05, 14:30, 8:00."""

    def speak(match: re.Match[str]) -> str:
        hour, minute = cardinal(int(match[1]), _LANGUAGE), int(match[2])
        if minute == 0:
            return f"{hour} o'clock"
        return f"{hour} {'oh ' if minute < 10 else ''}{cardinal(minute, _LANGUAGE)}"

    return _CLOCK.sub(speak, text)


_UNITS = {
    "km/h": "kilometers per hour", "mph": "miles per hour", "km": "kilometers", "m": "meters",
    "cm": "centimeters", "mm": "millimeters", "kg": "kilograms", "g": "grams", "mg": "milligrams",
    "ml": "milliliters", "L": "liters", "lb": "pounds", "lbs": "pounds", "ft": "feet",
    "°C": "degrees celsius", "°F": "degrees fahrenheit", "°": "degrees", "%": "percent",
    "¢": "cents",
    "GB": "gigabytes", "MB": "megabytes", "kHz": "kilohertz", "Hz": "hertz", "kW": "kilowatts",
}  # fmt: skip
_MEASURE = re.compile(
    rf"(?<!\d)((?:(?<![\w)])-)?{_NUMBER})\s?"
    rf"({'|'.join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))})(?![\w/])"
)


def units(text: str) -> str:
    """50%, 2.5 km, 30 °C; one of a unit loses its s."""

    def speak(match: re.Match[str]) -> str:
        name = _UNITS[match[2]]
        if match[1] == "1":
            name = "foot" if name == "feet" else re.sub(r"s\b", "", name, count=1)
        return f"{_number(match[1])} {name}"

    return _MEASURE.sub(speak, text)


_ORDINAL = re.compile(rf"(?<![\w,.])({_INTEGER})(?:st|nd|rd|th)(?!\w)", re.IGNORECASE)
_RANGE = re.compile(r"(?<=\d)(?:-|\s?–\s?)(?=\d)")
_DECADE = re.compile(r"(?<![\w,.])((?:1[0-9]|20)\d0)s(?!\w)")
_YEAR = re.compile(r"(?<![\w,.$€£-])(1[1-9]\d{2}|20[1-9]\d)(?![\w,.]\d|\w)")
_SIGNED = re.compile(r"(?<![\w)])([-+])\s?(?=\d)")
_FUSED = re.compile(rf"(?<={LETTER})-?(?=\d)|(?<=\d)-?(?={LETTER})")


def _year(value: int) -> str:
    century, rest = divmod(value, 100)
    tail = "hundred" if rest == 0 else f"{'oh ' if rest < 10 else ''}{cardinal(rest, _LANGUAGE)}"
    return f"{cardinal(century, _LANGUAGE)} {tail}"


def numbers(text: str) -> str:
    """Ordinals, ranges, years (1999, 2023) and what digits are left."""

    def ordinal_words(match: re.Match[str]) -> str:
        value = spoken_value(match[1].replace(",", ""))
        return ordinal(value, _LANGUAGE) if value < MAX_SPOKEN else match[1]

    text = _RANGE.sub(" to ", _ORDINAL.sub(ordinal_words, text))
    text = _YEAR.sub(lambda m: _year(int(m[1])), _DECADE.sub(r"\1", text))
    text = _SIGNED.sub(lambda m: "minus " if m[1] == "-" else "plus ", text)
    return re.sub(_NUMBER, lambda m: _number(m[0]), _FUSED.sub(" ", text))


_ABBREVIATIONS = {
    "mrs": "missus", "mr": "mister", "ms": "miss", "dr": "doctor", "drs": "doctors",
    "st": "saint", "co": "company", "jr": "junior", "sr": "senior", "maj": "major",
    "gen": "general", "rev": "reverend", "lt": "lieutenant", "hon": "honorable",
    "sgt": "sergeant", "capt": "captain", "esq": "esquire", "ltd": "limited", "col": "colonel",
    "ft": "fort", "prof": "professor", "etc": "et cetera", "vs": "versus", "ave": "avenue",
}  # fmt: skip
_ABBREVIATION = re.compile(rf"(?i)\b({'|'.join(sorted(_ABBREVIATIONS, key=len, reverse=True))})\.")


def abbreviations(text: str) -> str:
    """Dr., Mrs., St., etc.: the full stop stays only where it also ends a sentence."""

    def expand(match: re.Match[str]) -> str:
        ends = not match.string[match.end() :].strip() or (
            match[1].lower() in {"etc", "co", "ltd", "jr", "sr", "esq"}
            and followed_by_new_sentence(match)
        )
        return _ABBREVIATIONS[match[1].lower()] + ("." if ends else "")

    return _ABBREVIATION.sub(expand, text)


_SYMBOLS = {
    "&": " and ", "+": " plus ", "=": " equals ", "@": " at ", "%": " percent ",
    "°": " degrees ", "#": " number ", "/": " ", "×": " times ", "÷": " divided by ",
    "^": " to the power of ", "<": " less than ", ">": " greater than ", "±": " plus or minus ",
    "≥": " greater than or equal to ", "≤": " less than or equal to ", "≈": " about ",
    "√": " the square root of ", "π": " pi ",
}  # fmt: skip
_SYMBOL = re.compile(f"[{re.escape(''.join(_SYMBOLS))}]")


def symbols(text: str) -> str:
    """&, +, @, #…: said where they have a name."""
    return _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)


_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DOTTED_PAIRS = (
    (re.compile(r"(?i)\bi\.\s?e\."), "that is"),
    (re.compile(r"(?i)\be\.\s?g\."), "for example"),
    (re.compile(r"(?i)(?<=\d )a\.m\.|(?<=\d)a\.m\."), " a m"),
    (re.compile(r"(?i)(?<=\d )p\.m\.|(?<=\d)p\.m\."), " p m"),
)


def addresses(text: str) -> str:
    """john.doe@mail.com: dot and at."""
    return _EMAIL.sub(lambda m: m[0].replace(".", " dot ").replace("@", " at "), text)


def pairs(text: str) -> str:
    """i.e., e.g., 2:30 p.m.: the full stop stays only at the end of the text."""
    for pattern, words in _DOTTED_PAIRS:
        text = pattern.sub(
            lambda m, words=words: (  # type: ignore[misc]
                words + ("." if not m.string[m.end() :].strip() else "")
            ),
            text,
        )
    return text


_MONTHS = words_of(
    "January February March April May June July August September October November December"
)
_ISO_DATE = re.compile(r"(?<![\w-])(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?![\w-])")
_TELEPHONE = re.compile(r"(?<![\w.,-])(?:\+?\d{1,2}-)?\d{3}-\d{3}-\d{4}(?![\w-])")


def dates(text: str) -> str:
    """2023-03-15."""
    return _ISO_DATE.sub(
        lambda m: f"{_MONTHS[int(m[2]) - 1]} {ordinal(int(m[3]), _LANGUAGE)}, {m[1]}", text
    )


def telephones(text: str) -> str:
    """1-800-555-0199: digit by digit."""
    return _TELEPHONE.sub(lambda m: digits(m[0], _LANGUAGE), text)


_FRACTIONS = {"1/2": "a half", "1/3": "a third", "1/4": "a quarter", "3/4": "three quarters"}
_FRACTION = re.compile(
    r"(?<![\w/,.])(?:(\d+) )?(1/2|1/3|1/4|3/4)(?![\w/]|[.,]\d)(?= (?!of\b|the\b|a\b)([a-z]))?"
)


def fractions(text: str) -> str:
    """1/2 cup, 2 1/2 cups."""

    def speak(match: re.Match[str]) -> str:
        whole, part, noun = match.groups()
        if whole:
            return f"{whole} and {_FRACTIONS[part]}"
        if noun is None:
            return _FRACTIONS[part]
        return "half a" if part == "1/2" else f"{_FRACTIONS[part]} of a"

    return _FRACTION.sub(speak, text)


# I before a word is the pronoun, but for the world wars.
_ROMAN = r"(?:(?<=World War )|(?!I\s[a-z]))(X{0,3}(?:IX|IV|V?I{0,3}))(?<=[IVX])(?![\w'-])"
_RULER = re.compile(
    r"\b(Henry|Edward|George|Charles|William|James|Richard|Elizabeth|Mary|Louis|Philip|John Paul"
    rf"|Benedict|Pius|Leo|Catherine|Nicholas|Alexander|Peter|Paul|Napoleon) {_ROMAN}"
)
_NUMBERED = re.compile(
    r"\b(World War|Chapter|Part|Volume|Act|Scene|Phase|Type|Class|Title|Article|Rocky|Star Wars"
    rf"|Final Fantasy|Super Bowl) {_ROMAN}"
)
_VALUES = {"I": 1, "V": 5, "X": 10}


def _value(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


def roman_numerals(text: str) -> str:
    """Henry VIII, World War II."""
    text = _RULER.sub(lambda m: f"{m[1]} the {ordinal(_value(m[2]), _LANGUAGE)}", text)
    return _NUMBERED.sub(lambda m: f"{m[1]} {cardinal(_value(m[2]), _LANGUAGE)}", text)


_RULES: tuple[Rule, ...] = (
    addresses,
    pairs,
    telephones,
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
