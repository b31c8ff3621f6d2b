"""Money."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, when
from xtts_core.text.numbers import NUMBER, spoken_value
from xtts_core.text.pt.grammar import SCALES, cardinal, integer, number, value_of
from xtts_core.text.pt.units import divisor

_CURRENCIES = {
    "R$": ("real", "reais", "centavo", "centavos", False),
    "US$": ("dólar", "dólares", "centavo", "centavos", False),
    "€": ("euro", "euros", "centavo", "centavos", False),
    "£": ("libra", "libras", "pêni", "pence", True),
    "¥": ("iene", "ienes", "sen", "sen", False),
}
_SIGN = r"(?:R\$|US?\$|\$|€|£|¥)"
_SHORT_SCALES = {
    "k": ("mil", "mil"),
    "mi": ("milhão", "milhões"),
    "bi": ("bilhão", "bilhões"),
    "tri": ("trilhão", "trilhões"),
}
_SCALE = rf"(?:\s(?P<scale>{SCALES})|\s?(?P<short>k|mi|bi|tri))\b"
_NAME = r"(?:\s(?:de\s)?(?:reais|dólares|euros|libras|ienes)\b)?"
_PER = rf"(?:/\s?(?P<per>{LETTER}+[²³]?)(?!\w))?"
_CURRENCY = re.compile(
    rf"(?i)(?P<minus>-\s?)?(?<!\w)(?P<sign>{_SIGN})\s?(?P<amount>-?{NUMBER})"
    rf"(?:\s?[-–]\s?(?P<upper>{NUMBER}))?(?:{_SCALE})?{_NAME}{_PER}"
)
_CURRENCY_AFTER = re.compile(rf"(?i)(?P<amount>-?{NUMBER})(?:{_SCALE})?\s?(?P<sign>€|£){_PER}")
_SIGN_OF_NAME = {name: sign for sign, names in _CURRENCIES.items() for name in names[:2]}
_NAMED_WITH_CENTS = re.compile(
    rf"(?i)(?<![\w.,])(?P<amount>{NUMBER}(?<=,\d\d))\s(?P<name>{'|'.join(_SIGN_OF_NAME)})\b"
)
_CENTS = re.compile(rf"({NUMBER})\s?¢")
_ALONE = re.compile(rf"(?i){_SIGN}{_PER}")


def _currency(sign: str) -> tuple[str, str, str, str, bool]:
    return _CURRENCIES.get(sign.upper()) or _CURRENCIES["US$"]


def _money(amount: str, sign: str, scale: str | None) -> str:
    one, many, cent, cents, feminine = _currency(sign)
    minus = "menos " if amount.startswith("-") else ""
    amount = amount.removeprefix("-")
    if scale == "mil":
        thousands = "" if amount == "1" else f"{number(amount, feminine)} "
        return f"{minus}{thousands}mil {many}"
    if scale is not None:
        return f"{minus}{number(amount)} {scale} de {many}"
    whole, _, fraction = amount.partition(",")
    if len(fraction) > 2:
        return f"{minus}{number(amount, feminine)} {many}"
    units, hundredths = spoken_value(whole.replace(".", "")), int((fraction + "00")[:2])
    parts = []
    if units or not hundredths:
        words = integer(whole, feminine)
        of = " de" if re.search(r"lh(?:ão|ões)$", words) else ""
        parts.append(f"{words}{of} {one if units == 1 else many}")
    if hundredths:
        parts.append(f"{cardinal(hundredths)} {cent if hundredths == 1 else cents}")
    return minus + " e ".join(parts)


def _scale(match: re.Match[str]) -> str | None:
    if match["short"]:
        one, many = _SHORT_SCALES[match["short"].lower()]
        whole = match["amount"].lstrip("-").partition(",")[0]
        return one if whole in {"0", "1"} else many
    return match["scale"].lower() if match["scale"] else None


@when(r"[$€£¥¢]|,\d\d\s")
def currency(text: str) -> str:
    """R$, US$, €, £ and ¥ with cents, scales (R$ 2,5 milhões), ranges (R$ 5-10), R$ 7/kg;
    cents before the name of the money (7,50 reais) and 50 ¢."""

    def per(match: re.Match[str]) -> str:
        return f" por {divisor(match['per'])}" if match["per"] else ""

    def speak(match: re.Match[str]) -> str:
        amount, upper, feminine = match["amount"], match["upper"], _currency(match["sign"])[4]
        if match["minus"] and not amount.startswith("-"):
            amount = f"-{amount}"
        between = match.string[: match.start()].lower().endswith("entre ")
        first = f"{number(amount, feminine)} {'e' if between else 'a'} " if upper else ""
        return first + _money(upper or amount, match["sign"], _scale(match)) + per(match)

    text = _CURRENCY.sub(speak, text)
    text = _CURRENCY_AFTER.sub(lambda m: _money(m["amount"], m["sign"], _scale(m)) + per(m), text)
    text = _CENTS.sub(lambda m: f"{number(m[1])} centavo{'s' if value_of(m[1]) >= 2 else ''}", text)
    text = _NAMED_WITH_CENTS.sub(
        lambda m: _money(m["amount"], _SIGN_OF_NAME[m["name"].lower()], None), text
    )
    return _ALONE.sub(lambda m: f" {_currency(m[0].partition('/')[0])[1]}{per(m)} ", text)
