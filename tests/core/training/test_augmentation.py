from __future__ import annotations

from collections import Counter
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from xtts_core.settings import MAX_CLIP_SAMPLES, AugmentationSettings
from xtts_core.store import CorpusStore
from xtts_core.training.augmentation import MIN_CLIP_SAMPLES, Augmenter, changed
from xtts_core.training.codes import Coder
from xtts_core.training.data import Clip, make_batch, read_clips, tokenise, training_spans

BOTH = AugmentationSettings(share=0.5, max_pitch_semitones=2.0, max_stretch=0.1)


@pytest.fixture(scope="module")
def base_dir(corpus: CorpusStore) -> Path:
    return corpus.base_model("tiny")


@pytest.fixture(scope="module")
def clip(corpus: CorpusStore) -> Clip:
    return read_clips([corpus.audio_codes("tiny", "feira-dora")])[0]


def pitch_hz(audio: torch.Tensor) -> float:
    """The median of the voiced frames."""
    f0, voiced, _ = librosa.pyin(audio.numpy() / 32_768, fmin=80, fmax=500, sr=22_050)
    return float(np.median(f0[voiced]))


@pytest.mark.parametrize("rate", [0.9, 1.1])
def test_another_rate_changes_the_length_and_keeps_the_pitch(clip: Clip, rate: float) -> None:
    audio = clip.audio()
    stretched = changed(audio, rate, 0.0)
    assert len(stretched) == pytest.approx(len(audio) / rate, rel=0.01)
    assert pitch_hz(stretched) == pytest.approx(pitch_hz(audio), rel=0.02)


@pytest.mark.parametrize("semitones", [-3.0, 3.0])
def test_another_pitch_keeps_the_length(clip: Clip, semitones: float) -> None:
    audio = clip.audio()
    shifted = changed(audio, 1.0, semitones)
    assert len(shifted) == pytest.approx(len(audio), rel=0.01)
    assert pitch_hz(shifted) / pitch_hz(audio) == pytest.approx(2 ** (semitones / 12), rel=0.02)


def test_nothing_changed_is_the_same_audio(clip: Clip) -> None:
    audio = clip.audio()
    assert changed(audio, 1.0, 0.0) is audio


@pytest.mark.parametrize(
    ("samples", "rate"), [(MAX_CLIP_SAMPLES - 100, 0.8), (MIN_CLIP_SAMPLES + 100, 1.2)]
)
def test_a_clip_stays_as_long_as_xtts_trains_on(samples: int, rate: float) -> None:
    tone = (8_000 * torch.sin(torch.arange(samples) / 20)).to(torch.int16)
    assert MIN_CLIP_SAMPLES * 0.99 <= len(changed(tone, rate, 0.0)) <= MAX_CLIP_SAMPLES


def test_what_becomes_of_a_clip_follows_from_seed_epoch_and_id(clip: Clip, base_dir: Path) -> None:
    always = BOTH.model_copy(update={"share": 1.0})
    first, again = (Augmenter(base_dir, always, seed=1)(clip, epoch=3) for _ in range(2))
    assert torch.equal(first.audio(), again.audio())
    assert torch.equal(first.codes(), again.codes())
    for other in (
        Augmenter(base_dir, always, seed=2)(clip, epoch=3),
        Augmenter(base_dir, always, seed=1)(clip, epoch=4),
    ):
        assert other.samples != first.samples


def test_about_the_share_of_the_clips_is_changed_and_the_others_are_themselves(
    clip: Clip, base_dir: Path
) -> None:
    augment = Augmenter(base_dir, BOTH.model_copy(update={"share": 0.05}), seed=1)
    same = Counter(augment(clip, epoch) is clip for epoch in range(200))
    assert 3 <= same[False] <= 20
    never = Augmenter(base_dir, BOTH.model_copy(update={"share": 0.0}), seed=1)
    assert all(never(clip, epoch) is clip for epoch in range(200))


def test_a_changed_clip_has_the_codes_of_its_own_audio_and_makes_a_batch(
    clip: Clip, base_dir: Path
) -> None:
    other = Augmenter(base_dir, BOTH.model_copy(update={"share": 1.0}), seed=1)(clip, epoch=1)
    codes = Coder(base_dir).codes(other.audio())
    assert torch.equal(other.codes(), codes[: other.n_codes].long())
    assert (other.clip_id, other.text, other.split) == (clip.clip_id, clip.text, clip.split)
    span = training_spans([clip], "same_clip_masked", seed=1)(other, 1)
    batch = make_batch([other], [span], tokenise([clip], base_dir))
    assert batch.wav_lengths.tolist() == [other.samples]
    assert span.clip is other
