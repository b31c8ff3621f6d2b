"""Signs with a name."""

from __future__ import annotations

import re

from xtts_core.text.common import when

_SYMBOLS = {
    "&": " e ", "+": " mais ", "=": " igual a ", "@": " arroba ", "%": " por cento ",
    "°": " graus ", "<": " menor que ", ">": " maior que ", "×": " vezes ", "÷": " dividido por ",
    "±": " mais ou menos ", "§": " parágrafo ", "€": " euros ", "£": " libras ", "¥": " ienes ",
    "$": " dólares ", "/": " ", "≥": " maior ou igual a ", "≤": " menor ou igual a ",
    "≠": " diferente de ", "≈": " aproximadamente ", "√": " raiz quadrada de ",
    "∞": " infinito ", "π": " pi ", "‰": " por mil ",
}  # fmt: skip
_SYMBOL = re.compile(f"[{re.escape(''.join(_SYMBOLS))}]")
_HASHTAG = re.compile(r"#(\w+)")
_CAMEL = re.compile(r"(?<=[a-zà-ÿ])(?=[A-ZÀ-Ý])")


@when(f"[#{re.escape(''.join(_SYMBOLS))}]")
def symbols(text: str) -> str:
    """&, +, =, @, #…: said where they have a name, dropped where not."""
    text = _HASHTAG.sub(lambda m: f" hashtag {_CAMEL.sub(' ', m[1])}", text)
    return _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)
