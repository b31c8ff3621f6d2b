"""The closed list of reasons for which a clip is rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xtts_core.dataset.trainability import REASONS, Candidate, rejection_reasons
from xtts_core.settings import FilterSettings, TextSettings

GOOD = Candidate(
    samples=220_500,
    duration_s=10.0,
    cut="pause",
    clipping_ratio=0.0,
    snr_db=25.0,
    text="o quilo do tomate custava sete reais",
    tokens=[5] * 30,
    unknown_token=1,
    guards=(),
)


def reasons(clip: Candidate) -> tuple[str, ...]:
    return rejection_reasons(clip, FilterSettings(), TextSettings())


def test_a_good_clip_has_no_reason() -> None:
    assert reasons(GOOD) == ()


@pytest.mark.parametrize(
    ("reason", "clip"),
    [
        ("too_long", replace(GOOD, samples=255_996)),
        ("too_short", replace(GOOD, duration_s=0.49)),
        ("no_text", replace(GOOD, text="")),
        ("too_many_tokens", replace(GOOD, tokens=[5] * 201)),
        ("unknown_token", replace(GOOD, tokens=[5, 1, 5])),
        ("words_out_of_range", replace(GOOD, text="duas palavras")),
        ("words_out_of_range", replace(GOOD, text="sim " * 51)),
        ("suspicious_transcript", replace(GOOD, guards=("repetition",))),
        ("forced_cut", replace(GOOD, cut="forced")),
        ("clipped", replace(GOOD, clipping_ratio=0.01)),
        ("low_snr", replace(GOOD, snr_db=4.0)),
    ],
)
def test_each_rule_gives_its_reason_alone(reason: str, clip: Candidate) -> None:
    assert reasons(clip) == (reason,)


def test_the_limits_themselves_are_accepted() -> None:
    assert reasons(replace(GOOD, samples=255_995, tokens=[5] * 200, text="sim " * 50)) == ()


def test_every_reason_that_holds_is_given_in_the_order_of_the_list() -> None:
    found = reasons(replace(GOOD, samples=300_000, cut="forced", snr_db=0.0))
    assert found == ("too_long", "forced_cut", "low_snr")
    assert list(REASONS).index("too_long") < list(REASONS).index("forced_cut")


def test_forced_cuts_are_accepted_where_the_settings_say_so() -> None:
    settings = FilterSettings(reject_forced_cuts=False)
    assert rejection_reasons(replace(GOOD, cut="forced"), settings, TextSettings()) == ()
