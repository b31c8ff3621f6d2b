"""Portuguese as it is spoken in Brazil.

The rules run in the order of `_RULES`; each is a function with the name it has in
tests/text/pt_br.tsv and docs/text.md. Grammar after Cunha & Cintra, "Nova gramática do português
contemporâneo", chapter 14 (numerals): kings, popes, centuries and chapters take ordinals up to
ten and cardinals from there; the first day of a month is an ordinal; 1, 2 and the hundreds agree
with the noun. English words stay as they are written: XTTS is multilingual and reads them.
"""

from __future__ import annotations

from xtts_core.text.common import Rule, normaliser
from xtts_core.text.pt.abbreviations import abbreviations
from xtts_core.text.pt.acronyms import acronyms
from xtts_core.text.pt.addresses import addresses
from xtts_core.text.pt.currency import currency
from xtts_core.text.pt.dates import dates, hours, years
from xtts_core.text.pt.identifiers import codes, documents, telephones, versions
from xtts_core.text.pt.numbers import decimals, numbers, ordinals
from xtts_core.text.pt.quantities import fractions, mathematics, percentages, ranges, scores, signs
from xtts_core.text.pt.roman import roman_numerals
from xtts_core.text.pt.symbols import symbols
from xtts_core.text.pt.units import units

_RULES: tuple[Rule, ...] = (
    addresses,
    abbreviations,
    dates,
    years,
    telephones,
    documents,
    decimals,
    currency,
    mathematics,
    scores,
    ranges,
    hours,
    percentages,
    fractions,
    units,
    ordinals,
    roman_numerals,
    codes,
    signs,
    versions,
    numbers,
    acronyms,
    symbols,
)

normalize = normaliser(_RULES)
