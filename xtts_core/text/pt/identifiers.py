"""Numbers that name and count nothing: telephones, documents, plates, codes, versions."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, when
from xtts_core.text.numbers import INTEGER
from xtts_core.text.pt.acronyms import READ, acronym
from xtts_core.text.pt.grammar import digit_by_digit, integer, spelled

_TELEPHONE = re.compile(
    r"(?<![\w.,/-])(?:\+\d{1,3}[\s-]?)?(?:\(\d{2,3}\)\s?|\b\d{2}\s)?(?:9\s?)?\d{4}-\d{4}(?![\w/-])"
    r"|(?<![\w.,-])0[3589]00[\s-]?\d{3}[\s-]?\d{3,4}(?!\w)"
)
_YEARS = re.compile(r"((?:1[0-9]|20)\d{2})-((?:1[0-9]|20)\d{2})")


@when(r"\d{3}")
def telephones(text: str) -> str:
    """Digit by digit, with a pause between groups; six is `seis`."""

    def spell(match: re.Match[str]) -> str:
        years = _YEARS.fullmatch(match[0])
        if years and years[1] < years[2]:
            return match[0]
        plus = "mais " if match[0].startswith("+") else ""
        return plus + digit_by_digit(match[0])

    return _TELEPHONE.sub(spell, text)


_DOCUMENT = re.compile(
    r"(?<![\w.,-])(?:\d{3}\.\d{3}\.\d{3}-\d{2}"  # CPF
    r"|\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}"  # CNPJ
    r"|\d{1,2}\.\d{3}\.\d{3}-\d"  # RG
    r"|\d{5}-\d{3}"  # CEP
    r"|\d{7}-\d{2}\.\d{4}\.\d\.\d{2}\.\d{4})(?!\w)"  # process of a court
    r"|(?i:(?<=\bconta )|(?<=\bconta corrente )|(?<=\bagência ))\d{3,}(?:-\d)?(?![\w/-]|[.,]\d)"
)
_PLATE = re.compile(r"\b([A-Z]{3})(\d)([A-Z])(\d{2})\b|(?i:(?<=placa ))([A-Z]{3})[-\s]?(\d{4})\b")
_LONG_NUMBER = re.compile(r"(?<![\w.,/-])\d{10,}(?<!000)(?![\w/-]|[.,]\d)")


@when(r"\d{2}")
def documents(text: str) -> str:
    """CPF, CNPJ, RG, CEP, lawsuits, bank accounts, number plates, and ten digits or more in a
    row: one by one."""

    def plate(match: re.Match[str]) -> str:
        return " ".join(
            spelled(part) if part.isalpha() else digit_by_digit(part)
            for part in match.groups()
            if part
        )

    text = _DOCUMENT.sub(lambda m: digit_by_digit(m[0]), text)
    return _LONG_NUMBER.sub(lambda m: digit_by_digit(m[0]), _PLATE.sub(plate, text))


_CODE = re.compile(r"(?<![\w-])(?=[A-Z-]*\d)(?=[\d-]*[A-Z])[A-Z\d]+(?:-[A-Z\d]+)*(?![\w-])")
_RUN = re.compile(r"-?[A-Z]+-?|\d+")
_CODE_WITH_POINT = re.compile(r"(?<![\w-])([A-Z]{1,3}\d{1,2})\.(?=\d(?![\w.]))")
_THOUSANDS = re.compile(r"(?<=\d)\s?k\b")
_VERSION_LETTER = re.compile(r"(?<!\w)v\.?(?=\d)")


@when(r"\d")
def codes(text: str) -> str:
    """Capitals joined with digits (A4, CO2, AI-5): spelt where joined directly, else read as an
    acronym; 10k is ten thousand, v2 is `vê dois`."""

    def word(run: str) -> str:
        letters = run.strip("-")
        if letters.isdecimal():
            return integer(letters)
        short = len(letters) <= (2 if "-" in run else 3) and letters not in READ
        return spelled(letters) if short else acronym(letters)

    text = _VERSION_LETTER.sub("vê ", _THOUSANDS.sub(" mil", text))
    text = _CODE_WITH_POINT.sub(r"\1 vírgula ", text)
    return _CODE.sub(lambda m: " ".join(map(word, _RUN.findall(m[0]))), text)


_DOTTED = re.compile(r"(?<![\w,])\d+(?:\.\d+)+(?!\d)")


@when(r"\d\.\d")
def versions(text: str) -> str:
    """3.11 and 192.168.0.1: a full stop that parts no thousands is read `ponto`."""

    def speak(match: re.Match[str]) -> str:
        if re.fullmatch(INTEGER, match[0]):
            return match[0]
        return " ponto ".join(integer(part) for part in match[0].split("."))

    return _DOTTED.sub(speak, text)


_JOINED = re.compile(rf"(?<={LETTER})-?(?=\d)|(?<=\d)-?(?={LETTER})")


def parted(text: str) -> str:
    """Letters and digits that are still joined, with a space between."""
    return _JOINED.sub(" ", text)
