"""Both engines with the real weights of Whisper `base`, on sentences of the demo videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from xtts_core.text import normalize
from xtts_core.transcription import asr
from xtts_core.transcription.asr import (
    SAMPLE_RATE_HZ,
    Recognised,
    guards,
    load_recogniser,
    text_guards,
)
from xtts_core.transcription.weights import find_weights
from xtts_core.transcription.wer import word_errors

CLIPS = [("feira-dora", 1), ("feira-dora", 9), ("cidade-alex", 0)]


@pytest.fixture(scope="session")
def sentences(
    recording: Callable[[str], NDArray[np.float32]], truth: Callable[[str], list[dict[str, Any]]]
) -> list[tuple[NDArray[np.float32], str]]:
    """Three clips as Whisper takes them, with what is said in them."""
    found = []
    for name, index in CLIPS:
        sentence = truth(name)[index]
        start, end = (int(sentence[edge] * 22_050) for edge in ("start", "end"))
        audio = recording(name)[start - 2_205 : end + 5_512]
        found.append((soxr.resample(audio, 22_050, SAMPLE_RATE_HZ), sentence["spoken"]))
    return found


def _bare(text: str) -> str:
    return normalize(text, "pt").translate(str.maketrans("-", " ", ".,?!;:"))


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
def test_real_weights_hear_real_sentences(
    engine: str, whisper_cache: Path, sentences: list[tuple[NDArray[np.float32], str]]
) -> None:
    weights = find_weights("base", engine, None, whisper_cache)
    recogniser = load_recogniser(engine, weights, "cpu", 5, 0.0)
    assert load_recogniser(engine, weights, "cpu", 5, 0.0) is recogniser
    wrong = said = 0
    texts = recogniser.transcribe([audio for audio, _ in sentences], "pt-BR")
    for (audio, spoken), heard in zip(sentences, texts, strict=True):
        errors, words = word_errors(_bare(spoken), _bare(heard.text))
        wrong, said = wrong + errors, said + words
        assert -0.5 < heard.confidence < 0
        assert heard.no_speech_prob < 0.2
        assert guards(heard, normalize(heard.text, "pt"), len(audio) / SAMPLE_RATE_HZ) == []
    assert said == 36
    assert wrong <= 2


def test_a_clip_is_heard_the_same_way_again_whatever_it_is_heard_with(
    whisper_cache: Path, sentences: list[tuple[NDArray[np.float32], str]]
) -> None:
    weights = find_weights("base", "faster-whisper", None, whisper_cache)
    recogniser = load_recogniser("faster-whisper", weights, "cpu", 5, 0.0)
    clips = [audio for audio, _ in sentences]
    together = recogniser.transcribe(clips, "pt")
    assert [text.text for text in together] == [
        recogniser.transcribe([clip], "pt")[0].text for clip in clips
    ]
    assert recogniser.transcribe(clips, "pt") == together


def test_a_clip_whose_text_looks_invented_is_heard_again_at_other_temperatures(
    whisper_cache: Path,
    sentences: list[tuple[NDArray[np.float32], str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audio, _ = sentences[0]
    weights = find_weights("base", "faster-whisper", None, whisper_cache)
    recogniser = load_recogniser("faster-whisper", weights, "cpu", 1, 0.0)
    (usual,) = recogniser.transcribe([audio], "pt")
    monkeypatch.setattr(asr, "TEMPERATURE_STEP", 1.0)
    monkeypatch.setattr(asr, "MIN_CONFIDENCE", 0.0)
    (best,) = recogniser.transcribe([audio], "pt")
    assert best.confidence >= usual.confidence
    assert recogniser.transcribe([audio], "pt") == [best]


@pytest.mark.parametrize(
    ("spoken", "duration_s", "flags"),
    [
        ("hoje a conversa é sobre a feira.", 3.0, []),
        ("não não não não pode.", 3.0, ["repetition"]),
        ("não, não, não, não.", 3.0, ["repetition"]),
        ("ligue para nove nove nove nove nove, oito oito oito oito.", 5.0, []),
        ("eu vou lá e eu vou lá e eu vou lá.", 3.0, ["repetition"]),
        ("muito obrigado por assistir ao vídeo de hoje.", 1.0, ["too_fast"]),
        ("oi.", 8.0, ["too_slow"]),
        ("", 8.0, []),
    ],
)
def test_a_text_that_does_not_fit_its_audio_is_flagged(
    spoken: str, duration_s: float, flags: list[str]
) -> None:
    assert text_guards(spoken, duration_s) == flags


@pytest.mark.parametrize(
    ("heard", "flags"),
    [
        (Recognised("Bom dia.", -0.2, 0.9, 1.0), []),
        (Recognised("Bom dia.", -0.2, 0.1, 2.5), ["repetition"]),
        (Recognised("Bom dia.", -1.1, 0.1, 1.0), ["low_confidence"]),
        (Recognised("Bom dia.", -1.1, 0.7, 1.0), ["low_confidence", "no_speech"]),
    ],
)
def test_what_whisper_says_of_itself_is_flagged(heard: Recognised, flags: list[str]) -> None:
    assert guards(heard, "bom dia.", 2.0) == flags


@pytest.mark.parametrize(
    ("reference", "recognised", "errors"),
    [
        ("um dois três", "um dois três", (0, 3)),
        ("um dois três", "um três", (1, 3)),
        ("um dois três", "um dois e três", (1, 3)),
        ("um dois três", "uns dois três", (1, 3)),
        ("", "um", (1, 0)),
        ("um", "", (1, 1)),
    ],
)
def test_word_errors_are_counted(reference: str, recognised: str, errors: tuple[int, int]) -> None:
    assert word_errors(reference, recognised) == errors
