from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_core.corpus.segmentation import Segment, longest_clip, longest_speech, segment
from xtts_core.corpus.vad import Envelope, Region
from xtts_core.settings import MAX_CLIP_SAMPLES, SegmentationSettings

RATE = 22_050
FRAME = 512
SETTINGS = SegmentationSettings()


def envelope_over(regions: list[Region], length: int) -> Envelope:
    """Speech at -20 dBFS over a background of -60."""
    level = np.full(-(-length // FRAME), -60, np.float32)
    for region in regions:
        level[region.start // FRAME : -(-region.end // FRAME)] = -20
    speech = (level > -40).astype(np.float32)
    return Envelope(FRAME, length, level, np.ones(len(level), np.uint16), speech)


def laid_out(*lengths_s: float) -> list[Region]:
    """Regions from alternating pauses and speech, a pause first."""
    regions = []
    at = 0
    for index, length_s in enumerate(lengths_s):
        length = round(length_s * RATE)
        if index % 2:
            regions.append(Region(at, at + length))
        at += length
    return regions


def cut(regions: list[Region], **changes: float) -> list[Segment]:
    settings = SETTINGS.model_copy(update=changes)
    length = (regions[-1].end if regions else 0) + 5 * RATE
    clips, _ = segment(regions, envelope_over(regions, length), settings)
    return clips


def durations(clips: list[Segment]) -> list[float]:
    return [round(clip.samples / RATE, 2) for clip in clips]


def test_sentences_are_joined_into_clips_near_the_target() -> None:
    clips = cut(laid_out(1, 4.5, 0.5, 4.5, 0.8, 3, 0.5, 3, 0.5, 3))
    assert durations(clips) == [9.85, 10.35]
    assert {clip.cut for clip in clips} == {"pause"}


def test_margins_lie_outside_the_speech() -> None:
    (clip,) = cut(laid_out(1, 9))
    assert clip.speech_start - clip.start == round(0.1 * RATE)
    assert clip.end - clip.speech_end == round(0.25 * RATE)


def test_margins_in_a_short_pause_meet_inside_it() -> None:
    first, second = cut(laid_out(1, 9, 0.3, 9))
    assert first.speech_end < first.end <= second.start < second.speech_start
    for margin in (first.end - first.speech_end, second.speech_start - second.start):
        assert margin >= round(0.07 * RATE)


def test_a_cut_goes_to_the_quietest_point_of_its_pause() -> None:
    regions = laid_out(1, 9, 0.4, 9)
    envelope = envelope_over(regions, 25 * RATE)
    quiet = (regions[0].end + round(0.12 * RATE)) // FRAME
    envelope.level_dbfs[quiet] = -80
    (first, second), _ = segment(regions, envelope, SETTINGS)
    assert first.end // FRAME == quiet
    assert second.start == second.speech_start - round(0.1 * RATE)


def test_the_end_of_a_sentence_is_cut_before_the_end_of_a_phrase() -> None:
    for pauses in ((0.35, 0.7), (0.7, 0.35)):
        regions = laid_out(1, 4, pauses[0], 4, pauses[1], 4)
        first, second = cut(regions, short_share=1.0)
        last = pauses.index(0.7)
        assert first.speech_end == regions[last].end
        assert second.speech_start == regions[last + 1].start


@pytest.mark.parametrize("early_s", [-0.2, 0.2, 0.5])
@pytest.mark.parametrize("last", [0, 1])
def test_the_end_of_a_cue_is_cut_before_another_pause_of_that_length(
    last: int, early_s: float
) -> None:
    regions = laid_out(1, 4, 0.4, 4, 0.4, 4)
    envelope = envelope_over(regions, regions[-1].end + RATE)
    hint = regions[last].end - round(early_s * RATE)
    without, _ = segment(regions, envelope, SETTINGS)
    (first, second), _ = segment(regions, envelope, SETTINGS, [hint])
    if early_s < 0.3:
        assert first.speech_end == regions[last].end
        assert second.speech_start == regions[last + 1].start
    else:
        assert [first, second] == without


def test_regions_far_apart_are_not_joined() -> None:
    assert durations(cut(laid_out(1, 4, 2, 4, 2, 9), short_share=0.5)) == [4.35, 9.35]


def test_short_utterances_are_kept_up_to_their_share() -> None:
    lone = [length for _ in range(8) for length in (3, 9)] + [3, 2, 3, 4, 3, 3, 3, 0.4]
    assert durations(cut(laid_out(*lone))) == [9.35] * 8 + [4.35, 3.35]
    assert durations(cut(laid_out(*lone[2:]))) == [9.35] * 7 + [4.35, 3.35]
    assert durations(cut(laid_out(*lone), short_share=0.0)) == [9.35] * 8
    assert len(cut(laid_out(*lone), short_share=1.0)) == 11
    regions = laid_out(*lone)
    _, dropped = segment(regions, envelope_over(regions, regions[-1].end + RATE), SETTINGS)
    assert durations(dropped) == [2.35]


def test_a_video_of_one_short_sentence_gives_it() -> None:
    assert durations(cut(laid_out(1, 3))) == [3.35]


def test_speech_without_a_pause_is_cut_by_force_with_an_overlap() -> None:
    regions = laid_out(1, 30, 1, 9)
    clips = cut(regions)
    forced = [clip for clip in clips if clip.cut == "forced"]
    assert [clip.cut for clip in clips] == ["forced"] * len(forced) + ["pause"]
    assert forced[0].speech_start == regions[0].start
    assert forced[-1].speech_end == regions[0].end
    for before, after in pairwise(forced):
        assert before.end - after.start == round(0.5 * RATE)
        assert before.end == before.speech_end
        assert after.start == after.speech_start


def test_no_speech_gives_no_clips() -> None:
    assert cut([]) == []


@given(
    lengths=st.lists(st.floats(0.02, 40), min_size=1, max_size=40),
    max_s=st.floats(10, 11.6),
    share=st.floats(0, 1),
)
def test_whatever_the_speech_every_clip_keeps_the_rules(
    lengths: list[float], max_s: float, share: float
) -> None:
    settings = SETTINGS.model_copy(update={"max_s": max_s, "short_share": share})
    regions = laid_out(0.3, *(length for pair in lengths for length in (pair, 0.3 + pair % 3)))
    length = regions[-1].end + RATE // 10
    clips, dropped = segment(regions, envelope_over(regions, length), settings)
    assert all(RATE <= clip.samples < 7 * RATE for clip in dropped)
    assert not set(dropped) & set(clips)
    unforced = [clip for clip in clips if clip.cut == "pause"]
    short = [clip for clip in unforced if clip.samples < 7 * RATE]

    assert len(short) < share * len(unforced) + 1 + 1e-6
    for clip in clips:
        assert 0 <= clip.start <= clip.speech_start < clip.speech_end <= clip.end <= length
        assert clip.samples <= min(longest_clip(settings), MAX_CLIP_SAMPLES)
    for clip in unforced:
        assert clip.samples >= RATE
        for region in regions:
            assert not region.start < clip.start < region.end
            assert not region.start < clip.end < region.end
    for before, after in pairwise(clips):
        assert before.start < after.start
        if before.cut == "pause" or after.cut == "pause":
            assert before.end <= after.start
    for region in regions:
        if region.samples > longest_speech(settings):
            assert any(clip.speech_start == region.start for clip in clips)
            assert any(clip.speech_end == region.end for clip in clips)


@pytest.mark.parametrize("max_s", [11.6, 9.0])
def test_the_longest_clip_is_the_shorter_of_the_setting_and_what_xtts_takes(max_s: float) -> None:
    settings = SETTINGS.model_copy(update={"max_s": max_s})
    assert longest_clip(settings) == min(MAX_CLIP_SAMPLES, int(max_s * RATE))
