"""Who speaks in a clip, by real voices: one clip of each demo video, and clips put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from xtts_core.corpus import speakers
from xtts_core.corpus.speakers import (
    EMBEDDING_SIZE,
    SpeakerMeasures,
    encode,
    greatest_change,
    measure_speakers,
    mel_spectrogram,
    outlier_share,
    voice_of_most,
)
from xtts_core.errors import ModelError
from xtts_core.settings import FilterSettings, SpeakerSettings
from xtts_core.store import CorpusStore

Clip = npt.NDArray[np.int16]
RATE = 22_050
SETTINGS = SpeakerSettings()
MIXED = FilterSettings().min_change_similarity or 0.0


@pytest.fixture(scope="module")
def voices(demo_corpus: CorpusStore) -> dict[str, list[Clip]]:
    """Clips of 8 s and more, each by one voice, about equally loud."""
    import soundfile as sf

    return {
        video_id: [
            sf.read(demo_corpus.root / row["path"], dtype="int16")[0]
            for row in pq.read_table(demo_corpus.segments_table(video_id)).to_pylist()
            if row["duration_s"] >= 7
        ]
        for video_id in ("feira-dora", "cidade-alex")
    }


@pytest.fixture(scope="module")
def intruded(voices: dict[str, list[Clip]]) -> dict[str, Clip]:
    """A clip of one voice that the other one takes over for 2.5 s, by where it does."""
    host, guest = voices["feira-dora"][1], voices["cidade-alex"][1]
    length = len(host) - len(host) % 2
    words = guest[RATE : RATE + RATE * 5 // 2]

    def taken_over(start: int) -> Clip:
        return np.concatenate((host[:start], words, host[start + len(words) : length]))

    return {
        "start": taken_over(0),
        "middle": taken_over((length - len(words)) // 2),
        "end": taken_over(length - len(words)),
    }


@pytest.fixture(scope="module")
def measured(
    voices: dict[str, list[Clip]], intruded: dict[str, Clip]
) -> dict[str, list[SpeakerMeasures]]:
    """A video of one voice, with three clips that are shared and one by somebody else."""
    own = voices["feira-dora"]
    clips = [*own, *intruded.values(), voices["cidade-alex"][0]]
    found = measure_speakers(clips, SETTINGS)
    return {"own": found[: len(own)], "shared": found[len(own) : -1], "other": found[-1:]}


def test_a_second_voice_is_found_wherever_it_speaks(
    measured: dict[str, list[SpeakerMeasures]],
) -> None:
    for measures in measured["shared"]:
        assert measures.change_similarity is not None
        assert measures.change_similarity < MIXED


def test_a_clip_of_one_voice_is_not_taken_for_two(
    measured: dict[str, list[SpeakerMeasures]],
) -> None:
    for measures in measured["own"]:
        assert measures.change_similarity is not None
        assert measures.change_similarity >= MIXED


def test_halves_of_two_voices_are_less_alike_than_halves_of_one(
    voices: dict[str, list[Clip]], measured: dict[str, list[SpeakerMeasures]]
) -> None:
    half = 4 * RATE
    both = np.concatenate((voices["feira-dora"][0][:half], voices["cidade-alex"][0][:half]))
    [found] = measure_speakers([both], SETTINGS)
    assert found.halves_similarity is not None
    assert all(
        found.halves_similarity < (measures.halves_similarity or 0) for measures in measured["own"]
    )


def test_a_clip_by_somebody_else_is_an_outlier_and_the_speakers_own_are_none(
    measured: dict[str, list[SpeakerMeasures]],
) -> None:
    own = [measures.speaker_similarity for measures in measured["own"]]
    other = [measures.speaker_similarity for measures in measured["other"]]
    assert outlier_share(own) == 0.0
    assert outlier_share(other) == 1.0
    assert outlier_share([*own, *other]) == pytest.approx(1 / (len(own) + 1))
    assert outlier_share([None]) is None


def test_clips_of_two_voices_do_not_decide_who_the_speaker_is(
    voices: dict[str, list[Clip]],
) -> None:
    own, other = voices["feira-dora"], voices["cidade-alex"]
    half = 4 * RATE
    shared = [np.concatenate((a[:half], b[:half])) for a, b in zip(own[:4], other[:4], strict=True)]
    found = measure_speakers([*shared, *own[:4]], SETTINGS)
    similarities = [measures.speaker_similarity or 0 for measures in found]
    assert max(similarities[:4]) < min(similarities[4:])


def test_embeddings_are_of_unit_length_and_do_not_depend_on_threads_or_other_clips(
    voices: dict[str, list[Clip]], measured: dict[str, list[SpeakerMeasures]]
) -> None:
    [alone] = measure_speakers(voices["feira-dora"][2:3], SpeakerSettings(threads=1))
    embedding = measured["own"][2].embedding
    assert embedding is not None
    assert alone.embedding is not None
    assert embedding.shape == (EMBEDDING_SIZE,)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(alone.embedding, embedding)


def test_the_number_of_threads_of_the_process_is_left_as_it_was(
    voices: dict[str, list[Clip]],
) -> None:
    import torch

    before = torch.get_num_threads()
    measure_speakers(voices["feira-dora"][:1], SpeakerSettings(threads=before + 1))
    assert torch.get_num_threads() == before


def test_clips_are_taken_one_by_one_and_counted(voices: dict[str, list[Clip]]) -> None:
    told: list[tuple[float, float | None, str]] = []

    def clips() -> Iterator[Clip]:
        for number in range(2):
            assert len(told) == number
            yield voices["cidade-alex"][number][: 2 * RATE]

    measure_speakers(clips(), SETTINGS, lambda done, total, unit: told.append((done, total, unit)))
    assert told == [(1, None, "clips"), (2, None, "clips")]


@pytest.mark.parametrize(
    ("seconds", "halves", "change"), [(1.0, False, False), (2.8, True, False), (6.0, True, True)]
)
def test_a_clip_has_the_measures_that_its_speech_is_long_enough_for(
    voices: dict[str, list[Clip]], seconds: float, halves: bool, change: bool
) -> None:
    [found] = measure_speakers([voices["feira-dora"][1][: round(seconds * RATE)]], SETTINGS)
    assert found.embedding is not None
    assert found.speaker_similarity == pytest.approx(1, abs=1e-3)
    assert (found.halves_similarity is not None) is halves
    assert (found.change_similarity is not None) is change


def test_a_silent_clip_has_no_measures_and_hurts_no_other(voices: dict[str, list[Clip]]) -> None:
    voice = voices["feira-dora"][0]
    silent = np.zeros(3 * RATE, np.int16)
    alone = measure_speakers([voice], SETTINGS)
    beside = measure_speakers([silent, voice], SETTINGS)
    assert beside[0] == SpeakerMeasures()
    assert beside[1].change_similarity == alone[0].change_similarity
    assert measure_speakers([silent], SETTINGS) == [SpeakerMeasures()]


@pytest.mark.parametrize(
    "clip",
    [
        np.ones(10, np.int16),
        np.full(3 * RATE, 20_000, np.int16),
        np.where(np.arange(5 * RATE) % 2, 32_767, -32_768).astype(np.int16),
    ],
    ids=["ten samples", "a constant", "a square wave at full scale"],
)
def test_no_sound_gives_anything_but_finite_numbers(clip: Clip) -> None:
    [found] = measure_speakers([clip], SETTINGS)
    numbers = (found.halves_similarity, found.change_similarity, found.speaker_similarity)
    assert all(number is None or np.isfinite(number) for number in numbers)
    assert found.embedding is not None
    assert np.isfinite(found.embedding).all()


def test_no_clips_give_no_measures() -> None:
    assert measure_speakers([], SETTINGS) == []


def test_the_engine_may_be_off(voices: dict[str, list[Clip]]) -> None:
    found = measure_speakers(voices["feira-dora"][:2], SpeakerSettings(engine="off"))
    assert found == [SpeakerMeasures()] * 2


def test_missing_weights_are_named_with_the_remedy(
    voices: dict[str, list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(_name: str) -> None:
        return None

    encoder: Callable[[], object] = speakers._encoder.__wrapped__
    monkeypatch.setattr(speakers, "find_spec", not_installed)
    monkeypatch.setattr(speakers, "_encoder", lru_cache(encoder))
    with pytest.raises(ModelError, match="Install resemblyzer"):
        measure_speakers(voices["feira-dora"][:1], SETTINGS)


def test_spectrogram_and_encoder_are_those_of_resemblyzer(voices: dict[str, list[Clip]]) -> None:
    import torch
    from resemblyzer import VoiceEncoder, wav_to_mel_spectrogram

    view = (voices["feira-dora"][0][: 3 * RATE] / 32_768).astype(np.float32)
    theirs = wav_to_mel_spectrogram(view)
    ours = mel_spectrogram(view)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=float(1e-6 * theirs.max()))
    windows = np.stack([ours[:160], ours[100:260]])
    with torch.inference_mode():
        expected = VoiceEncoder("cpu", verbose=False)(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(encode(windows), expected, atol=1e-6)


def test_a_minority_does_not_shift_the_voice_of_most() -> None:
    rng = np.random.default_rng(0)

    def crowd(size: int, voice: int) -> npt.NDArray[np.float32]:
        rows = 0.02 * rng.standard_normal((size, EMBEDDING_SIZE)) + np.eye(EMBEDDING_SIZE)[voice]
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(unit, np.float32)

    most = crowd(60, 0)
    voice = voice_of_most(np.concatenate((crowd(40, 1), most)))
    assert voice @ np.eye(EMBEDDING_SIZE)[0] > 0.99
    assert voice @ np.eye(EMBEDDING_SIZE)[1] < 0.01


def test_the_part_that_changes_is_found_to_the_window() -> None:
    windows = np.zeros((20, EMBEDDING_SIZE), np.float32)
    windows[:, 0] = 1
    windows[8:14] = np.eye(EMBEDDING_SIZE)[1]
    change = greatest_change(windows)
    assert change is not None
    assert {int(change.part.argmax()), int(change.rest.argmax())} == {0, 1}
    assert change.part @ change.rest == pytest.approx(0)
    inside, outside = 1 + 5 / 4, 1 + (8 - 3 + 6 - 3 - 1) / 4
    assert change.weight == pytest.approx(inside * outside / (inside + outside))


def test_two_windows_that_share_audio_are_no_change() -> None:
    windows = np.eye(EMBEDDING_SIZE, dtype=np.float32)[:4]
    assert greatest_change(windows) is None
    assert greatest_change(np.eye(EMBEDDING_SIZE, dtype=np.float32)[:5]) is not None
