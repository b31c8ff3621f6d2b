from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf
from PIL import Image

from xtts_core.corpus.pictures import recording_picture
from xtts_core.stage import Markdown
from xtts_core.store import CorpusStore

RATE = 22_050
WHITE = (255, 255, 255)


def pixels(markdown: Markdown) -> npt.NDArray[np.uint8]:
    content = markdown.text.split("(data:image/png;base64,")[1].removesuffix(")")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))


def sound(path: Path, samples: npt.NDArray[np.float64]) -> Path:
    sf.write(path, samples, RATE, subtype="PCM_16")
    return path


def tone(hz: float, seconds: float) -> npt.NDArray[np.float64]:
    return 0.8 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


@pytest.mark.parametrize("seconds", [1, 20, 400])
def test_loud_and_quiet_stand_where_they_are(tmp_path: Path, seconds: int) -> None:
    half = tone(440, seconds / 2)
    picture = pixels(recording_picture(sound(tmp_path / "a.wav", np.append(half, 0 * half))))
    assert picture.shape[1] == 800
    ink = (picture[:80] != WHITE).any(axis=2).sum(axis=0)
    assert (ink[:380] > 55).all()
    assert (ink[420:] <= 2).all()


def test_a_higher_tone_stands_higher(tmp_path: Path) -> None:
    both = np.append(tone(300, 5), tone(4_000, 5))
    mel = pixels(recording_picture(sound(tmp_path / "a.wav", both)))[80:144].sum(axis=2)
    low, high = mel[:, 200].argmax(), mel[:, 600].argmax()
    assert high < low - 20


def test_marks_stand_below_the_sound_they_mark(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", tone(440, 10))
    plain = pixels(recording_picture(path))
    marked = pixels(recording_picture(path, [(0, RATE), (5 * RATE, 6 * RATE)]))
    assert len(marked) > len(plain)
    lane = (marked[80 : 80 + len(marked) - len(plain)] != WHITE).any(axis=(0, 2))
    expected = np.zeros(800, np.bool_)
    expected[0:80] = expected[400:480] = True
    np.testing.assert_array_equal(lane, expected)


def test_a_picture_is_small_and_the_same_each_time(
    demo_corpus: CorpusStore, tmp_path: Path
) -> None:
    wav = demo_corpus.raw_audio("feira-dora")
    first, second = (recording_picture(wav, [(0, 99_999)]) for _ in range(2))
    assert first == second
    assert len(first.text) < 25_000
    noise = np.random.default_rng(0).normal(0, 0.2, 60 * RATE)
    assert len(recording_picture(sound(tmp_path / "n.wav", noise)).text) < 25_000
