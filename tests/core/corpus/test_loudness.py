from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyloudnorm
import pytest
import soundfile as sf

from xtts_core.corpus.loudness import apply_gain, voice_gain_db
from xtts_core.corpus.segmentation import Segment
from xtts_core.corpus.vad import measure
from xtts_core.settings import LoudnessSettings, VadSettings

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


def gain(path: Path, clips: list[Segment] | None = None, **settings: object) -> float:
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


def test_switched_off_or_without_clips_nothing_changes(recording: Path) -> None:
    assert gain(recording, method="off") == 0
    assert gain(recording, []) == 0


def test_a_gain_rounds_and_saturates() -> None:
    samples = np.array([0, 100, -100, 30_000, -30_000], np.int16)
    assert apply_gain(samples, 6.0206).tolist() == [0, 200, -200, 32_767, -32_768]
    assert apply_gain(samples, 0.0).tolist() == samples.tolist()
