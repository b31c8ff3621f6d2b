"""The split: by a seeded hash of the text, so that nothing moves."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from xtts_core.dataset.split import MIN_CLIPS_FOR_VALIDATION, assign, leaking_clips
from xtts_core.settings import SplitSettings

SETTINGS = SplitSettings()
TEXTS = st.lists(st.text(alphabet="abcdefghij ", min_size=1, max_size=12), min_size=1, max_size=40)


def clips(texts: list[str], *, overlapping: bool = False) -> list[dict[str, Any]]:
    length = 1_200 if overlapping else 1_000
    return [
        {
            "clip_id": f"v_{i:05}",
            "text": text,
            "start_sample": i * 1_000,
            "end_sample": i * 1_000 + length,
        }
        for i, text in enumerate(texts)
    ]


def sides(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["clip_id"]: row["split"] for row in rows}


def test_about_a_tenth_is_held_out() -> None:
    rows = assign(clips([f"frase número {i}" for i in range(5_000)]), SETTINGS)
    share = [row["split"] for row in rows].count("val") / len(rows)
    assert 0.08 < share < 0.12


def test_another_seed_gives_another_split() -> None:
    texts = [f"frase número {i}" for i in range(200)]
    first = sides(assign(clips(texts), SETTINGS))
    assert first != sides(assign(clips(texts), SplitSettings(seed=7)))
    assert first == sides(assign(clips(texts), SETTINGS))


@given(TEXTS)
def test_identical_texts_share_a_side(texts: list[str]) -> None:
    rows = assign(clips(texts + texts), SETTINGS)
    by_text: dict[str, set[str]] = {}
    for text, row in zip(texts + texts, rows, strict=True):
        by_text.setdefault(text, set()).add(row["split"])
    assert all(len(found) == 1 for found in by_text.values())


@given(TEXTS)
def test_neighbours_whose_audio_overlaps_share_a_side(texts: list[str]) -> None:
    rows = assign(clips(texts, overlapping=True), SETTINGS)
    assert len({row["group"] for row in rows}) == 1
    assert len({row["split"] for row in rows}) == 1


@given(st.lists(st.text(alphabet="abcdefghij", min_size=3, max_size=12), min_size=30, unique=True))
def test_taking_clips_away_moves_no_other_clip(texts: list[str]) -> None:
    whole = assign(clips(texts), SETTINGS)
    by_hash = {text: row["split"] for text, row in zip(texts, whole, strict=True)}
    fewer = texts[::2]
    rows = assign(clips(fewer), SETTINGS)
    moved = [text for text, row in zip(fewer, rows, strict=True) if row["split"] != by_hash[text]]
    assert len(moved) <= 1, "only the rule that each video holds out one clip may add one"


@given(
    st.lists(
        st.text(alphabet="abcdefghij", min_size=3), min_size=MIN_CLIPS_FOR_VALIDATION, unique=True
    )
)
def test_a_video_with_enough_clips_holds_out_and_trains_on_at_least_one(texts: list[str]) -> None:
    found = set(
        sides(assign(clips(texts), SplitSettings(train_share=0.99, val_share=0.01))).values()
    )
    assert found == {"train", "val"}


def test_a_short_video_keeps_its_clips_for_training() -> None:
    settings = SplitSettings(train_share=0.999999, val_share=0.000001)
    rows = assign(clips(["a", "b", "c"][: MIN_CLIPS_FOR_VALIDATION - 1]), settings)
    assert set(sides(rows).values()) == {"train"}


def test_a_training_text_that_is_nearly_a_held_out_one_is_named_with_it() -> None:
    text = "o trem das sete saiu com dez minutos adiantado"
    rows = [
        {"clip_id": "a_1", "text": text, "split": "val"},
        {"clip_id": "b_1", "text": text.replace("sete", "oito"), "split": "train"},
        {"clip_id": "b_2", "text": text.replace("sete", "oito").upper(), "split": "train"},
    ]
    assert leaking_clips(rows) == {"b_1": "its text is nearly that of the held-out a_1 (0.80)"}


def test_a_training_text_that_another_video_holds_out_is_named_with_the_clip_it_equals() -> None:
    rows = [
        {"clip_id": "a_1", "text": "bom dia", "split": "val"},
        {"clip_id": "b_1", "text": "bom dia", "split": "train"},
        {"clip_id": "b_2", "text": "boa noite", "split": "train"},
    ]
    assert leaking_clips(rows) == {"b_1": "its text is held out as a_1"}
