"""The closed list of reasons for which a clip is rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xtts_core.dataset.trainability import REASONS, Candidate, rejection_reasons, surplus_copies
from xtts_core.settings import FilterSettings, TextSettings

GOOD = Candidate(
    samples=220_500,
    duration_s=10.0,
    cut="pause",
    filled_s=0.0,
    clipping_ratio=0.0,
    snr_db=25.0,
    change_similarity=0.8,
    speaker_similarity=0.95,
    music_ratio=0.0,
    bandwidth_hz=10_000.0,
    reverberation_s=0.2,
    text="o quilo do tomate custava sete reais",
    characters_per_s=14.0,
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
        ("rate_outlier", replace(GOOD, characters_per_s=4.9)),
        ("rate_outlier", replace(GOOD, characters_per_s=22.1)),
        ("suspicious_transcript", replace(GOOD, guards=("repetition",))),
        ("transcript_disagreement", replace(GOOD, guards=("disagreement",))),
        ("forced_cut", replace(GOOD, cut="forced")),
        ("damaged", replace(GOOD, filled_s=0.1)),
        ("clipped", replace(GOOD, clipping_ratio=0.01)),
        ("low_snr", replace(GOOD, snr_db=4.0)),
        ("mixed_speakers", replace(GOOD, change_similarity=0.65)),
        ("speaker_outlier", replace(GOOD, speaker_similarity=0.82)),
        ("music_bed", replace(GOOD, music_ratio=0.51)),
        ("narrow_band", replace(GOOD, bandwidth_hz=4_000.0)),
        ("reverberant", replace(GOOD, reverberation_s=0.61)),
    ],
)
def test_each_rule_gives_its_reason_alone(reason: str, clip: Candidate) -> None:
    assert reasons(clip) == (reason,)


def test_the_limits_themselves_are_accepted() -> None:
    limits = FilterSettings()
    at_limits = replace(
        GOOD,
        samples=255_995,
        tokens=[5] * 200,
        text="sim " * 50,
        change_similarity=limits.min_change_similarity,
        speaker_similarity=limits.min_speaker_similarity,
        music_ratio=limits.max_music_ratio,
        bandwidth_hz=limits.min_bandwidth_hz,
        reverberation_s=limits.max_reverberation_s,
        characters_per_s=limits.max_characters_per_s,
    )
    assert reasons(at_limits) == ()


def test_a_measure_that_a_clip_does_not_have_is_no_reason() -> None:
    unknown = replace(
        GOOD,
        change_similarity=None,
        speaker_similarity=None,
        music_ratio=None,
        bandwidth_hz=None,
        reverberation_s=None,
    )
    assert reasons(unknown) == ()


def test_a_limit_of_null_asks_nothing() -> None:
    bad = replace(
        GOOD,
        change_similarity=0.0,
        speaker_similarity=0.0,
        music_ratio=1.0,
        bandwidth_hz=1_000.0,
        reverberation_s=5.0,
        characters_per_s=1.0,
    )
    assert len(reasons(bad)) == 6
    off = FilterSettings(
        min_change_similarity=None,
        min_speaker_similarity=None,
        max_music_ratio=None,
        min_bandwidth_hz=None,
        max_reverberation_s=None,
        min_characters_per_s=None,
    )
    assert rejection_reasons(bad, off, TextSettings()) == ()


def test_every_reason_that_holds_is_given_in_the_order_of_the_list() -> None:
    found = reasons(replace(GOOD, samples=300_000, cut="forced", snr_db=0.0))
    assert found == ("too_long", "forced_cut", "low_snr")
    assert list(REASONS).index("too_long") < list(REASONS).index("forced_cut")


def test_forced_cuts_are_accepted_where_the_settings_say_so() -> None:
    settings = FilterSettings(reject_forced_cuts=False)
    assert rejection_reasons(replace(GOOD, cut="forced"), settings, TextSettings()) == ()


def test_of_clips_with_one_text_the_cleanest_are_kept() -> None:
    def clip(
        start: int, snr_db: float, text: str = "bom dia", accepted: bool = True
    ) -> dict[str, object]:
        return {"start_sample": start, "snr_db": snr_db, "text": text, "accepted": accepted}

    clips = [
        clip(1, 20.0),
        clip(2, 30.0),
        clip(3, 20.0),
        clip(4, 40.0, accepted=False),
        clip(5, 5.0, text="boa noite"),
    ]
    assert surplus_copies(clips, most=2) == [clips[2]]
    assert surplus_copies(clips, most=3) == []
