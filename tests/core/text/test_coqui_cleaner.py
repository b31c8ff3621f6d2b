"""What `normalize` gives, the cleaner inside coqui-tts's tokenizer leaves as it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from TTS.tts.layers.xtts.tokenizer import multilingual_cleaners

from xtts_core.text import normalize

REPOSITORY = Path(__file__).parents[3]
DEMO = REPOSITORY / "examples/demo"
with (REPOSITORY / "tests/text/pt_br.tsv").open(encoding="utf-8", newline="") as _file:
    TABLE = [row["input"] for row in csv.DictReader(_file, delimiter="\t", quoting=3)]
WRITTEN = [
    sentence["text"]
    for name in ("feira-dora", "cidade-alex")
    for sentence in json.loads((DEMO / f"{name}.truth.json").read_text(encoding="utf-8"))["speech"]
]
PIECES = st.sampled_from(
    [
        *"0123456789.,;:!?-/%$€£°ºª²³&@#+=*~_'\"“”()[]–… ",
        *("dr", "sr", "SRA", "dra", "st", "Co", "jr", "ltd", "mr", "Hon", "esq", "ft"),
        *("R$ ", "US$", "km/h", "IV", "av", "n", "º", "p", "ex", "\u00a0", "\u200b", "İ", "ﬁ"),
        *TABLE,
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=10).map("".join)


@pytest.mark.parametrize("text", [*WRITTEN, *TABLE])
def test_the_cleaner_changes_no_real_sentence(text: str) -> None:
    spoken = normalize(text, "pt")
    assert multilingual_cleaners(spoken, "pt") == spoken


@settings(deadline=None, max_examples=600)
@given(TEXTS, st.sampled_from(["pt", "en", "es"]))
def test_the_cleaner_changes_nothing_in_any_text(text: str, language: str) -> None:
    spoken = normalize(text, language)
    assert multilingual_cleaners(spoken, language) == spoken
