from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_core.settings import MAX_CLIP_SAMPLES, SAMPLE_RATE_HZ
from xtts_core.store import CorpusStore
from xtts_core.training.data import (
    MAX_SPAN_SAMPLES,
    MIN_SPAN_SAMPLES,
    Clip,
    LoadedTensors,
    Span,
    epoch_batches,
    held_out_spans,
    make_batch,
    read_clips,
    tokenise,
    training_spans,
    unscored_codes,
)

LENGTHS = st.integers(SAMPLE_RATE_HZ // 2, MAX_CLIP_SAMPLES)


def clip(clip_id: str, samples: int, *, speaker: str = "ana", split: str = "train") -> Clip:
    return Clip(
        clip_id=clip_id,
        video_id="v",
        speaker=speaker,
        language="pt",
        text="bom dia a todos",
        sha256=clip_id,
        split=split,
        snr_db=20.0,
        bandwidth_hz=None,
        speaker_similarity=None,
        samples=samples,
        tensors=LoadedTensors({}),
    )


def clips_of_7_to_11_s(number: int) -> list[Clip]:
    draw = random.Random(3)
    return [
        clip(f"c{i}", draw.randint(7 * SAMPLE_RATE_HZ, MAX_CLIP_SAMPLES)) for i in range(number)
    ]


def test_an_epoch_has_every_clip_exactly_once() -> None:
    clips = clips_of_7_to_11_s(101)
    batches = epoch_batches(clips, 4, seed=1, epoch=1)
    assert sorted(c.clip_id for batch in batches for c in batch) == sorted(c.clip_id for c in clips)
    assert {len(batch) for batch in batches} == {4, 1}


def test_epochs_differ_and_an_epoch_repeats_itself() -> None:
    clips = clips_of_7_to_11_s(40)
    first = epoch_batches(clips, 4, seed=1, epoch=1)
    assert first == epoch_batches(list(clips), 4, seed=1, epoch=1)
    assert first != epoch_batches(clips, 4, seed=1, epoch=2)
    assert first != epoch_batches(clips, 4, seed=2, epoch=1)


def test_batches_of_like_lengths_pad_less_than_five_percent() -> None:
    batches = epoch_batches(clips_of_7_to_11_s(200), 4, seed=1, epoch=1)
    padded = sum(max(c.n_codes for c in batch) * len(batch) for batch in batches)
    own = sum(c.n_codes for batch in batches for c in batch)
    assert 1 - own / padded < 0.05


@given(samples=LENGTHS, epoch=st.integers(1, 1000))
@settings(max_examples=200, deadline=None)
def test_a_training_span_is_inside_its_clip_and_leaves_half_of_it(samples: int, epoch: int) -> None:
    one = clip("c", samples)
    span = training_spans([one], "same_clip_masked", seed=42)(one, epoch)
    assert span == training_spans([one], "same_clip_masked", seed=42)(one, epoch)
    assert 0 <= span.start < span.end <= samples
    assert span.end - span.start <= min(MAX_SPAN_SAMPLES, samples // 2)
    assert span.end - span.start >= min(MIN_SPAN_SAMPLES, samples // 2)


def test_the_voice_may_be_taken_from_another_training_clip_of_the_speaker() -> None:
    clips = [
        *(clip(f"a{n}", 220_500) for n in range(4)),
        clip("b", 220_500, speaker="bia"),
    ]
    span_of = training_spans(clips, "other_clip", seed=42)
    drawn = Counter(span_of(clips[0], epoch).clip.clip_id for epoch in range(1, 301))
    assert drawn.keys() == {"a1", "a2", "a3"}
    assert min(drawn.values()) > 60
    lone = span_of(clips[4], 1)
    assert (lone.clip.clip_id, lone.end - lone.start <= 110_250) == ("b", True)
    assert unscored_codes(clips[0], span_of(clips[0], 1)) == (0, 0)
    assert unscored_codes(clips[4], lone) != (0, 0)


@given(samples=LENGTHS, bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=200, deadline=None)
def test_exactly_the_codes_that_overlap_the_span_are_not_scored(
    samples: int, bounds: tuple[float, float]
) -> None:
    one = clip("c", samples)
    start, end = sorted(int(bound * (samples - 1)) for bound in bounds)
    first, last = unscored_codes(one, Span(one, start, end + 1))
    overlapping = [
        code for code in range(one.n_codes) if code * 1024 < end + 1 and (code + 1) * 1024 > start
    ]
    assert list(range(first, last)) == overlapping


def test_a_span_of_another_clip_hides_no_code() -> None:
    one, other = clip("one", 200_000), clip("other", 200_000)
    assert unscored_codes(one, Span(other, 0, 100_000)) == (0, 0)


def test_a_held_out_clip_is_judged_in_the_voice_of_a_training_clip_of_its_speaker() -> None:
    held_out = clip("h", 200_000, split="val")
    others = [
        clip("another-held-out", 200_000, split="val"),
        clip("bia", 200_000, speaker="bia"),
        clip("t1", 60_000),
        clip("t2", 200_000),
    ]
    span = held_out_spans([held_out, *others])(held_out)
    assert span.clip.clip_id in {"t1", "t2"}
    assert span == held_out_spans([*reversed(others), held_out])(held_out)
    assert (span.start, span.end) == (0, min(99_225, span.clip.samples))


def test_the_only_clip_of_a_speaker_is_judged_on_the_half_it_does_not_hear() -> None:
    only = clip("only", 100_000, split="val")
    span = held_out_spans([only, clip("bia", 90_000, speaker="bia")])(only)
    assert span == Span(only, 0, 50_000)
    assert unscored_codes(only, span) == (0, 49)


def test_a_batch_holds_what_the_files_hold(corpus: CorpusStore) -> None:
    clips = read_clips([corpus.audio_codes("tiny", "feira-dora")])[:3]
    spans = [Span(clips[0], 1000, 50_000), Span(clips[2], 0, 60_000), Span(clips[2], 7, 8)]
    tokens = tokenise(clips, corpus.base_model("tiny"))
    batch = make_batch(clips, spans, tokens)
    assert batch.clip_ids == tuple(c.clip_id for c in clips)
    assert batch.unscored == ((0, 49), (0, 0), (0, 1))
    for i, one in enumerate(clips):
        n_text = int(batch.text_lengths[i])
        assert torch.equal(batch.text[i, :n_text], tokens[one.clip_id])
        assert not batch.text[i, n_text:].any()
        assert torch.equal(batch.codes[i, : one.n_codes], one.codes())
        assert int(batch.wav_lengths[i]) == one.samples
    assert batch.conditioning.shape == (3, MAX_SPAN_SAMPLES)
    assert torch.equal(batch.conditioning[0, :49_000], clips[0].audio(1000, 50_000) / 32768)
    assert not batch.conditioning[0, 49_000:].any()


def test_the_texts_of_a_batch_are_those_of_the_tokenizer(corpus: CorpusStore) -> None:
    one = replace(clip("c", 60_000), text="bom dia")
    tokens = tokenise([one, replace(one, clip_id="d", language="pt-BR")], corpus.base_model("tiny"))
    assert tokens["c"].dtype == torch.int64
    assert torch.equal(tokens["c"], tokens["d"])
    assert len(tokens["c"]) > 2


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_a_last_smaller_batch_is_kept(batch_size: int) -> None:
    batches = epoch_batches(clips_of_7_to_11_s(7), batch_size, seed=0, epoch=3)
    assert sum(map(len, batches)) == 7
