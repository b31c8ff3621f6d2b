"""A model replaces another one: no call is lost, none is answered by two, no memory stays."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xtts_core.model.checkpoint import describe_files, read_manifest, write_manifest
from xtts_core.model.engine import Engine
from xtts_core.settings import EngineSettings
from xtts_core.store import read_json, write_json
from xtts_grpc.client import Encoding, ServiceError, SynthesisClient

TEXT = "Bom dia, tudo bem?"


def loudness(audio: bytes) -> float:
    return float(np.std(np.frombuffer(audio, "<i2")))


def test_ten_releases_published_under_load_fail_no_call(running, releases, audio_file, recording):
    quiet = audio_file(samples=0.5 * recording)
    cloned = running.client.clone_voice([quiet]).voice_id
    loudness_of = {voice: loudness(running.say(voice).audio) for voice in ("dora", cloned)}
    assert loudness_of[cloned] != pytest.approx(loudness_of["dora"], rel=0.1)
    numbers = {running.client.get_model().model_version: 1}
    answered = threading.Semaphore(0)
    published = threading.Event()

    def call_again_and_again(caller: int) -> list[tuple[str, str, bytes]]:
        answers = []
        with SynthesisClient(running.address, timeout_s=30) as client:
            while not published.is_set() or len(answers) < 25:
                voice_id = ("dora", cloned)[len(answers) % 2]
                options = {"voice_id": voice_id, "encoding": Encoding.PCM16, "seed": 0}
                if (len(answers) // 2 + caller) % 2:
                    speech = client.synthesize(TEXT, **options)
                    answers.append((speech.model_version, voice_id, speech.audio))
                else:
                    start, *parts, _ = client.stream(TEXT, **options)
                    answers.append((start.model_version, voice_id, b"".join(parts)))
                answered.release()
        return answers

    with ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(call_again_and_again, caller) for caller in range(8)]
        try:
            for release in range(2, 12):
                for _ in range(16):
                    assert answered.acquire(timeout=30)
                if release in (5, 8):
                    if release == 5:
                        releases.publish_damaged(release)
                    else:
                        releases.publish(release, tone={"silence": True})
                    with pytest.raises(ServiceError, match="cannot be served"):
                        running.client.reload_model()
                    model = running.client.get_model()
                    assert f"releases/{release}" in model.last_error
                    assert model.release == release - 1
                else:
                    version = releases.publish(release)
                    numbers[version] = release
                    assert running.client.reload_model().model_version == version
                    assert running.client.get_model().last_error == ""
        finally:
            published.set()
        answers = [answer for call in calls for answer in call.result()]
    assert len(answers) >= 200
    assert {numbers[version] for version, _, _ in answers} == {1, 2, 3, 4, 6, 7, 9, 10, 11}
    for version, voice_id, audio in answers:
        samples = np.frombuffer(audio, "<i2").astype(np.float64)
        turns = np.arange(len(TEXT) * 1_000) / 24_000
        tone = np.sin(2 * np.pi * releases.hz(numbers[version]) * turns)
        # Every sample is of the one model: another one's pitch in a part of it tells.
        assert np.corrcoef(samples, tone)[0, 1] > 0.999
        assert loudness(audio) == pytest.approx(loudness_of[voice_id], rel=0.02)
    assert [engine.closed for engine in running.gate.engines] == [*[True] * 8, False]


def test_a_call_in_flight_ends_on_the_model_it_began_with(running, releases, pitch_hz):
    running.gate.shut()
    parts = running.client.stream(TEXT, voice_id="dora", encoding=Encoding.PCM16)
    start = next(parts)
    running.gate.wait_for_call()
    new = releases.publish(2)
    assert running.client.reload_model().model_version == new
    old_engine = running.gate.engines[0]
    assert not old_engine.closed
    running.gate.open()
    audio = b"".join(part for part in parts if isinstance(part, bytes))
    assert start.model_version != new
    assert pitch_hz(audio) == pytest.approx(releases.hz(1), abs=2)
    assert len(audio) == 2 * len(TEXT) * 1_000
    assert running.say().model_version == new
    assert old_engine.closed


def test_a_cloned_voice_speaks_under_every_later_release(running, releases, audio_file, pitch_hz):
    voice_id = running.client.clone_voice([audio_file()]).voice_id
    before = loudness(running.say(voice_id).audio)
    releases.publish(2)
    running.client.reload_model()
    speech = running.say(voice_id)
    assert pitch_hz(speech.audio) == pytest.approx(releases.hz(2), abs=2)
    assert loudness(speech.audio) == pytest.approx(before, rel=0.02)
    assert loudness(running.say().audio) != pytest.approx(before, rel=0.02)


class Trap:
    """What a pickle would run as it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


def weights_of_nothing(path: Path, trap: Path) -> None:
    save_file({"nothing": torch.zeros(1)}, path)


def a_pickle(path: Path, trap: Path) -> None:
    torch.save({"model": Trap(trap)}, path)


@pytest.fixture
def publish_unloadable(tiny_corpus) -> Iterator[Callable[..., None]]:
    """Publishes a release whose hashes are right and whose weights `write` makes."""
    directory = tiny_corpus.releases_dir / "3"

    def publish(write: Callable[[Path, Path], None], trap: Path) -> None:
        [sound] = (tiny_corpus.releases_dir / "2").iterdir()
        shutil.copytree(sound, directory)
        write(directory / "model.safetensors", trap)
        manifest = read_manifest(directory)
        sha256 = write_manifest(
            directory, manifest.model_copy(update={"files": describe_files(directory)})
        )
        pointer = tiny_corpus.root / "serving.json"
        write_json(
            pointer,
            {**read_json(pointer), "release": 3, "path": "releases/3", "manifest_sha256": sha256},
        )

    yield publish
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("write", [weights_of_nothing, a_pickle])
def test_real_weights_that_do_not_load_are_never_served(
    tiny_service, publish_tiny, publish_unloadable, audio_file, tmp_path, write
):
    client = tiny_service.client
    first = client.get_model().model_version
    voice_id = client.clone_voice([audio_file()]).voice_id
    before = tiny_service.say(voice_id)
    publish_unloadable(write, tmp_path / "trap")
    with pytest.raises(ServiceError, match="cannot be served"):
        client.reload_model()
    assert client.get_model().model_version == before.model_version == first
    assert not (tmp_path / "trap").exists()
    assert tiny_service.say(voice_id).audio == before.audio
    second = publish_tiny(2)
    client.reload_model()
    after = tiny_service.say(voice_id)
    assert after.model_version == second
    # Both releases have the same weights, so the voice must sound the same.
    assert after.audio == before.audio


def test_free_first_waits_for_calls_in_flight_before_it_loads(start, releases, pitch_hz):
    releases.publish(1)
    service = start(reload={"policy": "free-first"})
    service.health.wait_for("SERVING")
    service.gate.shut()
    parts = service.client.stream(TEXT, voice_id="dora", encoding=Encoding.PCM16)
    next(parts)
    service.gate.wait_for_call()
    new = releases.publish(2)
    service.health.wait_for("NOT_SERVING")
    assert len(service.gate.engines) == 1
    service.gate.open()
    audio = b"".join(part for part in parts if isinstance(part, bytes))
    service.health.wait_for("SERVING")
    assert pitch_hz(audio) == pytest.approx(releases.hz(1), abs=2)
    assert service.say().model_version == new
    assert service.gate.engines[0].closed


def test_free_first_leaves_nothing_of_a_model_in_memory_while_it_loads_another(
    start, releases, tiny_corpus
):
    """With the real engine: the sine engines are kept by the test that looks at them."""
    left: list[list[weakref.ref]] = []
    loaded: list[weakref.ref] = []

    def load(directory: Path, settings: EngineSettings) -> Engine:
        left.append([engine for engine in loaded if engine() is not None])
        engine = Engine.load(tiny_corpus.base_model("tiny"), settings)
        loaded.append(weakref.ref(engine._decoder))
        if directory.name == "3":
            engine.synthesize = lambda *_: np.zeros(0, np.float32)
        return engine

    releases.publish(1)
    service = start(load_engine=load, reload={"policy": "free-first", "poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    releases.publish(2)
    assert service.client.reload_model().release == 2
    releases.publish(3)
    with pytest.raises(ServiceError, match="warm-up sentence is no audio"):
        service.client.reload_model()
    assert service.client.get_model().release == 2
    assert left == [[], [], [], []]


def test_free_first_tells_both_reasons_where_the_model_before_does_not_come_back(start, releases):
    out_of_memory = iter(range(1))

    def before_load(directory: Path) -> None:
        if directory.name == "1" and loaded:
            for _ in out_of_memory:
                raise MemoryError("no room for the old one")
        loaded.append(directory)

    loaded: list[Path] = []
    releases.publish(1)
    service = start(before_load=before_load, reload={"policy": "free-first", "poll_s": 0.1})
    service.health.wait_for("SERVING")
    good = releases.serving.read_bytes()
    releases.publish(2, tone={"silence": True})
    with pytest.raises(ServiceError) as caught:
        service.client.reload_model()
    assert "The tone has no frequency" in caught.value.what
    assert "the one before does not come back (no room for the old one)" in caught.value.what
    assert not service.client.get_model().serving
    releases.serving.write_bytes(good)
    service.health.wait_for("SERVING")


def test_free_first_serves_on_where_a_call_does_not_end(start, releases):
    releases.publish(1)
    service = start(reload={"policy": "free-first", "free_first_wait_s": 0.1})
    service.health.wait_for("SERVING")
    service.gate.shut()
    parts = service.client.stream(TEXT, voice_id="dora")
    next(parts)
    service.gate.wait_for_call()
    new = releases.publish(2)
    with pytest.raises(ServiceError, match=r"reload\.free_first_wait_s"):
        service.client.reload_model()
    assert service.client.get_model().release == 1
    assert service.service._store.rest_s == pytest.approx(0.9), "out of service a tenth of the time"
    service.gate.open()
    list(parts)
    service.health.wait_for("SERVING", "reload")
    assert service.say().model_version == new


@pytest.mark.parametrize(("niceness", "nicer"), [(0, 5), (17, 19)])
def test_a_release_comes_up_where_its_thread_cannot_give_way(
    start, releases, monkeypatch, niceness, nicer
):
    asked = []

    def refuse(which: int, who: int, value: int) -> None:
        assert who != os.getpid(), "that is the thread that the process began with"
        asked.append(value)
        raise PermissionError

    monkeypatch.setattr(os, "getpriority", lambda *_: niceness)
    monkeypatch.setattr(os, "setpriority", refuse)
    releases.publish(1)
    start().health.wait_for("SERVING")
    assert asked == [nicer]


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Every pause that a load made, in seconds."""
    made: list[float] = []
    monkeypatch.setattr("xtts_grpc.background.sleep", made.append)
    return made


def test_a_model_is_loaded_with_pauses_only_while_another_one_answers_calls(
    pauses, tiny_service, publish_tiny
):
    assert pauses == []
    publish_tiny(2)
    tiny_service.client.reload_model()
    assert len(pauses) > 1_000


def test_a_release_without_voices_is_warmed_up_and_serves(start, releases, audio_file, pitch_hz):
    directory = releases.root / "plain"
    releases.make(directory, {"hz": 500.0})
    sha256 = strip_voices(directory)
    releases.point(1, sha256, "plain")
    service = start()
    service.health.wait_for("SERVING")
    assert service.client.get_model().speakers == ()
    voice_id = service.client.clone_voice([audio_file()]).voice_id
    assert pitch_hz(service.say(voice_id).audio) == pytest.approx(500, abs=2)


def strip_voices(directory) -> str:
    shutil.rmtree(directory / "voices")
    manifest = read_manifest(directory)
    return write_manifest(
        directory, manifest.model_copy(update={"files": describe_files(directory)})
    )


def test_a_voice_that_is_gone_does_not_keep_a_release_from_serving(
    running, releases, audio_file, tmp_path
):
    voice_id = running.client.clone_voice([audio_file()]).voice_id
    running.say(voice_id)
    (tmp_path / "voices" / voice_id / "voice.json").unlink()
    new = releases.publish(2)
    assert running.client.reload_model().model_version == new
    with pytest.raises(ServiceError) as caught:
        running.say(voice_id)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
