"""Which model serves: before, while and after releases are published."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from xtts_core.errors import ReleaseError
from xtts_core.model.checkpoint import describe_files, read_manifest, write_manifest
from xtts_core.model.engine import Engine
from xtts_core.settings import EngineSettings, Environment
from xtts_core.store import read_json, sha256_file, write_json
from xtts_grpc.client import Encoding, ServiceError, SynthesisClient
from xtts_grpc.logs import JsonFormatter
from xtts_grpc.reload import Checkpoint, read_serving
from xtts_grpc.serve import Service, choose_serving

TEXT = "Bom dia, tudo bem?"


def pitch_hz(audio: bytes) -> float:
    samples = np.frombuffer(audio, "<i2").astype(np.float64)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * 24_000 / len(samples)


def loudness(audio: bytes) -> float:
    return float(np.std(np.frombuffer(audio, "<i2")))


def say(running, voice_id="dora"):
    return running.client.synthesize(TEXT, voice_id=voice_id, encoding=Encoding.PCM16)


def test_without_a_release_calls_are_refused_until_there_is_one(start, releases):
    service = start()
    service.health.wait_for("NOT_SERVING", "reload")
    assert service.health.status() == "NOT_SERVING"
    assert service.health.status("") == "NOT_SERVING"
    with pytest.raises(ServiceError) as caught:
        say(service)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.service_reason == "no_model"
    waiting = service.client.get_model()
    assert not waiting.serving
    assert "There is no release" in waiting.last_error
    version = releases.publish(1)
    service.health.wait_for("SERVING")
    service.health.wait_for("SERVING", "reload")
    assert service.health.status("") == "SERVING"
    assert say(service).model_version == version
    assert service.client.get_model().last_error == ""


def test_ten_releases_published_under_load_fail_no_call(running, releases, audio_file, recording):
    quiet = audio_file(samples=0.5 * recording)
    cloned = running.client.clone_voice([quiet]).voice_id
    loudness_of = {voice: loudness(say(running, voice).audio) for voice in ("dora", cloned)}
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


@pytest.fixture
def publish_unloadable(tiny_corpus) -> Iterator[Callable[[], None]]:
    """Publishes a release whose hashes are right and whose weights are those of nothing."""
    directory = tiny_corpus.releases_dir / "3"

    def publish() -> None:
        [sound] = (tiny_corpus.releases_dir / "2").iterdir()
        shutil.copytree(sound, directory)
        save_file({"nothing": torch.zeros(1)}, directory / "model.safetensors")
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


def test_real_weights_that_do_not_load_are_never_served(
    tiny_corpus, publish_tiny, publish_unloadable, fast_settings, audio_file, tmp_path
):
    first = publish_tiny(1)
    serving = tiny_corpus.root / "serving.json"
    service = Service(fast_settings, "127.0.0.1:0", tmp_path / "voices", serving)
    service.start()
    try:
        with SynthesisClient(service.address, timeout_s=60) as client:
            client.wait_until_serving(60)
            voice_id = client.clone_voice([audio_file()]).voice_id
            say = partial(client.synthesize, TEXT, voice_id=voice_id, seed=1)
            before = say()
            publish_unloadable()
            with pytest.raises(ServiceError, match="cannot be served"):
                client.reload_model()
            assert client.get_model().model_version == before.model_version == first
            assert say().audio == before.audio
            second = publish_tiny(2)
            client.reload_model()
            after = say()
    finally:
        service.stop()
    assert after.model_version == second
    # Both releases have the same weights, so the voice must sound the same.
    assert after.audio == before.audio


def test_a_call_in_flight_ends_on_the_model_it_began_with(running, releases):
    running.gate.shut()
    parts = running.client.stream(TEXT, voice_id="dora", encoding=Encoding.PCM16)
    start = next(parts)
    running.gate.wait_for_call()
    running.gate.open()
    new = releases.publish(2)
    assert running.client.reload_model().model_version == new
    old_engine = running.gate.engines[0]
    audio = b"".join(part for part in parts if isinstance(part, bytes))
    assert start.model_version != new
    assert pitch_hz(audio) == pytest.approx(releases.hz(1), abs=2)
    assert say(running).model_version == new
    assert old_engine.closed


def test_a_cloned_voice_speaks_under_every_later_release(running, releases, audio_file):
    voice_id = running.client.clone_voice([audio_file()]).voice_id
    before = loudness(say(running, voice_id).audio)
    releases.publish(2)
    running.client.reload_model()
    speech = say(running, voice_id)
    assert pitch_hz(speech.audio) == pytest.approx(releases.hz(2), abs=2)
    assert loudness(speech.audio) == pytest.approx(before, rel=0.02)
    assert loudness(say(running).audio) != pytest.approx(before, rel=0.02)


@pytest.mark.parametrize(
    ("publish", "reason"),
    [
        (lambda r: r.publish_damaged(2), "tone.json: The file's SHA-256 is"),
        (lambda r: r.publish(2, tone={"silence": True}), "The tone has no frequency"),
        (lambda r: r.publish(2, tone={"hz": 1.0, "mute": True}), "warm-up sentence is no audio"),
        (lambda r: r.point(2, "0" * 64, "releases/1"), "manifest's SHA-256"),
        (lambda r: r.point(2, "0" * 64), "has no manifest"),
        (lambda r: r.point(2, "0" * 64, "../elsewhere"), "lies outside"),
        (lambda r: r.point(2, "0" * 64, "/etc"), "lies outside"),
        (lambda r: r.serving.write_text("{"), "does not name a release"),
        (lambda r: r.serving.write_text("[]"), "does not name a release"),
        (lambda r: r.point(2, "0" * 64, "releases/\0"), "does not name a release"),
        (lambda r: r.point(-1, "0" * 64, "releases/1"), "does not name a release"),
        (lambda r: r.point(2**64, "0" * 64, "releases/1"), "does not name a release"),
        (lambda r: r.point(1.7, "0" * 64, "releases/1"), "does not name a release"),
        (lambda r: r.serving.write_text("[" * 100_000), "does not name a release"),
    ],
    ids=[
        "damaged",
        "does not load",
        "mute",
        "another manifest",
        "missing",
        "above the root",
        "absolute",
        "no JSON",
        "no object",
        "no path",
        "below one",
        "beyond 64 bits",
        "no whole number",
        "no end of it",
    ],
)
@pytest.mark.parametrize("policy", ["keep-serving", "free-first"])
def test_a_broken_release_keeps_the_old_model_and_is_reported(
    start, releases, publish, reason, policy
):
    good = releases.publish(1)
    service = start(reload={"policy": policy})
    service.health.wait_for("SERVING")
    publish(releases)
    with pytest.raises(ServiceError) as caught:
        service.client.reload_model()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.service_reason == "invalid_release"
    assert reason in caught.value.what
    model = service.client.get_model()
    assert (model.serving, model.model_version, model.release) == (True, good, 1)
    assert reason in model.last_error
    assert model.last_error_at is not None
    assert service.health.status("reload") == "NOT_SERVING"
    assert service.health.status() == "SERVING"
    assert say(service).model_version == good
    assert sum(not engine.closed for engine in service.gate.engines) == 1
    better = releases.publish(3)
    service.health.wait_for("SERVING", "reload")
    assert say(service).model_version == better


def test_going_back_to_the_release_that_serves_clears_the_error(running, releases):
    good = releases.serving.read_bytes()
    releases.serving.write_text("{")
    running.health.wait_for("NOT_SERVING", "reload")
    releases.serving.write_bytes(good)
    running.health.wait_for("SERVING", "reload")
    assert running.client.get_model().last_error == ""
    assert len(running.gate.engines) == 1


def test_free_first_waits_for_calls_in_flight_before_it_loads(start, releases):
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
    assert say(service).model_version == new
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
    service.gate.open()
    list(parts)
    service.health.wait_for("SERVING", "reload")
    assert say(service).model_version == new


def test_a_refused_release_that_is_named_again_is_tried_again(start, releases):
    tried: list[Path] = []
    releases.publish(1)
    service = start(before_load=tried.append, reload={"poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    good = releases.serving.read_bytes()
    follower = service.service._follower
    releases.publish(2, tone={"silence": True})
    for _ in range(2):
        with pytest.raises(ReleaseError):
            follower.check()
        releases.serving.write_bytes(good)
        assert not follower.check()
        assert service.client.get_model().last_error == ""
        releases.point(2, sha256_file(releases.root / "releases/2/manifest.json"))
    assert [directory.name for directory in tried] == ["1", "2", "2"]


def test_calls_that_ask_for_a_release_while_it_is_tried_share_one_more_attempt(start, releases):
    trying, tried = threading.Event(), threading.Event()
    attempts: list[str] = []

    def hold(directory: Path) -> None:
        attempts.append(directory.name)
        if directory.name == "2":
            trying.set()
            assert tried.wait(30)

    releases.publish(1)
    service = start(before_load=hold, reload={"poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    releases.publish(2, tone={"silence": True})
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(service.client.reload_model)
        assert trying.wait(30)
        others = [pool.submit(service.client.reload_model) for _ in range(4)]
        refused, *_ = wait(others, return_when=FIRST_COMPLETED).done
        assert refused.exception().service_reason == "overloaded"
        tried.set()
        errors = [call.exception().service_reason for call in (first, *others)]
    assert sorted(errors) == [*["invalid_release"] * 4, "overloaded"]
    assert attempts == ["1", "2", "2"]


@pytest.mark.parametrize(("policy", "again"), [("keep-serving", True), ("free-first", False)])
def test_only_a_model_that_goes_on_serving_is_tried_to_be_replaced_again(
    start, releases, monkeypatch, policy, again
):
    """Each look at the clock finds a day gone, so whatever may be tried again is."""
    days = itertools.count(0, 86_400)
    polls = threading.Semaphore(0)

    def read(path: Path) -> Checkpoint:
        polls.release()
        return read_serving(path)

    monkeypatch.setattr("xtts_grpc.reload.monotonic", lambda: next(days))
    monkeypatch.setattr("xtts_grpc.reload.read_serving", read)
    releases.publish(1)
    tried: list[Path] = []
    service = start(before_load=tried.append, reload={"policy": policy})
    service.health.wait_for("SERVING")
    releases.publish(2, tone={"silence": True})
    service.health.wait_for("NOT_SERVING", "reload")
    service.health.wait_for("SERVING")
    for _ in range(polls._value + 5):
        assert polls.acquire(timeout=30)
    assert ([directory.name for directory in tried].count("2") > 1) is again
    assert service.client.get_model().release == 1


def test_a_call_that_waits_for_a_reload_may_leave(start, releases, logged):
    lines = logged(JsonFormatter())
    loading, loaded = threading.Event(), threading.Event()

    def hold(directory: Path) -> None:
        if directory.name == "2":
            loading.set()
            assert loaded.wait(30)

    releases.publish(1)
    service = start(before_load=hold)
    service.health.wait_for("SERVING")
    releases.publish(2)
    assert loading.wait(30)
    with SynthesisClient(service.address, timeout_s=0.2) as hasty, pytest.raises(ServiceError):
        hasty.reload_model()
    left = json.loads(lines.next_call())
    assert (left["method"], loaded.is_set()) == ("ReloadModel", False)
    loaded.set()
    assert service.client.reload_model().release == 2


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


def test_a_model_is_loaded_with_pauses_only_while_another_one_answers_calls(
    tiny_corpus, publish_tiny, fast_settings, tmp_path, monkeypatch
):
    pauses = []
    monkeypatch.setattr("xtts_grpc.background.sleep", pauses.append)
    publish_tiny(1)
    serving = tiny_corpus.root / "serving.json"
    service = Service(fast_settings, "127.0.0.1:0", tmp_path / "voices", serving)
    service.start()
    try:
        with SynthesisClient(service.address, timeout_s=60) as client:
            client.wait_until_serving(60)
            assert pauses == []
            publish_tiny(2)
            client.reload_model()
    finally:
        service.stop()
    assert len(pauses) > 1_000


def test_whatever_happens_the_next_release_is_looked_for(start, releases, monkeypatch):
    failures = iter([MemoryError("no room")])

    def fail(path: Path) -> Checkpoint:
        for failure in failures:
            raise failure
        return read_serving(path)

    monkeypatch.setattr("xtts_grpc.reload.read_serving", fail)
    releases.publish(1)
    start().health.wait_for("SERVING")
    assert next(failures, None) is None


def test_reloading_what_serves_already_changes_nothing(running):
    reloaded = running.client.reload_model()
    assert (reloaded.changed, reloaded.release) == (False, 1)
    assert len(running.gate.engines) == 1


def test_a_nudge_loads_a_release_that_no_poll_has_seen(start, releases):
    releases.publish(1)
    service = start(reload={"poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    version = releases.publish(2)
    reloaded = service.client.reload_model()
    assert (reloaded.changed, reloaded.release, reloaded.model_version) == (True, 2, version)


def test_a_release_without_voices_is_warmed_up_and_serves(start, releases, audio_file):
    directory = releases.root / "plain"
    releases.make(directory, {"hz": 500.0})
    sha256 = strip_voices(directory)
    releases.point(1, sha256, "plain")
    service = start()
    service.health.wait_for("SERVING")
    assert service.client.get_model().speakers == ()
    voice_id = service.client.clone_voice([audio_file()]).voice_id
    assert pitch_hz(say(service, voice_id).audio) == pytest.approx(500, abs=2)


def strip_voices(directory) -> str:
    shutil.rmtree(directory / "voices")
    manifest = read_manifest(directory)
    return write_manifest(
        directory, manifest.model_copy(update={"files": describe_files(directory)})
    )


def test_a_custom_checkpoint_is_served_and_releases_are_not_followed(start, releases, tmp_path):
    releases.publish(1)
    custom = tmp_path / "mine"
    releases.make(custom, {"hz": 900.0})
    service = start(Checkpoint(custom, "custom-checkpoint"))
    assert service.health.status() == "SERVING"
    assert pitch_hz(say(service).audio) == pytest.approx(900, abs=2)
    model = service.client.get_model()
    assert (model.source, model.release) == ("custom-checkpoint", 0)
    with pytest.raises(ServiceError, match="one fixed checkpoint") as caught:
        service.client.reload_model()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_missing_custom_checkpoint_falls_back_to_the_base_model_and_says_so(
    start, releases, tmp_path, caplog
):
    environment = Environment.load(
        {
            "XTTS_CORPUS_ROOT": str(releases.root),
            "XTTS_CUSTOM_CHECKPOINT": str(tmp_path / "nowhere"),
            "XTTS_BASE_MODEL": "tiny",
        }
    )
    releases.make(releases.root / "models" / "tiny", {"hz": 700.0})
    service = start(choose_serving(environment, strict=False))
    model = service.client.get_model()
    assert model.source == "base-model"
    assert "The custom checkpoint does not exist" in model.fallback_reason
    assert str(tmp_path / "nowhere") in model.fallback_reason
    assert pitch_hz(say(service).audio) == pytest.approx(700, abs=2)
    assert [r.levelname for r in caplog.records if "does not exist" in r.getMessage()] == ["ERROR"]


def test_strict_refuses_a_missing_custom_checkpoint(tmp_path):
    environment = Environment.load({"XTTS_CUSTOM_CHECKPOINT": str(tmp_path / "nowhere")})
    with pytest.raises(ReleaseError, match="does not exist"):
        choose_serving(environment, strict=True)


def test_the_custom_checkpoint_is_taken_exactly_and_else_serving_json(tmp_path):
    chosen = Environment.load({"XTTS_CUSTOM_CHECKPOINT": str(tmp_path)})
    assert choose_serving(chosen, strict=True) == Checkpoint(tmp_path, "custom-checkpoint")
    followed = Environment.load({"XTTS_CORPUS_ROOT": str(tmp_path)})
    assert choose_serving(followed, strict=True) == tmp_path / "serving.json"


def test_a_release_behind_a_link_out_of_the_root_is_refused(releases, tmp_path):
    outside = tmp_path / "outside"
    sha256 = releases.make(outside, {"hz": 1.0})
    (releases.root / "releases").mkdir(parents=True)
    (releases.root / "releases" / "1").symlink_to(outside)
    releases.point(1, sha256)
    with pytest.raises(ReleaseError, match="lies outside"):
        read_serving(releases.serving)


def test_a_voice_that_is_gone_does_not_keep_a_release_from_serving(
    running, releases, audio_file, tmp_path
):
    voice_id = running.client.clone_voice([audio_file()]).voice_id
    say(running, voice_id)
    (tmp_path / "voices" / voice_id / "voice.json").unlink()
    new = releases.publish(2)
    assert running.client.reload_model().model_version == new
    with pytest.raises(ServiceError) as caught:
        say(running, voice_id)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_full_voice_store_takes_known_voices_and_no_new_one(start, releases, audio_file):
    releases.publish(1)
    service = start(limits={"max_voices": 1})
    service.health.wait_for("SERVING")
    first = service.client.clone_voice([audio_file(4.0)])
    with pytest.raises(ServiceError) as caught:
        service.client.clone_voice([audio_file(5.0)])
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (caught.value.service_reason, caught.value.retryable) == ("voices_full", False)
    assert service.client.clone_voice([audio_file(4.0)]) == first


def test_the_references_of_a_voice_are_mono_wav_files_at_22_050_hz(running, audio_file, tmp_path):
    voice_id = running.client.clone_voice([audio_file(2.0), audio_file(3.0)]).voice_id
    files = sorted((tmp_path / "voices" / voice_id).glob("*.wav"))
    kinds = [(soundfile.info(f).samplerate, soundfile.info(f).channels) for f in files]
    assert kinds == [(22_050, 1), (22_050, 1)]
