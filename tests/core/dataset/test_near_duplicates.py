"""Texts that say nearly the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xtts_core.dataset.near_duplicates import near_duplicates

TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9).map(" ".join), max_size=12)


def alike(a: str, b: str) -> float:
    first, second = set(a.split()), set(b.split())
    return len(first & second) / len(first | second) if first | second else 0.0


@given(TEXTS, TEXTS, st.sampled_from([0.3, 0.5, 0.6, 0.75, 0.8, 1.0]))
def test_what_is_found_is_what_comparing_each_with_each_finds(
    texts: list[str], others: list[str], similarity: float
) -> None:
    found = near_duplicates(texts, others, similarity)
    for text in texts:
        best = max((alike(text, other) for other in others), default=0.0)
        if best >= similarity:
            other, value = found[text]
            assert value == best == alike(text, other)
        else:
            assert text not in found


def test_punctuation_and_order_do_not_hide_a_copy() -> None:
    found = near_duplicates(["bom dia, dora!"], ["dora, bom dia."], 1.0)
    assert found == {"bom dia, dora!": ("dora, bom dia.", 1.0)}


def test_one_word_of_nine_may_differ_at_a_similarity_of_four_fifths() -> None:
    text = "o trem das sete saiu com dez minutos adiantado"
    near = {text.replace("sete", "oito")}
    far = {text.replace("sete", "oito").replace("dez", "vinte")}
    assert near_duplicates([text], near, 0.8)
    assert not near_duplicates([text], far, 0.8)
