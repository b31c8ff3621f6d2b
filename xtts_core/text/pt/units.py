"""Units of measure, by the SI and INMETRO: the plural begins at two, symbols have no plural."""

from __future__ import annotations

import re

from xtts_core.text.common import when
from xtts_core.text.numbers import NUMBER
from xtts_core.text.pt.grammar import SCALES, number, value_of

_LENGTHS = {
    "km": "quilômetro", "m": "metro", "dm": "decímetro", "cm": "centímetro", "mm": "milímetro",
}  # fmt: skip
_UNITS = {
    **{symbol: (name, f"{name}s") for symbol, name in _LENGTHS.items()},
    "nm": ("nanômetro", "nanômetros"),
    "µm": ("micrômetro", "micrômetros"),
    **{
        symbol + power: (f"{name} {kind}", f"{name}s {kind}s")
        for symbol, name in _LENGTHS.items()
        for power, kind in (("²", "quadrado"), ("³", "cúbico"))
    },
    "ha": ("hectare", "hectares"),
    "″": ("polegada", "polegadas"),
    "kg": ("quilo", "quilos"),
    "g": ("grama", "gramas"),
    "mg": ("miligrama", "miligramas"),
    "µg": ("micrograma", "microgramas"),
    "mcg": ("micrograma", "microgramas"),
    "t": ("tonelada", "toneladas"),
    "L": ("litro", "litros"),
    "ml": ("mililitro", "mililitros"),
    "dl": ("decilitro", "decilitros"),
    "h": ("hora", "horas"),
    "min": ("minuto", "minutos"),
    "s": ("segundo", "segundos"),
    "ms": ("milissegundo", "milissegundos"),
    "°C": ("grau Celsius", "graus Celsius"),
    "°F": ("grau Fahrenheit", "graus Fahrenheit"),
    "°": ("grau", "graus"),
    "W": ("watt", "watts"),
    "kW": ("quilowatt", "quilowatts"),
    "MW": ("megawatt", "megawatts"),
    "GW": ("gigawatt", "gigawatts"),
    "kWh": ("quilowatt-hora", "quilowatts-hora"),
    "MWh": ("megawatt-hora", "megawatts-hora"),
    "mAh": ("miliampere-hora", "miliamperes-hora"),
    "mA": ("miliampere", "miliamperes"),
    "V": ("volt", "volts"),
    "kV": ("quilovolt", "quilovolts"),
    "J": ("joule", "joules"),
    "kJ": ("quilojoule", "quilojoules"),
    "kPa": ("quilopascal", "quilopascals"),
    "hPa": ("hectopascal", "hectopascals"),
    "mmHg": ("milímetro de mercúrio", "milímetros de mercúrio"),
    "cv": ("cavalo", "cavalos"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("quilohertz", "quilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "dB": ("decibel", "decibéis"),
    "kB": ("quilobyte", "quilobytes"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "kbps": ("quilobit por segundo", "quilobits por segundo"),
    "Mbps": ("megabit por segundo", "megabits por segundo"),
    "Gbps": ("gigabit por segundo", "gigabits por segundo"),
    "MP": ("megapixel", "megapixels"),
    "fps": ("quadro por segundo", "quadros por segundo"),
    "kcal": ("quilocaloria", "quilocalorias"),
    "cal": ("caloria", "calorias"),
    "rpm": ("rotação por minuto", "rotações por minuto"),
    "bpm": ("batimento por minuto", "batimentos por minuto"),
    "hab": ("habitante", "habitantes"),
    "ppm": ("parte por milhão", "partes por milhão"),
}
_FEMININE = {"h", "t", "kcal", "cal", "rpm", "ppm", "″"}
_SPELLINGS = {
    **{name: name for name in _UNITS},
    **{"Km": "km", "KM": "km", "Kg": "kg", "KG": "kg", "Cm": "cm", "CM": "cm", "MM": "mm"},
    **{"l": "L", "ML": "ml", "Ml": "ml", "mL": "ml", "dL": "dl", "seg": "s", "KB": "kB"},
    **{"hs": "h", "hrs": "h"},
    **{"KW": "kW", "KWh": "kWh", "kwh": "kWh", "khz": "kHz", "hz": "Hz", "CV": "cv", "db": "dB"},
    **{f"{name}{power}": name + sign for name in _LENGTHS for power, sign in ("2²", "3³")},
    **{"º C": "°C", "ºC": "°C", "° C": "°C", "º F": "°F", "ºF": "°F", "° F": "°F"},
    **{"mts": "m", "gr": "g", "grs": "g", "kgs": "kg", "kms": "km", "Mb/s": "Mbps"},
}
UNIT = "|".join(re.escape(u) for u in sorted(_SPELLINGS, key=len, reverse=True))
"""Any symbol of a unit, in a regular expression."""

_DIVISORS = {"h": "hora", "s²": "segundo ao quadrado", "un": "unidade", "hab": "habitante"}
_DIVISOR = "|".join(["dia", "mês", "ano", "pessoa", *map(re.escape, _DIVISORS), UNIT])
_MEASURE = re.compile(
    rf"(?<!\d)((?:(?<![\w)])-)?{NUMBER})(?:\s({SCALES})(?:\sde)?\s|\s?)({UNIT})(?:/({_DIVISOR}))?(?![\w²³/])"
)
_BARE_UNIT = re.compile(
    rf"(?<![\w/])(km|Km|KM|kg|Kg|KG|cm|mm|ml|m[²³]|km²)(?:/({_DIVISOR}))?(?![\w²³/])"
)
_SCALE_BEFORE = re.compile(rf"(?<!\w)(?:{SCALES})(?:\sde)?\s$")
_TYPED_DEGREE = re.compile(
    r"(?i)\b((?:faz|fez|fazia|fará|girou|gira|virou|marcou|marca|marcava|chegou a|chega a"
    r"|(?:ângulo|temperatura|mínima|máxima|sensação|inclinação|giro|curva) de)\s-?\d{1,3})\s?º"
    r"(?!\w|\s?[CF]\b)"
)


def unit_name(symbol: str, plural: bool) -> str:
    """The name of the unit that `symbol`, in any of its spellings, stands for."""
    return _UNITS[_SPELLINGS[symbol]][plural]


def is_feminine_unit(symbol: str) -> bool:
    """Whether numbers before the unit take the feminine."""
    return _SPELLINGS[symbol] in _FEMININE


def divisor(name: str) -> str:
    """What stands after a slash: a unit's name, or the word itself."""
    if name in _DIVISORS:
        return _DIVISORS[name]
    return unit_name(name, plural=False) if name in _SPELLINGS else name


_METRES_AND = re.compile(r"(?<![\w,.])(\d)\s?m\s?(\d\d)(?![\w,.]\d|\w)")


@when(r"\d|k[mg]|K[mMgG]|[cm]m|ml|m[²³]")
def units(text: str) -> str:
    """2,5 km, 90 km/h, 30 °C, 50 mil m²: singular below two, gender of the unit, `por` for a
    slash."""

    def per(name: str | None) -> str:
        return f" por {divisor(name)}" if name else ""

    def measure(match: re.Match[str]) -> str:
        amount, scale, symbol, below = match.groups()
        name = unit_name(symbol, plural=scale is not None or abs(value_of(amount)) >= 2)
        words = number(amount, is_feminine_unit(symbol) and scale in (None, "mil"))
        if scale == "mil":
            words = "mil" if amount == "1" else f"{words} mil"
        elif scale:
            words = f"{words} {scale} de"
        return f"{words} {name}{per(below)}"

    def bare(match: re.Match[str]) -> str:
        counted = _SCALE_BEFORE.search(match.string[max(0, match.start() - 15) : match.start()])
        return unit_name(match[1], plural=bool(match[2] or counted)) + per(match[2])

    text = _METRES_AND.sub(r"\1 m e \2", text)
    text = _MEASURE.sub(measure, _TYPED_DEGREE.sub(r"\1°", text))
    return _BARE_UNIT.sub(bare, text)
