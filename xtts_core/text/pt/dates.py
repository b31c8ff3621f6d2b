"""Dates, years and hours."""

from __future__ import annotations

import re

from xtts_core.text.common import when
from xtts_core.text.numbers import INTEGER
from xtts_core.text.pt.grammar import MONTHS, PLURAL_NOUN_AFTER, cardinal, integer

_MONTH = "|".join(MONTHS)
_SHORT_MONTHS = {name[:3]: name for name in MONTHS}
_SHORT_MONTH = "|".join(_SHORT_MONTHS)

_DATE = re.compile(r"(?<![\d/.])(\d{1,2})º?([/.-])(\d{1,2})\2(\d{4}|\d{2})(?![\d/]|\.\d|-\d)")
_ISO_DATE = re.compile(
    r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)"
    r"(?:[T ]([01]\d|2[0-4]):([0-5]\d)(?::([0-5]\d)(?:[.,]\d+)?)?"
    r"(?:Z|[+-]\d\d(?::?\d\d)?)?(?![\w:]))?"
)
_NAMED_DATE = re.compile(
    rf"(?i)(?<![\d/])(\d{{1,2}})([/-])({_SHORT_MONTH})\2(\d{{4}}|\d{{2}})(?!\d)"
)
_SHORT_MONTH_AFTER_DAY = re.compile(
    rf"(?i)(\d[ºo]?)\s(?:de\s)?({_SHORT_MONTH})\.(?:\s(?:de\s)?(?=\d))?"
)
_DAY_MONTH = re.compile(r"(?<![\d/,.])(\d{1,2})/(\d{2})(?![\d/])(\sd[aeo]s?\b)?")
_SAID_DAY_MONTH = re.compile(r"(?i)\b(dia|a partir de|desde|até|em) (\d{1,2})/(\d{1,2})(?![\d/])")
_MONTH_YEAR = re.compile(r"(?<![\d/.])(\d{1,2})/(\d{4})(?![\d/])")
_SHORT_MONTH_YEAR = re.compile(rf"(?i)(?<!\w)({_SHORT_MONTH})\.?/(\d{{4}}|\d{{2}})(?![\d/])")
_NORM = re.compile(
    r"(?i)\b((?:(?:lei|decreto|decreto-lei|resolução|processo|edital|portaria|medida provisória"
    r"|emenda|projeto de lei|instrução normativa|ato|parecer|ofício|contrato|pregão"
    r"|MP|PEC|PL|PLP)"
    r"(?:\s(?:complementar|ordinária|federal|estadual|municipal|conjunta|eletrônico"
    r"|constitucional|normativa))?(?:,?\snúmero)?|número(?=\s[\d.]+/\d{4}))\s)"
    rf"({INTEGER})/(\d{{4}}|\d{{2}})(?![\d/])"
)
_ROW = re.compile(r"(?<![\w.,/-])\d{1,3}(?:-\d{1,3}){2,}(?![\w/-]|[.,]\d)")
_FIRST_DAY = re.compile(rf"(?i)\b0?1\s?(?:\.?[ºo])?(?=\s+de\s+(?:{_MONTH})\b)")
_PADDED_DAY = re.compile(rf"(?i)\b0([2-9])(?=\s+de\s+(?:{_MONTH})\b)")


def _date(day: str, month: str, year: str | None) -> str | None:
    if not (1 <= int(day) <= 31 and 1 <= int(month) <= 12):
        return None
    spoken_day = "primeiro" if int(day) == 1 else cardinal(int(day))
    words = f"{spoken_day} de {MONTHS[int(month) - 1]}"
    return f"{words} de {integer(year.lstrip('0') or '0')}" if year else words


@when(r"\d")
def dates(text: str) -> str:
    """15/03/2023, 2023-03-15, 15/03, 03/2023, 3/jul/1999, 20 jan. 2021, 1º de dezembro, the time
    after an ISO date, and the number and year of a law; a row such as 4-4-2 that is no date is
    parted by commas, and 1/10 before de, do, da is a fraction."""

    def row(match: re.Match[str]) -> str:
        date = _DATE.fullmatch(match[0])
        is_date = date and _date(date[1], date[3], date[4])
        return match[0] if is_date else match[0].replace("-", ", ")

    def iso(match: re.Match[str]) -> str:
        date = _date(match[3], match[2], match[1])
        if date is None:
            return match[0]
        if match[4]:
            return f"{date} {'às' if int(match[4]) > 1 else 'à'} {_time(*match.groups()[3:])}"
        return date + (" " if match.string[match.end() :][:1].isalpha() else "")

    def named(match: re.Match[str]) -> str:
        month = _SHORT_MONTHS[match[3].lower()]
        return _date(match[1], str(MONTHS.index(month) + 1), match[4]) or match[0]

    def written_out(match: re.Match[str]) -> str:
        year = " de " if match[0][-1].isspace() else ""
        return f"{match[1]} de {_SHORT_MONTHS[match[2].lower()]}{year}"

    def day_and_month(match: re.Match[str]) -> str:
        day, month, of = match.groups("")
        if of and not day.startswith("0") and int(day) < int(month):
            return match[0]
        return (date + of) if (date := _date(day, month, None)) else match[0]

    def said(match: re.Match[str]) -> str:
        date = _date(match[2], match[3], None)
        part = match[1].lower() in {"até", "em"} and int(match[2]) <= int(match[3])
        return f"{match[1]} {date}" if date and not part else match[0]

    def month_and_year(match: re.Match[str]) -> str:
        month = int(match[1])
        return f"{MONTHS[month - 1]} de {integer(match[2])}" if 1 <= month <= 12 else match[0]

    text = _ROW.sub(row, text)
    text = _NORM.sub(lambda m: f"{m[1]}{integer(m[2])} de {integer(m[3].lstrip('0') or '0')}", text)
    text = _DATE.sub(lambda m: _date(m[1], m[3], m[4]) or m[0], text)
    text = _ISO_DATE.sub(iso, text)
    text = _SHORT_MONTH_AFTER_DAY.sub(written_out, _NAMED_DATE.sub(named, text))
    text = _SAID_DAY_MONTH.sub(said, text)
    text = _MONTH_YEAR.sub(month_and_year, _DAY_MONTH.sub(day_and_month, text))
    text = _SHORT_MONTH_YEAR.sub(
        lambda m: f"{_SHORT_MONTHS[m[1].lower()]} de {integer(m[2].lstrip('0') or '0')}", text
    )
    return _PADDED_DAY.sub(r"\1", _FIRST_DAY.sub("primeiro", text))


_YEAR = re.compile(
    r"(?i)\b((?:em|desde|ano|ano de|década de) )(1[1-9]\d\d|20\d\d)(?![\w/]|[.,]\d|-\d)"
)


@when(r"\d")
def years(text: str) -> str:
    """Em 1922: cardinals that agree with nothing (a round hundred may count something)."""
    return _YEAR.sub(lambda m: m[1] + (integer(m[2]) if int(m[2]) % 100 else m[2]), text)


_VERSE = re.compile(
    r"\b((?:Gênesis|Êxodo|Levítico|Números|Deuteronômio|Josué|Juízes|Rute|Samuel|Reis|Crônicas"
    r"|Esdras|Neemias|Ester|Jó|Salmos?|Provérbios|Eclesiastes|Isaías|Jeremias|Lamentações|Ezequiel"
    r"|Daniel|Oseias|Joel|Amós|Jonas|Miqueias|Habacuque|Zacarias|Malaquias|Mateus|Marcos|Lucas"
    r"|João|Atos|Romanos|Coríntios|Gálatas|Efésios|Filipenses|Colossenses|Tessalonicenses"
    r"|Timóteo|Tito|Hebreus|Tiago|Pedro|Judas|Apocalipse)\s\d{1,3}):(?=\d)"
)
_MINUTE_SIGN = r"(?:minutos|min|m)\b"
_SECOND_SIGN = r"(?:segundos|seg|s)"
_HOURS = re.compile(
    r"(?i)(?<![\w,.:/])(\d{1,3})\s?(?:h|hs|hrs|horas)"
    rf"(?:([0-5]\d)(?:\s?{_MINUTE_SIGN})?|\s?([0-5]?\d)\s?(?:minutos|min)"
    rf"(?:\s?([0-5]?\d)\s?{_SECOND_SIGN})?)(?!\w)"
)
_SPACED_HOURS = re.compile(
    rf"(?<![\w,.:])(\d{{1,2}})\sh\s([0-5]\d)(?!\w|[,.:/-]\d|\s?[%°]|{PLURAL_NOUN_AFTER})"
)
_MINUTES = re.compile(
    rf"(?i)(?<![\w,.:])(\d{{1,3}})\s?(?:minutos|min)\s?([0-5]?\d)\s?{_SECOND_SIGN}(?!\w)"
)
_ONLY_HOURS = re.compile(
    r"(?i)(?<![\w,.:/])(\d{1,3})\s?(?:hs|hrs|h)(?:/(dia|semana|mês|ano))?(?![\w/])"
)
_CLOCK = re.compile(r"(?<![\w,.:/])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?:\s?hs?\b)?(?![\w:])")
_AT_HOUR = re.compile(r"(?i)\b(às|à|pelas) (\d{1,2})(?![\w:,%º])")


def _counted(amount: str | None, name: str) -> list[str]:
    if amount is None or int(amount) == 0:
        return []
    return [f"{cardinal(int(amount))} {name}{'s' if int(amount) > 1 else ''}"]


def _time(hour: str, minute: str | None, second: str | None = None) -> str:
    hours = f"{cardinal(int(hour), feminine=True)} hora{'s' if int(hour) > 1 else ''}"
    *first, last = [hours, *_counted(minute, "minuto"), *_counted(second, "segundo")]
    return f"{', '.join(first)} e {last}" if first else last


@when(r"\d")
def hours(text: str) -> str:
    """14h30, 14:30, 14 h 30, 14h, 14:30:15, 2min30s, 12h/dia, and the feminine
    after `às`; João 3:16 is a verse."""
    text = _VERSE.sub(r"\1, ", text)
    text = _HOURS.sub(lambda m: _time(m[1], m[2] or m[3], m[4]), text)
    text = _SPACED_HOURS.sub(lambda m: _time(m[1], m[2]), text)
    text = _MINUTES.sub(
        lambda m: " e ".join(_counted(m[1], "minuto") + _counted(m[2], "segundo")) or m[0], text
    )
    text = _CLOCK.sub(lambda m: _time(m[1], m[2], m[3]), text)
    text = _ONLY_HOURS.sub(lambda m: _time(m[1], None) + (f" por {m[2]}" if m[2] else ""), text)
    return _AT_HOUR.sub(lambda m: f"{m[1]} {integer(m[2], feminine=True)}", text)
