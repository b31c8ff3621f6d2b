from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyloudnorm
import pytest
import soundfile as sf

from xtts_core.corpus.levels import SILENCE_DBFS
from xtts_core.corpus.loudness import (
    LoudnessMeter,
    apply_gain,
    clip_loudness_lufs,
    true_peak_dbtp,
    voice_gain_db,
)
from xtts_core.corpus.segmentation import Segment
from xtts_core.corpus.vad import measure
from xtts_core.settings import LoudnessSettings, VadSettings
from xtts_core.store import CorpusStore

RATE = 22_050
CLIP = Segment(RATE, 3 * RATE, RATE, 3 * RATE, "pause")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Four seconds of a tone at -30 dBFS, with a click after the clip from 1 to 3 s."""
    samples = 10 ** (-30 / 20) * np.sqrt(2) * np.sin(2 * np.pi * 500 * np.arange(4 * RATE) / RATE)
    samples[round(3.5 * RATE)] = 0.99
    path = tmp_path / "a.wav"
    sf.write(path, samples, RATE)
    return path


def gain(path: Path, clips: list[Segment] | None = None, **settings: Any) -> float:
    envelope = measure(path, VadSettings(enabled=False))
    speech: npt.NDArray[np.bool_] = np.ones(len(envelope.level_dbfs), np.bool_)
    return voice_gain_db(
        path, envelope, speech, [CLIP] if clips is None else clips, LoudnessSettings(**settings)
    )


def test_the_gain_brings_the_speech_to_its_rms_level(recording: Path) -> None:
    assert gain(recording) == pytest.approx(10, abs=0.02)


def test_the_gain_brings_the_clips_to_their_loudness(recording: Path) -> None:
    gain_db = gain(recording, method="loudnorm", loudnorm_lufs=-20.0)
    samples, _ = sf.read(recording)
    louder = samples[CLIP.start : CLIP.end] * 10 ** (gain_db / 20)
    assert pyloudnorm.Meter(RATE).integrated_loudness(louder) == pytest.approx(-20, abs=0.05)


def test_the_gain_stops_where_a_peak_of_a_clip_would_pass_the_limit(recording: Path) -> None:
    clip = Segment(RATE, 4 * RATE, RATE, 4 * RATE, "pause")
    assert gain(recording, [clip]) == pytest.approx(-1 - 20 * np.log10(0.99), abs=0.01)


def test_the_limit_is_for_the_peaks_between_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, between_samples(0.25), RATE)
    clip = Segment(RATE, 3 * RATE, RATE, 3 * RATE, "pause")
    assert gain(path, [clip], rms_dbfs=-1.0) == pytest.approx(-1 - 20 * np.log10(0.25), abs=0.1)


def between_samples(peak: float) -> npt.NDArray[np.float64]:
    """Four seconds of a tone at a quarter of the rate, whose samples all lie 3 dB below its peak
    (ITU-R BS.1770-4, annex 2, attachment 1)."""
    tone: npt.NDArray[np.float64] = peak * np.sin(np.pi / 2 * np.arange(4 * RATE) + np.pi / 4)
    return tone


def test_a_true_peak_lies_between_the_samples() -> None:
    samples = np.rint(between_samples(0.5) * 32_768).astype(np.int16)
    assert 20 * np.log10(np.abs(samples).max() / 32_768) == pytest.approx(-9.03, abs=0.01)
    assert true_peak_dbtp(samples) == pytest.approx(-6.02, abs=0.15)
    assert true_peak_dbtp(np.zeros(100, np.int16)) == SILENCE_DBFS
    assert true_peak_dbtp(np.zeros(0, np.int16)) == SILENCE_DBFS


def test_loudness_is_that_of_the_standard(demo_corpus: CorpusStore) -> None:
    samples, _ = sf.read(demo_corpus.raw_audio("feira-dora"), dtype="int16")
    peer = pyloudnorm.Meter(RATE)
    meter = LoudnessMeter()
    for block in np.array_split(samples, 1_234):
        meter.feed(block)
    assert meter.integrated_lufs() == pytest.approx(
        peer.integrated_loudness(samples / 32_768), abs=0.03
    )
    for start_s, seconds in ((5, 10), (20, 2), (41, 7)):
        clip = samples[start_s * RATE : (start_s + seconds) * RATE]
        expected = peer.integrated_loudness(clip / 32_768)
        assert clip_loudness_lufs(clip) == pytest.approx(expected, abs=0.1)


def test_loudness_of_next_to_nothing_is_silence() -> None:
    assert clip_loudness_lufs(np.zeros(RATE, np.int16)) == SILENCE_DBFS
    assert clip_loudness_lufs(np.zeros(0, np.int16)) == SILENCE_DBFS
    assert LoudnessMeter().integrated_lufs() == SILENCE_DBFS
    short = np.rint(between_samples(0.5)[: RATE // 5] * 32_768).astype(np.int16)
    assert clip_loudness_lufs(short) > -20


def test_switched_off_or_without_clips_nothing_changes(recording: Path) -> None:
    assert gain(recording, method="off") == 0
    assert gain(recording, []) == 0


def test_a_gain_rounds_and_saturates() -> None:
    samples = np.array([0, 100, -100, 30_000, -30_000], np.int16)
    assert apply_gain(samples, 6.0206).tolist() == [0, 200, -200, 32_767, -32_768]
    assert apply_gain(samples, 0.0).tolist() == samples.tolist()
