from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from xtts_core.errors import DecodeError, ModelError, NotReadyError, RequestError
from xtts_core.model.engine import (
    EDGE_S,
    SENTENCE_PAUSE_S,
    Chunks,
    Engine,
    FloatArray,
    Latents,
    _threads_of_machine,
    read_reference,
    softened,
)
from xtts_core.model.loading import load_model
from xtts_core.model.sampling import Sampling
from xtts_core.settings import EngineSettings

TEXT = "a feira abre às seis horas, e quem chega primeiro encontra as melhores frutas."
CODE_S = 1_024 / 22_050
RATE_HZ = 24_000
EDGE = round(EDGE_S * RATE_HZ)


def test_an_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.version.startswith("tiny-")
    assert set(engine.languages) == {"pt", "en", "es"}
    assert engine.sample_rate_hz == RATE_HZ
    assert engine.voices() == {}


def test_speech_is_finite_audio_of_a_plausible_length(engine: Engine, voice: Latents) -> None:
    audio = engine.synthesize(TEXT, "pt-BR", voice, Sampling(seed=1))
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()
    assert 0.9 < len(audio) / RATE_HZ < 25
    assert np.abs(audio).max() > 0.001


def test_the_same_seed_gives_the_same_audio_and_another_seed_another(
    engine: Engine, voice: Latents
) -> None:
    first, again, other = (
        engine.synthesize(TEXT, "pt", voice, Sampling(seed=seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_a_seed_each_call_draws_one(engine: Engine, voice: Latents) -> None:
    first, other = (engine.synthesize(TEXT, "pt", voice, Sampling()) for _ in range(2))
    assert not np.array_equal(first, other)


def test_speaking_leaves_the_global_generator_alone(engine: Engine, voice: Latents) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    engine.synthesize("olá a todos vocês.", "pt", voice, Sampling(seed=2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("speed", [1.0, 0.8, 1.7])
def test_the_engine_speaks_what_coqui_speaks_with_the_same_seed(
    engine: Engine, tiny_dir: Path, voice: Latents, speed: float
) -> None:
    model = load_model(tiny_dir)
    model.eval()
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = model.inference(
            TEXT,
            "pt",
            voice.gpt_cond,
            voice.speaker,
            temperature=0.75,
            top_k=50,
            top_p=0.85,
            repetition_penalty=10.0,
            speed=speed,
        )["wav"]
        sampling = Sampling(seed=seed, speed=speed, min_audio_tokens=0)
        ours = engine.synthesize(TEXT, "pt", voice, sampling)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(
            ours[EDGE:-EDGE], theirs[EDGE:-EDGE], atol=1e-5 * np.abs(theirs).max()
        )


@pytest.mark.usefixtures("ffmpeg")
def test_latents_are_those_of_coqui(
    engine: Engine, tiny_dir: Path, tmp_path: Path, recording: FloatArray
) -> None:
    paths = [tmp_path / "1.wav", tmp_path / "2.wav"]
    for path, samples in zip(paths, np.array_split(recording, 2), strict=True):
        soundfile.write(path, samples, 22_050, subtype="FLOAT")
    config = load_model(tiny_dir).config
    gpt_cond, speaker = load_model(tiny_dir).get_conditioning_latents(
        [str(path) for path in paths],
        max_ref_length=config.max_ref_len,
        gpt_cond_len=config.gpt_cond_len,
        gpt_cond_chunk_len=config.gpt_cond_chunk_len,
    )
    ours = engine.latents([read_reference(path) for path in paths])
    torch.testing.assert_close(ours.gpt_cond, gpt_cond)
    torch.testing.assert_close(ours.speaker, speaker)


@pytest.mark.parametrize("speed", [1.0, 0.5, 0.99, 1.3, 2.0])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 20])
def test_a_stream_joined_equals_the_whole(
    engine: Engine, voice: Latents, speed: float, chunk_tokens: int
) -> None:
    sampling = Sampling(seed=3, speed=speed)
    whole = engine.synthesize(TEXT, "pt", voice, sampling)
    chunks = list(engine.stream(TEXT, "pt", voice, sampling, Chunks(chunk_tokens, chunk_tokens)))
    assert len(chunks) > 1
    joined = np.concatenate(chunks)
    assert joined.shape == whole.shape
    assert np.abs(joined - whole).max() < 1e-5 * np.abs(whole).max()


def test_speed_changes_the_length(engine: Engine, voice: Latents) -> None:
    normal, slow, fast = (
        len(engine.synthesize(TEXT, "pt", voice, Sampling(seed=3, speed=speed)))
        for speed in (1.0, 0.5, 2.0)
    )
    assert slow == pytest.approx(2 * normal, rel=0.02)
    assert fast == pytest.approx(normal / 2, rel=0.02)


def test_a_text_of_several_sentences_is_joined_by_silence(engine: Engine, voice: Latents) -> None:
    sentences = ["hoje de manhã a chuva começou cedo.", "depois o sol voltou para todos nós."]
    sampling = Sampling(seed=4, max_audio_tokens=5)
    whole = engine.synthesize(" ".join(sentences), "pt", voice, sampling)
    first = engine.synthesize(sentences[0], "pt", voice, sampling)
    pause = whole[len(first) : len(first) + int(SENTENCE_PAUSE_S * RATE_HZ)]
    np.testing.assert_allclose(whole[: len(first)], first, atol=1e-6)
    assert not pause.any()
    assert len(whole) > len(first) + len(pause)


def test_no_sentence_begins_or_ends_with_a_step(engine: Engine, voice: Latents) -> None:
    text = "hoje de manhã a chuva começou cedo. depois o sol voltou para todos nós."
    for most in (5, 40):
        sampling = Sampling(seed=4, max_audio_tokens=most)
        audio = np.concatenate(list(engine.stream(text, "pt", voice, sampling, Chunks(3, 3))))
        quiet = np.flatnonzero(audio == 0)
        pause = int(SENTENCE_PAUSE_S * RATE_HZ)
        begin = next(n for n in quiet if not audio[n : n + pause].any())
        for edge in (0, begin - 1, begin + pause, len(audio) - 1):
            assert abs(audio[edge]) < 0.001 * np.abs(audio).max()


def test_soft_edges_do_not_depend_on_where_the_pieces_end() -> None:
    loud = np.random.default_rng(0).uniform(0.5, 1, 2_000).astype(np.float32)
    whole = np.concatenate(list(softened([loud])))
    for size in (1, 50, 121, 999):
        pieces = [loud[n : n + size] for n in range(0, len(loud), size)]
        np.testing.assert_array_equal(np.concatenate(list(softened(pieces))), whole)
    np.testing.assert_array_equal(whole[EDGE:-EDGE], loud[EDGE:-EDGE])
    assert list(softened([])) == []


def test_a_sentence_sounds_the_same_whatever_was_said_before_it(
    engine: Engine, voice: Latents
) -> None:
    last = "depois o sol voltou para todos nós."
    sampling = Sampling(seed=4)
    pause = np.zeros(int(SENTENCE_PAUSE_S * RATE_HZ), np.float32)
    ends = []
    for first in (
        "hoje de manhã a chuva começou cedo.",
        "a feira abre às seis horas, e quem chega primeiro encontra frutas.",
    ):
        whole = engine.synthesize(f"{first} {last}", "pt", voice, sampling)
        said = engine.synthesize(first, "pt", voice, sampling)
        ends.append(whole[len(said) + len(pause) :])
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)
    assert not np.array_equal(ends[0], engine.synthesize(last, "pt", voice, sampling))


def test_a_text_beyond_the_languages_limit_is_spoken_whole(engine: Engine, voice: Latents) -> None:
    text = "e " + "depois fomos andando pela estrada " * 40
    chunks = list(engine.stream(text, "pt", voice, Sampling(seed=1, max_audio_tokens=3)))
    pauses = sum(not chunk.any() for chunk in chunks)
    assert pauses >= len(text) // 203 - 1


def test_the_code_limit_bounds_a_sentence(engine: Engine, voice: Latents) -> None:
    audio = engine.synthesize(TEXT, "pt", voice, Sampling(seed=1, max_audio_tokens=10))
    assert len(audio) / RATE_HZ <= 10 * CODE_S + 0.02


def test_a_model_that_never_stops_is_ended_by_the_length_of_the_text(
    tiny_dir: Path, voice: Latents
) -> None:
    engine = Engine.load(tiny_dir, EngineSettings(device="cpu"))
    gpt = engine._model.gpt
    with torch.no_grad():
        gpt.mel_head.bias[gpt.stop_audio_token] = -1e4
    short = engine.synthesize("olá a todos vocês.", "pt", voice, Sampling(seed=1))
    longer = engine.synthesize(TEXT, "pt", voice, Sampling(seed=1))
    assert len(short) / RATE_HZ == pytest.approx(2 + 18 / 4, abs=0.1)
    assert len(longer) / RATE_HZ == pytest.approx(2 + len(TEXT) / 4, abs=0.1)


def test_a_model_that_stops_at_once_speaks_for_as_long_as_its_text_takes_at_the_least(
    tiny_dir: Path, voice: Latents
) -> None:
    engine = Engine.load(tiny_dir, EngineSettings(device="cpu"))
    gpt = engine._model.gpt
    with torch.no_grad():
        gpt.mel_head.bias[gpt.stop_audio_token] = 1e4
    audio = engine.synthesize(TEXT, "pt", voice, Sampling(seed=1))
    assert len(audio) / RATE_HZ == pytest.approx(len(TEXT) / 40, abs=0.1)


def test_calls_from_several_threads_do_not_disturb_each_other(
    engine: Engine, voice: Latents
) -> None:
    seeds = range(6)
    alone = [engine.synthesize(TEXT, "pt", voice, Sampling(seed=seed)) for seed in seeds]
    together: dict[int, FloatArray] = {}

    def speak(seed: int) -> None:
        chunks = engine.stream(TEXT, "pt", voice, Sampling(seed=seed))
        together[seed] = np.concatenate(list(chunks))

    threads = [threading.Thread(target=speak, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        np.testing.assert_allclose(together[seed], alone[seed], atol=1e-5)


def test_a_stream_in_progress_survives_the_engines_end(tiny_dir: Path, voice: Latents) -> None:
    engine = Engine.load(tiny_dir, EngineSettings(device="cpu"))
    text = f"{TEXT} {TEXT}"
    expected = engine.synthesize(text, "pt", voice, Sampling(seed=2))
    stream = engine.stream(text, "pt", voice, Sampling(seed=2), Chunks(5, 5))
    first = next(stream)
    engine.close()
    joined = np.concatenate([first, *stream])
    assert joined.shape == expected.shape
    with pytest.raises(NotReadyError):
        engine.synthesize(TEXT, "pt", voice, Sampling(seed=2))
    with pytest.raises(NotReadyError):
        engine.latents([np.zeros(22_050, np.float32)])


@pytest.mark.parametrize("chunked", [False, True])
def test_speaking_ends_at_once_where_nobody_waits_for_it(
    engine: Engine, voice: Latents, chunked: bool
) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 30:
            raise InterruptedError

    sampling = Sampling(seed=1, max_audio_tokens=200)
    speak = engine.stream if chunked else engine.synthesize
    with pytest.raises(InterruptedError):
        list(speak(TEXT, "pt", voice, sampling, check=check))
    assert checks == 30
    assert engine.synthesize(TEXT, "pt", voice, Sampling(seed=1, max_audio_tokens=5)).any()


def test_the_first_piece_of_a_stream_can_be_smaller(engine: Engine, voice: Latents) -> None:
    sampling = Sampling(seed=3)
    alike, early = (
        list(engine.stream(TEXT, "pt", voice, sampling, chunks))
        for chunks in (Chunks(20, 20), Chunks(8, 20))
    )
    assert len(early[0]) < len(alike[0])
    np.testing.assert_allclose(np.concatenate(early), np.concatenate(alike), atol=1e-5)


def test_inference_mode_does_not_leak_out_of_a_stream(engine: Engine, voice: Latents) -> None:
    stream = engine.stream(TEXT, "pt", voice, Sampling(seed=2), Chunks(5, 5))
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_a_text_without_words_is_refused(engine: Engine, voice: Latents, text: str) -> None:
    with pytest.raises(RequestError, match="no text"):
        engine.synthesize(text, "pt", voice, Sampling())


@pytest.mark.parametrize("language", ["de", "xx", ""])
def test_a_language_that_is_not_spoken_is_refused(
    engine: Engine, voice: Latents, language: str
) -> None:
    with pytest.raises(RequestError, match="en, es, pt"):
        engine.synthesize(TEXT, language, voice, Sampling())


@pytest.mark.parametrize(
    ("references", "problem"),
    [
        ([], "no reference"),
        ([np.zeros(7_000, np.float32)], "shorter than"),
        ([np.zeros((22_050, 2), np.float32)], "not mono"),
        ([np.full(22_050, np.nan, np.float32)], "no numbers"),
    ],
)
def test_a_reference_that_is_no_voice_is_refused(
    engine: Engine, references: list[FloatArray], problem: str
) -> None:
    with pytest.raises(RequestError, match=problem):
        engine.latents(references)


def test_making_latents_leaves_the_reference_as_it_was(
    engine: Engine, recording: FloatArray
) -> None:
    loud = 3 * recording
    copy = loud.copy()
    engine.latents([loud])
    assert np.array_equal(loud, copy)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (22_050, 1), (16_000, 1)])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_reference_file_becomes_mono_at_22_050_hz(
    tmp_path: Path, rate: int, channels: int, suffix: str
) -> None:
    if (suffix, rate) == ("ogg", 22_050):
        rate = 24_000
    path = tmp_path / f"reference.{suffix}"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate)
    clip = read_reference(path)
    assert clip.dtype == np.float32
    assert clip.shape == pytest.approx((22_050,), abs=1)
    spectrum = np.abs(np.fft.rfft(clip[1_000:-1_000]))
    assert spectrum.argmax() * 22_050 / (len(clip) - 2_000) == pytest.approx(440, abs=3)


def test_a_file_that_is_no_audio_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no audio")
    for name in ("notes.wav", "missing.wav"):
        with pytest.raises(DecodeError, match=name):
            read_reference(tmp_path / name)


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 7),
        ("150000 100000", 1),
        ("300000 100000", 3),
        ("900000 100000", 7),
        (None, 7),
    ],
)
def test_no_more_threads_are_taken_than_the_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, threads: int
) -> None:
    monkeypatch.setattr("xtts_core.model.engine._CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert _threads_of_machine() == threads


@pytest.mark.parametrize("parts", [1, 3])
def test_listening_to_a_voice_ends_where_nobody_waits_for_it(
    engine: Engine, recording: FloatArray, parts: int
) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == parts:
            raise InterruptedError

    with engine._decoder.turns.take(lambda: None), ThreadPoolExecutor(1) as listener:
        listening = listener.submit(engine.latents, [recording], check=check)
        with pytest.raises(InterruptedError):
            listening.result()


@pytest.mark.parametrize("stage", [1, 5, 20])
def test_listening_ends_amid_a_recording_too(
    engine: Engine, recording: FloatArray, stage: int
) -> None:
    """Nobody else computes, so the turn is had at once and the check is called in the network."""
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == stage:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.latents([recording], check=check)
    assert calls == stage
    network = engine._model.hifigan_decoder.speaker_encoder
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_listening_ends_amid_what_the_gpt_hears_too(engine: Engine, recording: FloatArray) -> None:
    heard = engine._model.gpt.conditioning_encoder
    begun = []

    def check() -> None:
        if begun:
            raise InterruptedError

    handle = heard.register_forward_pre_hook(lambda *_: begun.append(True))
    try:
        with pytest.raises(InterruptedError):
            engine.latents([recording], check=check)
    finally:
        handle.remove()
    assert len(begun) == 1


def test_others_have_their_turn_while_a_recording_is_listened_to(
    engine: Engine, recording: FloatArray
) -> None:
    heard = engine.latents([recording])
    listened = threading.Event()
    others = 0

    def compute() -> None:
        nonlocal others
        while not listened.is_set():
            with engine._decoder.turns.take(lambda: None):
                others += 1

    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(compute)
        among_others = engine.latents([recording])
        listened.set()
        computing.result(30)
    assert others > 20
    assert torch.equal(among_others.speaker, heard.speaker)


def test_one_letter_at_twice_the_speed_is_still_heard(engine: Engine, voice: Latents) -> None:
    for seed in range(5):
        assert len(engine.synthesize("a", "pt", voice, Sampling(seed=seed, speed=2.0))) > 0


def test_a_model_that_says_nothing_is_told_as_such(tiny_dir: Path, voice: Latents) -> None:
    engine = Engine.load(tiny_dir, EngineSettings(device="cpu"))
    gpt = engine._model.gpt
    with torch.no_grad():
        gpt.mel_head.bias[gpt.stop_audio_token] = 1e4
    with pytest.raises(ModelError, match="said nothing"):
        engine.synthesize("a", "pt", voice, Sampling(seed=1, speed=2.0, min_audio_tokens=0))


def test_threads_are_set_where_the_settings_say_so(tiny_dir: Path) -> None:
    before = torch.get_num_threads()
    try:
        Engine.load(tiny_dir, EngineSettings(device="cpu", threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_sampling_defaults_are_the_settings_defaults() -> None:
    settings = EngineSettings().model_dump()
    for field in dataclasses.fields(Sampling):
        if field.name in settings:
            assert field.default == settings[field.name]
