from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from xtts_core.model.engine import Delivery, Engine, FloatArray, Latents
from xtts_core.model.runaway import Guard, Runaway
from xtts_core.model.sampling import Sampling
from xtts_core.settings import EngineSettings

RATE_HZ = 24_000
CODE_SAMPLES = 1_024 * RATE_HZ / 22_050
TEXT = "a feira abre às seis horas, e quem chega primeiro encontra as melhores frutas."
HUM = 7


def noise(seconds: float, level: float = 0.1) -> FloatArray:
    samples = np.random.default_rng(0).standard_normal(int(seconds * RATE_HZ))
    return (level * samples).astype(np.float32)


def pieces(audio: FloatArray) -> Iterator[FloatArray]:
    """The audio in pieces of odd lengths."""
    return iter(np.array_split(audio, 13))


def heard(audio: FloatArray, speed: float = 1.0) -> Runaway | None:
    guard = Guard(1_000, speed, bounded=True)
    for piece in pieces(audio):
        guard.hear(piece)
    return guard.runaway


def drawn(codes: list[int], limit: int = 1_000, *, bounded: bool = True) -> Runaway | None:
    guard = Guard(limit, 1.0, bounded=bounded)
    for code in codes:
        guard.draw(code, stop=False)
    return guard.runaway


def test_a_silence_that_no_speaker_makes_ends_a_sentence_soon_after_it_began() -> None:
    runaway = heard(np.concatenate([noise(1.5), noise(3, 1e-5), noise(1)]))
    assert runaway is not None
    assert runaway.sign == "silence"
    assert runaway.end / RATE_HZ == pytest.approx(1.8, abs=0.03)


def test_the_pauses_of_speech_are_no_silence(recording: FloatArray) -> None:
    pauses = np.concatenate([noise(1), noise(1.8, 1e-5), noise(1), noise(1.8, 1e-5), noise(1)])
    assert heard(pauses) is None
    assert heard(recording) is None


def test_slow_speech_may_pause_longer() -> None:
    audio = np.concatenate([noise(1), noise(3, 1e-5), noise(1)])
    assert heard(audio) is not None
    assert heard(audio, speed=0.5) is None


@pytest.mark.parametrize("round_of", [[3], [3, 4], list(range(100, 112))])
def test_codes_that_come_round_and_round_end_a_sentence_where_they_began_to(
    round_of: list[int],
) -> None:
    spoken = list(range(500, 530))
    runaway = drawn(spoken + round_of * 60)
    assert runaway is not None
    assert runaway.sign == "repetition"
    assert runaway.end == round((len(spoken) + len(round_of)) * CODE_SAMPLES)


def test_a_sound_that_is_held_or_said_twice_is_no_repetition() -> None:
    held = [9] * 20
    twice = list(range(40)) * 2
    assert drawn([*range(200, 230), *held, *twice, *held]) is None


def test_more_audio_than_the_characters_can_take_is_a_sign_unless_it_was_asked_for() -> None:
    codes = [code * 7 % 1_024 for code in range(50)]
    runaway = drawn(codes, 50)
    assert runaway == Runaway("length", round(50 * CODE_SAMPLES))
    assert drawn(codes, 50, bounded=False) is None


@pytest.fixture
def humming(tiny_dir: Path) -> Engine:
    """A model that hums one sound for ever."""
    engine = Engine.load(tiny_dir, EngineSettings(device="cpu"))
    with torch.no_grad():
        engine._model.gpt.mel_head.bias[HUM] = 1e4
    return engine


def test_a_sentence_that_hums_is_tried_again_once_and_then_cut(
    humming: Engine, voice: Latents
) -> None:
    sampling = Sampling(seed=1, retries=1, repetition_penalty=1.0)
    delivery = Delivery()
    audio = humming.synthesize(TEXT, "pt", voice, sampling, delivery=delivery)
    assert delivery == Delivery(retried=1, cut=1)
    assert len(audio) == round(CODE_SAMPLES)


def test_a_stream_that_hums_ends_and_says_so(humming: Engine, voice: Latents) -> None:
    sampling = Sampling(seed=1, retries=1, repetition_penalty=1.0)
    delivery = Delivery()
    audio = np.concatenate(
        list(humming.stream(TEXT, "pt", voice, sampling, delivery=delivery)),
    )
    assert delivery == Delivery(retried=0, cut=1)
    assert len(audio) / RATE_HZ < 3


def test_another_seed_mends_a_sentence_that_ran_away(engine: Engine, voice: Latents) -> None:
    mended = 0
    for seed in range(12):
        once, again = Delivery(), Delivery()
        engine.synthesize("sim.", "pt", voice, Sampling(seed=seed), delivery=once)
        sampling = Sampling(seed=seed, retries=1)
        audio = engine.synthesize("sim.", "pt", voice, sampling, delivery=again)
        assert again.retried == once.cut
        if again.retried and not again.cut:
            mended += 1
            assert len(audio) < (2 + len("sim.") / 4) * RATE_HZ + CODE_SAMPLES
            assert np.array_equal(engine.synthesize("sim.", "pt", voice, sampling), audio)
    assert mended


def test_a_sentence_whose_codes_were_limited_by_its_caller_is_not_tried_again(
    engine: Engine, voice: Latents
) -> None:
    delivery = Delivery()
    sampling = Sampling(seed=1, retries=1, max_audio_tokens=10)
    engine.synthesize(TEXT, "pt", voice, sampling, delivery=delivery)
    assert delivery == Delivery()
