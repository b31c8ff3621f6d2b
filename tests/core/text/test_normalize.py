from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_core.text import LanguageError, languages, normalize, split_sentences

REPOSITORY = Path(__file__).parents[3]
DEMO = REPOSITORY / "examples/demo"
with (REPOSITORY / "tests/text/pt_br.tsv").open(encoding="utf-8", newline="") as _file:
    CASES = list(csv.DictReader(_file, delimiter="\t", quoting=csv.QUOTE_NONE))
SENTENCES = [
    sentence
    for name in ("feira-dora", "cidade-alex")
    for sentence in json.loads((DEMO / f"{name}.truth.json").read_text(encoding="utf-8"))["speech"]
]
ODD = st.sampled_from(
    [
        *"0123456789.,-/:%$€£°ºª²⁶^~√h  '\"“()–—&@#+=!?…IVX½",
        *(
            " R$ ",
            "av",
            "dr",
            "km",
            " x ",
            "1/2",
            "mm3",
            " — ",
            "x²",
            "¢",
            "<b>",
            " e 1/2 ",
            "T09:00",
        ),
        # ASCII letters to a pattern that ignores case.
        *("İ", "ı", "ſ", "\u212a", "maı"),
    ]
)
TEXTS = st.lists(
    st.one_of(st.text(max_size=8), ODD, st.sampled_from([c["input"] for c in CASES])), max_size=8
).map("".join)
WORDS = sorted({w for s in SENTENCES for w in re.findall(r"[a-zà-ÿ]{4,}", s["spoken"])})
MARKED = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from(["", ",", ";", ":", ".", "?", "!", "..."])),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("case", CASES, ids=[f"{c['rule']}-{c['input']}" for c in CASES])
def test_the_table_of_brazilian_portuguese_holds(case: dict[str, str]) -> None:
    assert normalize(case["input"], "pt-BR") == case["output"]


@pytest.mark.parametrize("sentence", SENTENCES, ids=[s["text"] for s in SENTENCES])
def test_a_written_sentence_and_its_spoken_form_become_one(sentence: dict[str, str]) -> None:
    assert normalize(sentence["text"], "pt") == normalize(sentence["spoken"], "pt")


def test_the_rules_of_the_table_are_those_of_the_documentation() -> None:
    page = (REPOSITORY / "docs/text.md").read_text(encoding="utf-8")
    documented = re.findall(r"^### `(\w+)`$", page, flags=re.MULTILINE)
    assert sorted(documented) == sorted({case["rule"] for case in CASES} | {"signs"})


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.sampled_from(["pt", "en", "es"]))
def test_normalising_twice_changes_nothing(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.sampled_from(["pt", "en", "es"]))
def test_no_digit_quote_or_symbol_is_left(text: str, language: str) -> None:
    spoken = normalize(text, language)
    assert all(c.isalpha() or c in " .,?!;:'-" for c in spoken)
    assert spoken == " ".join(spoken.split())
    assert spoken == spoken.lower()
    assert not set(spoken) & set("ªº")


@pytest.mark.parametrize("language", ["pt", "en", "es"])
@pytest.mark.parametrize(
    "written", ["{}", "a{}", "{}000", "R$ {}", "{}º", "{}th", "{} 1/2", "0,{}"]
)
def test_a_number_of_any_length_is_read(written: str, language: str) -> None:
    digit = {"pt": "três", "en": "three", "es": "tres"}[language]
    assert normalize(written.format("3" * 5000), language).count(digit) >= 4999


@settings(deadline=None, max_examples=200)
@given(MARKED, st.sampled_from(["pt", "en", "es"]))
def test_marks_that_carry_prosody_stay_where_they_are(
    marked: list[tuple[str, str]], language: str
) -> None:
    text = " ".join(word + mark for word, mark in marked)
    assert normalize(text.title(), language) == text


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LanguageError, match=r"'tlh'.*en, es, pt"):
        normalize("nuqneH", "tlh")
    assert languages() == ["en", "es", "pt"]


@pytest.mark.parametrize("tag", ["pt-PT", "PT-br", "en-US", "es-MX"])
def test_a_region_is_spoken_by_its_language(tag: str) -> None:
    assert normalize("20 %", tag) == normalize("20 %", tag[:2].lower())


@pytest.mark.parametrize(
    ("language", "text", "spoken"),
    [
        ("en", "Dr. Smith paid $1,234.50.",
         "doctor smith paid one thousand two hundred and thirty four dollars and fifty cents."),
        ("en", "The 21st of May, 1999", "the twenty first of may, nineteen ninety nine"),
        ("en", "It's 50% off & 2.5 km away.",
         "it's fifty percent off and two point five kilometers away."),
        ("en", "At 10:05 St. Paul's opened.", "at ten oh five saint paul's opened."),
        ("en", "Mrs. Lee ran 26.2 miles in 1 km splits.",
         "missus lee ran twenty six point two miles in one kilometer splits."),
        ("en", "Section 3, the 101st page: -5 °C, 10⁶ cells.",
         "section three, the one hundred and first page: minus five degrees celsius, "
         "ten to the power of six cells."),
        ("en", "It cost $5M, then $3bn.",
         "it cost five million dollars, then three billion dollars."),
        ("en", "Henry VIII and World War II", "henry the eighth and world war two"),
        ("en", "Call 1-800-555-0199.",
         "call one, eight zero zero, five five five, zero one nine nine."),
        ("en", "World War I ended, James I think.", "world war one ended, james i think."),
        ("en", "On 2023-03-15", "on march fifteenth, twenty twenty three"),
        ("en", "Use 1/2 cup and 2 1/2 spoons of it.",
         "use half a cup and two and a half spoons of it."),
        ("en", "At 2:30 p.m., i.e. late.", "at two thirty p m, that is late."),
        ("en", "Mail john.doe@mail.com now.", "mail john dot doe at mail dot com now."),
        ("es", "En el siglo XXI, Felipe VI e Isabel II",
         "en el siglo veintiuno, felipe sexto e isabel segunda"),
        ("es", "El 15/03 compró 1/2 litro y 3 L.",
         "el quince de marzo compró medio litro y tres litros."),
        ("en", "<b>Gum</b> is 50¢.", "gum is fifty cents."),
        ("es", "Un <i>chicle</i> de 50 ¢.", "un chicle de cincuenta centavos."),
        ("es", "Dña. Ana y D. Luis van a EE. UU. hoy.",
         "doña ana y don luis van a estados unidos hoy."),
        ("es", "Tel. de casa", "teléfono de casa"),
        ("es", "El 1er piso, 21 casas y 3,05 km.",
         "el primer piso, veintiuna casas y tres coma cero cinco kilómetros."),
        ("es", "La Sra. López pagó 7,50 €.",
         "la señora lópez pagó siete euros con cincuenta céntimos."),
        ("es", "El 2º piso, 65.000 personas y 20 %.",
         "el segundo piso, sesenta y cinco mil personas y veinte por ciento."),
        ("es", "¿A las 14:30? ¡Sí!", "a las catorce y treinta? sí!"),
    ],
)  # fmt: skip
def test_other_languages_go_through_the_same_door(language: str, text: str, spoken: str) -> None:
    assert normalize(text, language) == spoken


def test_a_text_is_split_into_its_sentences() -> None:
    text = "Custa R$ 5,00 por quilo. Quem compra hoje? O Dr. Silva comprou, e voltou para casa!"
    assert split_sentences(text, "pt", 203) == [
        "custa cinco reais por quilo.",
        "quem compra hoje?",
        "o doutor silva comprou, e voltou para casa!",
    ]


def test_a_short_sentence_joins_its_neighbour() -> None:
    assert split_sentences("Não! Isso não pode ser assim.", "pt", 203) == [
        "não! isso não pode ser assim."
    ]


@given(TEXTS, st.integers(10, 80))
@settings(deadline=None, max_examples=150)
def test_no_piece_is_too_long_and_none_is_lost(text: str, limit: int) -> None:
    pieces = split_sentences(text, "pt", limit)
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert "".join(pieces).replace(" ", "") == normalize(text, "pt").replace(" ", "")
