from __future__ import annotations

import json
from pathlib import Path

import pytest

from xtts_core.errors import RequestError
from xtts_core.text.vocabulary import oov_rate

DEMO = Path(__file__).parents[3] / "examples/demo"


@pytest.mark.parametrize("name", ["feira-dora", "cidade-alex"])
def test_real_sentences_hold_no_unknown_word(name: str) -> None:
    truth = json.loads((DEMO / f"{name}.truth.json").read_text(encoding="utf-8"))
    for sentence in truth["speech"]:
        assert oov_rate(sentence["spoken"], "pt-BR") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "comeríamos, vendessem, fizéssemos, comeram, trouxemos, dir-lhe-ia",
        "bonitinhas cafezinho lindíssima feirantes xícaras quilômetros",
        "joão beatriz tocantins curitiba corinthians",
    ],
)
def test_inflected_forms_and_usual_names_are_known(text: str) -> None:
    assert oov_rate(text, "pt") == 0.0


def test_misheard_words_count() -> None:
    assert oov_rate("o preço dos alementos", "pt") == 0.25
    assert oov_rate("hapadura mandiocca", "pt") == 1.0


def test_names_inside_a_sentence_and_digits_do_not_count() -> None:
    assert oov_rate("A senhora Zwyxq mora em Qvarn desde 1999.", "pt") == 0.0


def test_the_first_word_of_a_sentence_counts_in_spite_of_its_capital() -> None:
    assert oov_rate("Qvarn. Zwyxq!", "pt") == 1.0


def test_each_part_of_a_compound_counts_by_itself() -> None:
    assert oov_rate("sejam bem-vindos", "pt") == 0.0


def test_a_text_without_words_has_no_unknown_ones() -> None:
    assert oov_rate("... 12!", "pt") == 0.0


def test_a_language_without_a_list_is_refused() -> None:
    with pytest.raises(RequestError, match="'tlh'"):
        oov_rate("nuqneH", "tlh")
