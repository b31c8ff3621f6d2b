from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf
import soxr

from xtts_core.corpus.measures import (
    bandwidth_hz,
    music_ratio,
    power_spectrum,
    reverberation_s,
)
from xtts_core.store import CorpusStore

RATE = 22_050
Float = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
SPEECH_S = {"feira-dora": (4.5, 14.0), "cidade-alex": (0.5, 14.0)}
MUSIC_S = {"feira-dora": (0.1, 3.9), "cidade-alex": (73.7, 77.4)}
NOISE_S = {"cidade-alex": (33.9, 37.8)}
VOICES = sorted(SPEECH_S)


@pytest.fixture(scope="module")
def recordings(demo_corpus: CorpusStore) -> dict[str, Float]:
    return {name: _read(demo_corpus.raw_audio(name)) for name in VOICES}


def _read(path: Path) -> Float:
    samples: Float = sf.read(path, dtype="float64")[0]
    return samples


def speech(recordings: dict[str, Float], voice: str) -> Float:
    return _cut(recordings[voice], *SPEECH_S[voice])


def music(recordings: dict[str, Float]) -> Float:
    return np.concatenate([_cut(recordings[name], *MUSIC_S[name]) for name in VOICES])


def noise(recordings: dict[str, Float]) -> Float:
    return _cut(recordings["cidade-alex"], *NOISE_S["cidade-alex"])


def _cut(samples: Float, start_s: float, end_s: float) -> Float:
    return samples[round(start_s * RATE) : round(end_s * RATE)]


def mixed(voice: Float, other: Float, below_db: float) -> Float:
    """`voice` with `other` under it all along, whose power is `below_db` less."""
    under = np.resize(other, len(voice))
    factor = np.sqrt(np.mean(voice**2) / np.mean(under**2)) * 10 ** (-below_db / 20)
    return np.asarray(voice + factor * under)


def through(samples: Float, rate: int) -> Float:
    """A recording that once had a lower sampling rate."""
    narrow = soxr.resample(soxr.resample(samples, RATE, rate, "VHQ"), rate, RATE, "VHQ")
    return np.asarray(narrow[: len(samples)])


def in_room(samples: Float, rt60_s: float) -> Float:
    """Speech in a room whose sound, as strong as the direct one, falls by 60 dB in `rt60_s`."""
    time = np.arange(round(1.2 * rt60_s * RATE)) / RATE
    tail = np.random.default_rng(0).normal(size=len(time)) * 10 ** (-3 * time / rt60_s)
    tail /= np.sqrt(np.sum(tail**2))
    tail[0] = 1
    size = len(samples) + len(tail)
    wet: Float = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    return wet[: len(samples)]


def clip(samples: Float) -> Int16:
    return np.asarray(np.rint(samples * (30_000 / np.abs(samples).max())), np.int16)


def bandwidth(samples: Float) -> float | None:
    return bandwidth_hz(power_spectrum(clip(samples)))


def music_in(samples: Float) -> float:
    found = music_ratio(power_spectrum(clip(samples)))
    assert found is not None
    return found


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize(
    ("rate", "lowest", "highest"),
    [(8_000, 3_400, 4_000), (16_000, 7_000, 8_000), (22_050, 10_000, 11_025)],
)
def test_the_bandwidth_is_that_of_the_narrowest_step_of_a_recording(
    recordings: dict[str, Float], voice: str, rate: int, lowest: float, highest: float
) -> None:
    found = bandwidth(through(speech(recordings, voice), rate))
    assert found is not None
    assert lowest <= found <= highest


@pytest.mark.parametrize("below_db", [10, 20])
def test_noise_over_a_telephone_voice_does_not_widen_its_bandwidth(
    recordings: dict[str, Float], below_db: float
) -> None:
    narrow = through(speech(recordings, "feira-dora"), 8_000)
    white = np.random.default_rng(0).normal(size=len(narrow))
    found = bandwidth(mixed(narrow, white, below_db))
    assert found is not None
    assert 3_000 <= found <= 4_000


@pytest.mark.parametrize("voice", VOICES)
def test_the_longer_a_room_sounds_the_longer_is_its_reverberation(
    recordings: dict[str, Float], voice: str
) -> None:
    dry = speech(recordings, voice)
    plain = reverberation_s(clip(dry))
    assert plain is not None
    assert plain < 0.22
    for rt60_s in (0.2, 0.4, 0.8):
        found = reverberation_s(clip(in_room(dry, rt60_s)))
        assert found == pytest.approx(rt60_s, rel=0.3, abs=0.08)


def test_reverberation_is_not_made_up_where_no_decay_is_seen(
    recordings: dict[str, Float],
) -> None:
    dry = speech(recordings, "feira-dora")
    assert reverberation_s(clip(mixed(dry, noise(recordings), 0))) is None
    assert reverberation_s(np.zeros(RATE, np.int16)) is None


@pytest.mark.parametrize("voice", VOICES)
def test_music_under_speech_is_told_from_noise(recordings: dict[str, Float], voice: str) -> None:
    alone = speech(recordings, voice)
    assert music_in(alone) < 0.1
    for below_db, least in ((0, 0.9), (5, 0.8), (10, 0.6)):
        assert music_in(mixed(alone, music(recordings), below_db)) > least
        assert music_in(mixed(alone, noise(recordings), below_db)) < 0.1


def test_music_that_plays_for_half_of_a_clip_has_half_of_its_time(
    recordings: dict[str, Float],
) -> None:
    alone = speech(recordings, "cidade-alex")
    half = len(alone) // 2
    under = mixed(alone, music(recordings), 5)
    assert music_in(np.concatenate([under[:half], alone[half:]])) == pytest.approx(0.5, abs=0.1)


def test_the_measures_of_a_recording_do_not_depend_on_its_level(
    recordings: dict[str, Float],
) -> None:
    loud = clip(speech(recordings, "feira-dora"))
    quiet = np.rint(loud / 4).astype(np.int16)
    assert bandwidth_hz(power_spectrum(quiet)) == bandwidth_hz(power_spectrum(loud))
    assert reverberation_s(quiet) == pytest.approx(reverberation_s(loud), abs=0.03)
    assert music_ratio(power_spectrum(quiet)) == pytest.approx(
        music_ratio(power_spectrum(loud)), abs=0.05
    )


@pytest.mark.parametrize("samples", [0, 100, 2_047, 2_048, 8_000])
def test_silence_and_scraps_have_no_measures(samples: int) -> None:
    silence = np.zeros(samples, np.int16)
    spectrum = power_spectrum(silence)
    assert bandwidth_hz(spectrum) is None
    assert reverberation_s(silence) is None
    assert music_ratio(spectrum) is None
