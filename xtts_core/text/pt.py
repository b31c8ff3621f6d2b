"""Portuguese as it is spoken in Brazil.

The rules run in the order of `_RULES`; each is a function with the name it has in
tests/core/text/pt_br.tsv. Grammar after Cunha & Cintra, "Nova gramática do português
contemporâneo", chapter 14 (numerals): kings, popes, centuries and chapters take ordinals up to
ten and cardinals from there; the first day of a month is an ordinal; 1, 2 and the hundreds agree
with the noun. English words stay as they are written: XTTS is multilingual and reads them.
"""

from __future__ import annotations

import re
from functools import partial

from xtts_core.text.common import (
    LETTER,
    Rule,
    finish,
    followed_by_new_sentence,
    prepare,
    settled,
)
from xtts_core.text.numbers import INTEGER, MAX_SPOKEN, NUMBER, cardinal, digits, ordinal

_LANGUAGE = "pt_BR"


def _words(text: str) -> list[str]:
    return text.split()


_MONTHS = _words(
    "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro"
)
_MONTH = "|".join(_MONTHS)

_LETTER_NAMES = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        _words(
            "a bê cê dê e efe gê agá i jota cá ele eme ene o pê quê erre esse tê u vê dáblio xis "
            "ípsilon zê"
        ),
        strict=True,
    )
)

_SCALES = "mil|milhão|milhões|bilhão|bilhões|trilhão|trilhões"

# --- gender -----------------------------------------------------------------------------------

_FEMININE = frozenset(
    _words(
        """mão mãos mulher mulheres vez vezes ordem ordens pele peles parede paredes noite noites
    tarde tardes fonte fontes frase frases fase fases base bases classe classes chave chaves rede
    redes ponte pontes sede sedes morte mortes parte partes arte artes árvore árvores flor flores
    cor cores dor dores luz luzes cruz cruzes voz vozes lei leis nuvem nuvens mãe mães irmã irmãs
    manhã manhãs maçã maçãs torre torres série séries espécie espécies tribo tribos foto fotos
    moto motos gente opinião opiniões região regiões religião religiões união uniões reunião
    reuniões legião legiões rebelião rebeliões visão visões divisão divisões decisão decisões
    televisão televisões versão versões sessão sessões missão missões comissão comissões
    análise análises crise crises hipótese hipóteses carne carnes corrente
    correntes enchente enchentes serpente serpentes metade metades estante estantes gravidez
    nave naves neve febre febres greve greves goma gomas soma somas"""
    )
)
_MASCULINE = frozenset(
    _words(
        """dia dias mapa mapas planeta planetas cometa cometas grama gramas quilograma quilogramas
    miligrama miligramas cinema cinemas fantasma fantasmas clima climas pijama pijamas gorila
    gorilas guarda guardas atleta atletas colega colegas poeta poetas papa papas pirata
    piratas trauma traumas camarada camaradas"""
    )
)
_NO_NOUN = frozenset(
    _words(
        """a as à às da das na nas pela pelas ela elas uma umas mas há era essa essas esta estas
    está para aquela aquelas minha minhas sua suas nossa nossas toda todas nada fora agora ainda
    embora acima contra sobra entra foi são estão não então vão dão até cada seja veja tinha havia
    fica ficava passa falta faltas vira mata"""
    )
)


def _feminine_noun(word: str | None, plural: bool) -> bool:
    """Whether `word` is a feminine noun in that number, as far as its ending tells."""
    if word is None:
        return False
    word = word.lower()
    if word in _FEMININE:
        return word.endswith("s") == plural
    if word in _MASCULINE or word in _NO_NOUN:
        return False
    if re.search(r"(?:[eo]ma|grama|ista|auta)s?$", word):
        return False
    endings = r"(?:as|ções|ssões|dades|tudes|gens)$" if plural else r"(?:a|ção|ssão|dade|tude|gem)$"
    return re.search(endings, word) is not None


def _to_feminine(words: str) -> str:
    """A cardinal in the feminine; millions keep their own gender."""
    head, tail = re.fullmatch(r"(.*lh(?:ão|ões))?(.*)", words).groups("")  # type: ignore[union-attr]
    tail = re.sub(r"\bum\b", "uma", re.sub(r"\bdois\b", "duas", tail))
    return head + re.sub(r"entos\b", "entas", tail)


def _integer(text: str, feminine: bool = False) -> str:
    """The words of an integer such as `65.000`; `007` and very long ones digit by digit."""
    plain = text.replace(".", "")
    padded = plain.startswith("0") and (len(plain) > 2 or plain == "00")
    if padded or int(plain) >= MAX_SPOKEN:
        return digits(plain, _LANGUAGE)
    words = cardinal(int(plain), _LANGUAGE)
    return _to_feminine(words) if feminine else words


def _number(text: str, feminine: bool = False) -> str:
    """The words of a number such as `1.234,05`, with an optional minus sign."""
    sign = "menos " if text.startswith("-") else ""
    whole, _, decimals = text.removeprefix("-").strip().partition(",")
    if not decimals:
        return sign + _integer(whole, feminine)
    return f"{sign}{_integer(whole)} vírgula {_decimals(decimals)}"


def _decimals(text: str) -> str:
    """`05` is read zero cinco, `75` setenta e cinco, four digits and more one by one."""
    zeros = len(text) - len(text.lstrip("0"))
    rest = text[zeros:]
    if len(text) > 3:
        return digits(text, _LANGUAGE)
    return " ".join(["zero"] * zeros + ([cardinal(int(rest), _LANGUAGE)] if rest else []))


def _value(text: str) -> float:
    return float(text.replace(".", "").replace(",", ".").replace(" ", ""))


def _ordinal(value: int, feminine: bool, plural: bool = False) -> str:
    words = ordinal(value, _LANGUAGE)
    if feminine:
        words = re.sub(r"o\b", "a", words)
    return re.sub(r"([oa])\b", r"\1s", words) if plural else words


# --- the rules, in order ----------------------------------------------------------------------

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(
    r"(?:https?://|www\.)[^\s,;!?()]+"
    r"|\b(?:[\w-]+\.)+(?:com|org|net|gov|edu|info|app|dev|tv|io|br|pt)(?:\.br|\.pt)?"
    r"\b(?!\.\w)(?:/[^\s,;!?()]*)?",
    re.IGNORECASE,
)
_ADDRESS_SIGNS = {
    ".": "ponto",
    "@": "arroba",
    "/": "barra",
    "-": "hífen",
    "_": "sublinhado",
    "+": "mais",
    "?": "interrogação",
    "=": "igual",
    "&": "e comercial",
    "#": "cerquilha",
    ":": "dois pontos",
    "%": "por cento",
    "~": "til",
}
_ADDRESS_WORDS = {"www": "dáblio dáblio dáblio", "br": "bê erre", "pt": "pê tê", "tv": "tê vê"}


def addresses(text: str) -> str:
    """E-mail addresses and URLs, sign by sign; the protocol is not read."""

    def spell(match: re.Match[str]) -> str:
        address, stop = re.fullmatch(r"(.*?)([./]*)", match[0]).groups()  # type: ignore[union-attr]
        address = re.sub(r"^https?://", "", address)
        parts = re.findall(rf"{LETTER}+|\d+|[^\w]|_", address)
        words = [
            _ADDRESS_SIGNS.get(part)
            or _ADDRESS_WORDS.get(part.lower())
            or (_integer(part) if part.isdecimal() else part)
            for part in parts
        ]
        return " ".join(words) + stop.replace("/", "")

    return _URL.sub(spell, _EMAIL.sub(spell, text)) if "." in text else text


_DATE = re.compile(r"(?<![\d/.])(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?![\d/]|\.\d|-\d)")
_ISO_DATE = re.compile(r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)")
_DAY_MONTH = re.compile(r"(?<![\d/,.])(\d{1,2})/(\d{2})(?![\d/])")
_SAID_DAY_MONTH = re.compile(r"(?i)(?<=\bdia )(\d{1,2})/(\d{1,2})(?![\d/])")
_MONTH_YEAR = re.compile(r"(?<![\d/])(\d{1,2})/(\d{4})(?![\d/])")
_FIRST_DAY = re.compile(rf"(?i)\b0?1\s?[º°o]?(?=\s+de\s+(?:{_MONTH})\b)")
_PADDED_DAY = re.compile(rf"(?i)\b0([2-9])(?=\s+de\s+(?:{_MONTH})\b)")


def _date(day: str, month: str, year: str | None) -> str | None:
    if not (1 <= int(day) <= 31 and 1 <= int(month) <= 12):
        return None
    spoken_day = "primeiro" if int(day) == 1 else cardinal(int(day), _LANGUAGE)
    words = f"{spoken_day} de {_MONTHS[int(month) - 1]}"
    return f"{words} de {_integer(year.lstrip('0') or '0')}" if year else words


def dates(text: str) -> str:
    """15/03/2023, 2023-03-15, 15/03, 03/2023, 1º de dezembro; what is no date is left."""
    text = _DATE.sub(lambda m: _date(m[1], m[3], m[4]) or m[0], text)
    text = _ISO_DATE.sub(lambda m: _date(m[3], m[2], m[1]) or m[0], text)
    text = _SAID_DAY_MONTH.sub(lambda m: _date(m[1], m[2], None) or m[0], text)
    text = _DAY_MONTH.sub(lambda m: _date(m[1], m[2], None) or m[0], text)
    text = _MONTH_YEAR.sub(
        lambda m: f"{_MONTHS[int(m[1]) - 1]} de {_integer(m[2])}" if 1 <= int(m[1]) <= 12 else m[0],
        text,
    )
    return _PADDED_DAY.sub(r"\1", _FIRST_DAY.sub("primeiro", text))


_PHONE = re.compile(
    r"(?<![\w.,/-])(?:\+\d{1,3}[\s-]?)?(?:\(\d{2,3}\)\s?|\b\d{2}\s)?9?\d{4}-\d{4}(?![\w/-])"
    r"|(?<![\w.,-])0[3589]00[\s-]?\d{3}[\s-]?\d{3,4}(?!\w)"
    r"|(?<![\w.,-])\d{3}\.\d{3}\.\d{3}-\d{2}(?!\w)"
    r"|(?<![\w.,-])\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}(?!\w)"
    r"|(?<![\w.,-])\d{5}-\d{3}(?!\w)"
)
_YEARS = re.compile(r"((?:1[0-9]|20)\d{2})-((?:1[0-9]|20)\d{2})")


def telephones(text: str) -> str:
    """Telephone numbers, CPF, CNPJ and CEP, digit by digit, with a pause between groups."""

    def spell(match: re.Match[str]) -> str:
        years = _YEARS.fullmatch(match[0])
        if years and years[1] < years[2]:
            return match[0]
        plus = "mais " if match[0].startswith("+") else ""
        return plus + digits(match[0], _LANGUAGE)

    return _PHONE.sub(spell, text)


_CURRENCIES = {
    "R$": ("real", "reais", "centavo", "centavos", False),
    "US$": ("dólar", "dólares", "centavo", "centavos", False),
    "€": ("euro", "euros", "centavo", "centavos", False),
    "£": ("libra", "libras", "pêni", "pence", True),
    "¥": ("iene", "ienes", "sen", "sen", False),
}
_CURRENCY_SIGN = r"(?:R\$|US?\$|\$|€|£|¥)"
_CURRENCY = re.compile(
    rf"(?i)(-\s?)?(?<!\w)({_CURRENCY_SIGN})\s?(-?{NUMBER})(?:\s?[-–]\s?({NUMBER}))?"
    rf"(?:\s(?:({_SCALES})\b)(\sde\b)?)?"
)
_CURRENCY_AFTER = re.compile(rf"(-?{NUMBER})\s?(€|£)")
_PER_UNIT = r"/\s?(?=[^\W\d])"


def _money(amount: str, sign: str, scale: str | None) -> str:
    sign = {"$": "US$", "U$": "US$"}.get(sign.upper(), sign.upper())
    one, many, cent, cents, feminine = _CURRENCIES[sign]
    minus = "menos " if amount.startswith("-") else ""
    amount = amount.removeprefix("-")
    if scale is not None:
        of = " de" if scale.lower() != "mil" else ""
        return f"{minus}{_number(amount, feminine)} {scale}{of} {many}"
    whole, _, fraction = amount.partition(",")
    if len(fraction) > 2:
        return f"{minus}{_number(amount)} {many}"
    units, hundredths = int(whole.replace(".", "")), int((fraction + "00")[:2])
    parts = []
    if units or not hundredths:
        words = _integer(whole, feminine)
        of = " de" if re.search(r"lh(?:ão|ões)$", words) else ""
        parts.append(f"{words}{of} {one if units == 1 else many}")
    if hundredths:
        parts.append(f"{cardinal(hundredths, _LANGUAGE)} {cent if hundredths == 1 else cents}")
    return minus + " e ".join(parts)


def currency(text: str) -> str:
    """R$, US$, €, £ and ¥ with cents, scales (R$ 2,5 milhões) and ranges (R$ 5-10)."""

    def speak(match: re.Match[str]) -> str:
        before, sign, amount, upper, scale, _ = match.groups()
        amount = f"-{amount}" if before and not amount.startswith("-") else amount
        first = f"{_number(amount)} a " if upper else ""
        return first + _money(upper or amount, sign, scale)

    if not re.search(r"[$€£¥]", text):
        return text
    text = _CURRENCY.sub(speak, text)
    text = _CURRENCY_AFTER.sub(lambda m: _money(m[1], m[2], None), text)
    text = re.sub(rf"(?<=reais|euros){_PER_UNIT}", " por ", text)
    return re.sub(
        rf"(?i){_CURRENCY_SIGN}",
        lambda m: " " + _CURRENCIES.get(m[0].upper(), _CURRENCIES["US$"])[1] + " ",
        text,
    )


_RANGE = re.compile(r"(?<=[\dh%])(?:-|\s?–\s?)(?=\d)(?!\d+-\d)")


def ranges(text: str) -> str:
    """10-20 and 14h–16h are said with `a`."""
    return _RANGE.sub(" a ", text)


_HOURS = re.compile(
    r"(?i)(?<![\w,.:])(\d{1,3})\s?(?:h|hs|hrs|horas)\s?([0-5]\d)\s?(?:min\b|m\b|minutos\b)?(?!\w)"
)
_ONLY_HOURS = re.compile(r"(?i)(?<![\w,.:])(\d{1,3})\s?(?:hs|hrs|h)(?![\w/])")
_CLOCK = re.compile(r"(?<![\w,.:/])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?:\s?hs?\b)?(?![\w:])")
_AT_HOUR = re.compile(r"(?i)\b(às|à|pelas) (\d{1,2})(?![\w:,%º])")


def _time(hour: str, minute: str | None, second: str | None = None) -> str:
    count = int(hour)
    words = f"{_to_feminine(cardinal(count, _LANGUAGE))} hora{'s' if count > 1 else ''}"
    parts = [
        f"{cardinal(int(part), _LANGUAGE)} {name}{'s' if int(part) > 1 else ''}"
        for part, name in ((minute, "minuto"), (second, "segundo"))
        if part is not None and int(part)
    ]
    if not parts:
        return words
    return f"{words}, {parts[0]} e {parts[1]}" if len(parts) == 2 else f"{words} e {parts[0]}"


def hours(text: str) -> str:
    """14h30, 14:30, 14h, 14:30:15, and the feminine after `às`."""
    text = _HOURS.sub(lambda m: _time(m[1], m[2]), text)
    text = _CLOCK.sub(lambda m: _time(m[1], m[2], m[3]), text)
    text = _ONLY_HOURS.sub(lambda m: _time(m[1], None), text)
    return _AT_HOUR.sub(lambda m: f"{m[1]} {_integer(m[2], feminine=True)}", text)


_PERCENT = re.compile(rf"((?:(?<![\w)])-)?{NUMBER})\s?([%‰])")


def percentages(text: str) -> str:
    """70%, 2,5%, 5‰."""
    return _PERCENT.sub(lambda m: f"{_number(m[1])} por {'cento' if m[2] == '%' else 'mil'} ", text)


_UNITS = {
    "km": ("quilômetro", "quilômetros"),
    "m": ("metro", "metros"),
    "dm": ("decímetro", "decímetros"),
    "cm": ("centímetro", "centímetros"),
    "mm": ("milímetro", "milímetros"),
    "nm": ("nanômetro", "nanômetros"),
    "µm": ("micrômetro", "micrômetros"),
    "km²": ("quilômetro quadrado", "quilômetros quadrados"),
    "m²": ("metro quadrado", "metros quadrados"),
    "cm²": ("centímetro quadrado", "centímetros quadrados"),
    "m³": ("metro cúbico", "metros cúbicos"),
    "cm³": ("centímetro cúbico", "centímetros cúbicos"),
    "ha": ("hectare", "hectares"),
    "kg": ("quilo", "quilos"),
    "g": ("grama", "gramas"),
    "mg": ("miligrama", "miligramas"),
    "µg": ("micrograma", "microgramas"),
    "mcg": ("micrograma", "microgramas"),
    "t": ("tonelada", "toneladas"),
    "L": ("litro", "litros"),
    "l": ("litro", "litros"),
    "ml": ("mililitro", "mililitros"),
    "mL": ("mililitro", "mililitros"),
    "dl": ("decilitro", "decilitros"),
    "dL": ("decilitro", "decilitros"),
    "min": ("minuto", "minutos"),
    "s": ("segundo", "segundos"),
    "seg": ("segundo", "segundos"),
    "ms": ("milissegundo", "milissegundos"),
    "°C": ("grau Celsius", "graus Celsius"),
    "°F": ("grau Fahrenheit", "graus Fahrenheit"),
    "°": ("grau", "graus"),
    "W": ("watt", "watts"),
    "kW": ("quilowatt", "quilowatts"),
    "MW": ("megawatt", "megawatts"),
    "GW": ("gigawatt", "gigawatts"),
    "kWh": ("quilowatt-hora", "quilowatts-hora"),
    "V": ("volt", "volts"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("quilohertz", "quilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "dB": ("decibel", "decibéis"),
    "KB": ("quilobyte", "quilobytes"),
    "kB": ("quilobyte", "quilobytes"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "Mbps": ("megabit por segundo", "megabits por segundo"),
    "kcal": ("quilocaloria", "quilocalorias"),
    "cal": ("caloria", "calorias"),
    "rpm": ("rotação por minuto", "rotações por minuto"),
    "bpm": ("batimento por minuto", "batimentos por minuto"),
}
_FEMININE_UNITS = {"t", "kcal", "cal", "rpm"}
_UNIT_SPELLINGS = {
    **{name: name for name in _UNITS},
    **{"Km": "km", "KM": "km", "Kg": "kg", "KG": "kg", "Cm": "cm", "CM": "cm", "MM": "mm"},
    **{"ML": "ml", "Ml": "ml", "KW": "kW", "KWh": "kWh", "kwh": "kWh", "khz": "kHz", "hz": "Hz"},
    **{f"{name}{power}": name + sign for name in ("km", "m", "cm") for power, sign in ("2²", "3³")},
    **{"º C": "°C", "ºC": "°C", "° C": "°C", "º F": "°F", "ºF": "°F", "° F": "°F"},
    **{"mts": "m", "gr": "g", "grs": "g", "kgs": "kg", "kms": "km"},
}
_UNIT_SPELLINGS = {spelling: name for spelling, name in _UNIT_SPELLINGS.items() if name in _UNITS}
_UNIT = "|".join(re.escape(u) for u in sorted(_UNIT_SPELLINGS, key=len, reverse=True))
_PER = {"h": "hora", "s": "segundo", "min": "minuto", "dia": "dia", "mês": "mês", "ano": "ano"}
_PER_NAMES = "|".join(sorted({*map(re.escape, _PER), _UNIT}, key=len, reverse=True))
_MEASURE = re.compile(rf"((?:(?<![\w)])-)?{NUMBER})\s?({_UNIT})(?:/({_PER_NAMES}))?(?![\w²³/])")
_BARE_UNIT = re.compile(
    rf"(?<![\w/])(km|Km|KM|kg|Kg|KG|cm|mm|ml|m²|km²)(?:/({_PER_NAMES}))?(?![\w²³/])"
)


def units(text: str) -> str:
    """2,5 km, 90 km/h, 30 °C, 50 m²: singular below two, gender of the unit, `por` for a slash."""

    def per(name: str | None) -> str:
        return f" por {_PER.get(name) or _UNITS[_UNIT_SPELLINGS[name]][0]}" if name else ""

    def measure(match: re.Match[str]) -> str:
        amount, spelling, divisor = match.groups()
        unit = _UNIT_SPELLINGS[spelling]
        form = _UNITS[unit][abs(_value(amount)) >= 2]
        return f"{_number(amount, unit in _FEMININE_UNITS)} {form}{per(divisor)}"

    text = _MEASURE.sub(measure, text)
    return _BARE_UNIT.sub(
        lambda m: _UNITS[_UNIT_SPELLINGS[m[1]]][0 if m[2] is None else 1] + per(m[2]), text
    )


_ORDINAL = re.compile(rf"(?<![\w,.])({INTEGER})\.?\s?([ºª])(s?)(?!\w)")
_TYPED_ORDINAL = re.compile(rf"(?<![\w,.])({INTEGER})([oa])(s?)(?!\w)")


def ordinals(text: str) -> str:
    """2ª, 1º, 3os, in the gender that the mark shows."""

    def speak(match: re.Match[str]) -> str:
        value = int(match[1].replace(".", ""))
        if not 0 < value < 10_000:
            return match[0]
        return _ordinal(value, match[2] in "ªa", plural=bool(match[3]))

    return _TYPED_ORDINAL.sub(speak, _ORDINAL.sub(speak, text))


_ROMAN = r"(?=[IVXLC])C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_ROMAN_AFTER = re.compile(
    r"(?<!\w)((?i:séculos?|sécs?\.|capítulos?|cap\.|cena|ato|papa|rei|dom|imperador|bento|"
    r"pio|leão|luís|henrique|filipe|felipe|pedro|joão|carlos|josé|maria|elizabeth|isabel|"
    r"francisco|paulo|gregório|clemente|alexandre|ricardo|eduardo|jorge|catarina|nicolau)"
    rf"(?:\s[A-ZÀ-Ý]\w+)?\s)({_ROMAN})(?![\w'-]|\.\w|\s?[º°])"
)
_SECOND_CENTURY = re.compile(rf"(?<=\d e |\w e )({_ROMAN})(?!\w)")
_LOWER_CENTURY = re.compile(r"\b(século |séc\. )([ivx]+)\b")
_ROMAN_PART = re.compile(
    r"(?<!\w)((?i:parte|volume|vol\.|tomo|fase|tipo|livro|título|anexo|artigo|"
    rf"grau|nível|etapa|módulo|unidade|classe|bloco)\s)({_ROMAN})(?![\w'-]|\.\w)"
)
_ROMAN_FIRST = re.compile(rf"(?<![\w-])({_ROMAN})(?<=[IVX]{{2}})(?=\s([A-ZÀ-Ý]\w+))")
_ROMAN_LAST = re.compile(rf"(?<=[a-zà-ý]\s)({_ROMAN})(?<=[IVX]{{2}})(?![\w'-]|\.\w)")
_FEMININE_RULERS = {"maria", "elizabeth", "isabel", "catarina", "rainha"}


def _roman_value(numeral: str) -> int:
    values = [_ROMAN_VALUES[letter] for letter in numeral.upper()]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


def _roman_rank(numeral: str, feminine: bool = False) -> str:
    """Ordinal up to ten, cardinal from there (Cunha & Cintra)."""
    value = _roman_value(numeral)
    return _ordinal(value, feminine) if value <= 10 else cardinal(value, _LANGUAGE)


def roman_numerals(text: str) -> str:
    """século XIX, capítulo IV, Dom Pedro II, II Guerra Mundial, parte III."""

    def ruler(match: re.Match[str]) -> str:
        feminine = bool(_FEMININE_RULERS & set(match[1].lower().split()))
        return match[1] + _roman_rank(match[2], feminine)

    def first(match: re.Match[str]) -> str:
        return _ordinal(_roman_value(match[1]), _feminine_noun(match[2], plural=False))

    def century(match: re.Match[str]) -> str:
        valid = re.fullmatch(_ROMAN, match[2].upper())
        return match[1] + _roman_rank(match[2]) if valid else match[0]

    several = re.search(r"(?i)\bséculos\b", text) is not None
    text = _ROMAN_AFTER.sub(ruler, text)
    if several:
        text = _SECOND_CENTURY.sub(lambda m: _roman_rank(m[1]), text)
    text = _LOWER_CENTURY.sub(century, text)
    text = _ROMAN_PART.sub(lambda m: m[1] + cardinal(_roman_value(m[2]), _LANGUAGE), text)
    text = _ROMAN_FIRST.sub(first, text)
    return _ROMAN_LAST.sub(lambda m: _roman_rank(m[1]), text)


_FRACTION = re.compile(r"(?<![\w/,.])(?:(\d+)\s)?(\d{1,3})/(\d{1,4})(?![\w/]|,\d)(?:\s(?=(\w+)))?")
_PARTS = {3: "terço", 100: "centésimo", 1000: "milésimo"}


def fractions(text: str) -> str:
    """1/2, 3/4, 2 1/2; other slashes between numbers are read `barra`."""

    def speak(match: re.Match[str]) -> str:
        whole, upper, lower, noun = match.groups()
        top, bottom = int(upper), int(lower)
        after = " " if noun else ""
        if not 0 < top < bottom:
            kept = f"{whole} " if whole else ""
            return f"{kept}{upper} barra {lower}{after}"
        if bottom == 2:
            words = "meia" if not whole and _feminine_noun(noun, plural=False) else "meio"
        else:
            name = _PARTS.get(bottom) or (
                _ordinal(bottom, False) if bottom <= 10 else f"{cardinal(bottom, _LANGUAGE)} avo"
            )
            words = f"{cardinal(top, _LANGUAGE)} {name}{'s' if top > 1 else ''}"
        return (f"{_integer(whole)} e " if whole else "") + words + after

    return _FRACTION.sub(speak, text) if "/" in text else text


_SIGNED = re.compile(r"(?<![\w)])([-+])\s?(?=\d)")
_TIMES = re.compile(r"(?<=\d)\s?[x×]\s?(?=\d)")
_TIMES_AFTER = re.compile(r"(?<=\d)\s?[x×](?!\w)")
_DOTTED = re.compile(r"(?<![\w,])\d+(?:\.\d+)+(?!\d)")
_LETTER_AFTER = re.compile(r"(\d)([A-Z])(?![\w'])")
_LETTERS_BEFORE = re.compile(rf"({LETTER})-?(?=\d)")
_LETTERS_AFTER = re.compile(rf"(\d)-?(?={LETTER})")
_PLAIN = re.compile(rf"{NUMBER}(?=(?:\s({LETTER}+))?)")


def numbers(text: str) -> str:
    """What digits are left: decimals, cardinals in the gender of their noun, versions, signs."""

    def dotted(match: re.Match[str]) -> str:
        if re.fullmatch(INTEGER, match[0]):
            return match[0]
        return " ponto ".join(_integer(part) for part in match[0].split("."))

    def plain(match: re.Match[str]) -> str:
        many = match[0] not in {"1", "01"}
        return _number(match[0], _feminine_noun(match[1], plural=many))

    if not re.search(r"\d", text):
        return text
    text = _TIMES_AFTER.sub(" vezes", _TIMES.sub(" por ", text))
    text = _SIGNED.sub(lambda m: "menos " if m[1] == "-" else "mais ", text)
    text = _DOTTED.sub(dotted, text)
    text = _LETTER_AFTER.sub(lambda m: f"{m[1]} {_LETTER_NAMES[m[2].lower()]}", text)
    text = _LETTERS_AFTER.sub(r"\1 ", _LETTERS_BEFORE.sub(r"\1 ", text))
    return _PLAIN.sub(plain, text)


_ABBREVIATIONS = {
    "dr": "doutor", "dra": "doutora", "drs": "doutores", "dras": "doutoras",
    "sr": "senhor", "sra": "senhora", "srs": "senhores", "sras": "senhoras",
    "srta": "senhorita", "prof": "professor", "profa": "professora", "profª": "professora",
    "exmo": "excelentíssimo", "exma": "excelentíssima", "ilmo": "ilustríssimo", "pe": "padre",
    "rev": "reverendo", "eng": "engenheiro", "gen": "general", "cel": "coronel",
    "ten": "tenente", "sgt": "sargento", "maj": "major", "gov": "governador",
    "pres": "presidente", "dep": "deputado", "sen": "senador", "ver": "vereador",
    "av": "avenida", "rod": "rodovia", "trav": "travessa", "pça": "praça", "jd": "jardim",
    "apto": "apartamento", "sto": "santo", "sta": "santa", "st": "santo",
    "tel": "telefone", "pág": "página", "págs": "páginas", "pag": "página",
    "cap": "capítulo", "art": "artigo", "vol": "volume", "séc": "século", "sécs": "séculos",
    "núm": "número", "obs": "observação", "máx": "máximo", "mín": "mínimo",
    "aprox": "aproximadamente", "vs": "versus", "etc": "etcétera", "ltda": "limitada",
    "ltd": "limitada", "cia": "companhia", "co": "companhia", "jr": "júnior",
    "depto": "departamento",
}  # fmt: skip
_TITLE_ONLY = {"ver", "ten", "pe", "gen"}
_ABBREVIATION = re.compile(rf"(?i)\b({'|'.join(sorted(_ABBREVIATIONS, key=len, reverse=True))})\.")
_SPECIAL_ABBREVIATIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\bp\.?\s?ex\."), "por exemplo"),
    (re.compile(r"(?i)\bn(?:\.\s?)?[º°]s\b"), "números"),
    (re.compile(r"(?i)\bn(?:\.\s?)?[º°](?!\w)"), "número"),
    (re.compile(r"№"), "número"),
    (re.compile(r"(?i)\bprof[ªa]\b\.?"), "professora"),
    (re.compile(r"(?i)\bdrª\b\.?"), "doutora"),
    (re.compile(r"(?i)\bsrª\b\.?"), "senhora"),
    (re.compile(r"\b[Vv]\.\s?[Ee]xa\."), "vossa excelência"),
    (re.compile(r"\bi\.\s?e\."), "isto é"),
    (re.compile(r"\bc/(?=\s|\w)"), "com "),
    (re.compile(r"\bp/(?=\s|\w)"), "para "),
    (re.compile(r"\bs/(?=\s|\w)"), "sem "),
    (re.compile(r"\bpp?\.\s?(?=\d|[a-zà-ý]+ (?:e|a) )"), "página "),
    (re.compile(r"\bD\.\s?(?=[A-ZÀ-Ý]\w+[aá]\b)"), "dona "),
    (re.compile(r"\bD\.\s?(?=(?:Pedro|João|Manuel|Afonso|Sebastião|Miguel|Dinis|Quixote)\b)"),
     "dom "),
    (re.compile(r"\bS\.\s?(?=(?:Paulo|João|José|Pedro|Luís|Bernardo|Caetano|Jorge)\b)"), "são "),
)  # fmt: skip
_CLOSING_ABBREVIATIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<!\w)a\.\s?C\."), "antes de Cristo"),
    (re.compile(r"(?<!\w)d\.\s?C\."), "depois de Cristo"),
    (re.compile(r"\bS\.\s?A\.|\bS/A\b\.?"), "esse a"),
)
_INITIALS = re.compile(r"\b([A-ZÀ-Ý])\.(?=\s?[A-ZÀ-Ý])")


def abbreviations(text: str) -> str:
    """Dr., Sra., Av., nº, etc.: the full stop stays only where it also ends a sentence."""

    def expand(match: re.Match[str]) -> str:
        short = match[1].lower()
        if short in _TITLE_ONLY and (match[1].islower() or not followed_by_new_sentence(match)):
            return match[0]
        words = _ABBREVIATIONS[short]
        if short == "cap" and followed_by_new_sentence(match) and match[1] != "cap":
            words = "capitão"
        ends = not match.string[match.end() :].strip() or (
            short in {"etc", "ltda", "ltd", "jr"} and followed_by_new_sentence(match)
        )
        return words + ("." if ends else "")

    def close(match: re.Match[str], words: str) -> str:
        ends = match[0].endswith(".") and followed_by_new_sentence(match)
        return words + ("." if ends else "")

    for pattern, words in _CLOSING_ABBREVIATIONS:
        text = pattern.sub(partial(close, words=words), text)
    for pattern, words in _SPECIAL_ABBREVIATIONS:
        text = pattern.sub(words, text)
    return _INITIALS.sub(r"\1 ", _ABBREVIATION.sub(expand, text))


_ACRONYMS = {
    "IBGE": "i bê gê é", "INSS": "i ene esse esse", "EUA": "Estados Unidos", "STF": "esse tê efe",
    "BNDES": "bê ene dê e esse", "OAB": "o a bê", "IPTU": "i pê tê u", "IPVA": "i pê vê a",
    "ICMS": "i cê eme esse", "PIB": "pib", "ONG": "ong", "ONGs": "ongs", "AM": "a eme", "IA": "i a",
}  # fmt: skip
_ACRONYM = re.compile(rf"(?<![\w'])(?:{'|'.join(_ACRONYMS)}|[B-DF-HJ-NP-TV-XZ]{{1,5}})(?![\w'.])")
_DOTTED_ACRONYM = re.compile(r"(?<!\w)(?:[A-Z]\.){2,}")


def acronyms(text: str) -> str:
    """Capitals without a vowel, and a few known acronyms, letter by letter; others are words."""
    if text.isupper():
        return text
    text = _DOTTED_ACRONYM.sub(lambda m: m[0].replace(".", ""), text)
    return _ACRONYM.sub(
        lambda m: _ACRONYMS.get(m[0]) or " ".join(_LETTER_NAMES[c] for c in m[0].lower()), text
    )


_SYMBOLS = {
    "&": " e ", "+": " mais ", "=": " igual a ", "@": " arroba ", "%": " por cento ",
    "°": " graus ", "<": " menor que ", ">": " maior que ", "×": " vezes ", "÷": " dividido por ",
    "±": " mais ou menos ", "§": " parágrafo ", "€": " euros ", "£": " libras ", "¥": " ienes ",
    "$": " dólares ", "/": " ",
}  # fmt: skip
_SYMBOL = re.compile(f"[{re.escape(''.join(_SYMBOLS))}]")
_HASHTAG = re.compile(r"#(?=\w)")


def symbols(text: str) -> str:
    """&, +, =, @, #…: said where they have a name, dropped where not."""
    return _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], _HASHTAG.sub(" hashtag ", text))


_RULES: tuple[Rule, ...] = (
    prepare,
    addresses,
    dates,
    telephones,
    currency,
    ranges,
    hours,
    percentages,
    units,
    ordinals,
    roman_numerals,
    fractions,
    numbers,
    abbreviations,
    acronyms,
    symbols,
    finish,
)


@settled
def normalize(text: str) -> str:
    """`text` in words; see the rules of this module."""
    for rule in _RULES:
        text = rule(text)
    return text
