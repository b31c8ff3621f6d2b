"""The latents of voices, in memory and in files."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import torch
from safetensors.torch import load_file, save_file

from xtts_core.model.engine import Engine, Latents, read_reference
from xtts_core.settings import EngineSettings
from xtts_core.store import sha256_file
from xtts_grpc.client import ServiceError
from xtts_grpc.latents import LatentsFolder
from xtts_grpc.places import CallEndedError

MANIFEST = "a" * 64


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "voices" / ".latents").glob("*/*.safetensors"))


@pytest.fixture
def latents() -> Latents:
    torch.manual_seed(0)
    return Latents(torch.randn(1, 32, 16), torch.randn(1, 512, 1))


@pytest.fixture
def reference(tmp_path, audio_file) -> Path:
    path = tmp_path / "reference.wav"
    path.write_bytes(audio_file(3.0))
    return path


@pytest.fixture
def folder(tmp_path) -> LatentsFolder:
    return LatentsFolder(tmp_path / "voices" / ".latents")


def test_a_restart_computes_nothing_that_was_computed_before(start, releases, audio_file):
    releases.publish(1)
    before = start()
    before.health.wait_for("SERVING")
    voice_id = before.client.clone_voice([audio_file()]).voice_id
    spoken = before.say(voice_id).audio
    assert len(before.gate.heard) == 2
    after = start()
    after.health.wait_for("SERVING")
    assert set(after.service._store.serving.voices_in_use()) == {"dora", voice_id}
    assert after.say(voice_id).audio == spoken
    assert after.gate.heard == []


def test_the_latents_of_a_real_model_come_back_bit_for_bit(tiny_corpus, folder, reference):
    engine = Engine.load(tiny_corpus.base_model("tiny"), EngineSettings(device="cpu"))
    made = engine.latents([read_reference(reference)])
    folder.write(MANIFEST, "voice", [reference], made)
    read = folder.read(MANIFEST, "voice", [reference])
    assert read is not None
    assert torch.equal(read.gpt_cond, made.gpt_cond)
    assert torch.equal(read.speaker, made.speaker)


def test_another_model_or_another_reference_has_latents_of_its_own(
    folder, reference, latents, tmp_path, audio_file
):
    folder.write(MANIFEST, "voice", [reference], latents)
    other = tmp_path / "other.wav"
    other.write_bytes(audio_file(4.0))
    assert folder.read("b" * 64, "voice", [reference]) is None
    assert folder.read(MANIFEST, "voice", [other]) is None
    assert folder.read(MANIFEST, "voice", [reference, reference]) is None
    assert folder.read(MANIFEST, "voice", [reference]) is not None


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def reshape(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "speaker": tensors["speaker"][:, :256].contiguous()}, path)


def drop_a_tensor(path: Path) -> None:
    save_file({"speaker": load_file(path)["speaker"]}, path)


@pytest.mark.parametrize(
    "damage",
    [cut_short, flip_a_bit, reshape, drop_a_tensor, lambda path: path.write_bytes(b"")],
    ids=["cut short", "a bit flipped", "another shape", "a tensor less", "empty"],
)
def test_a_damaged_file_is_named_and_made_again(
    start, releases, audio_file, tmp_path, caplog, damage
):
    releases.publish(1)
    before = start()
    before.health.wait_for("SERVING")
    voice_id = before.client.clone_voice([audio_file()]).voice_id
    spoken = before.say(voice_id).audio
    kept = {path: path.read_bytes() for path in files(tmp_path)}
    for path in kept:
        damage(path)
    after = start()
    after.health.wait_for("SERVING")
    assert after.say(voice_id).audio == spoken
    assert {path: path.read_bytes() for path in files(tmp_path)} == kept
    for path in kept:
        assert f"the latents in {path} are not used" in caplog.text


def test_a_folder_that_takes_no_file_costs_no_call_and_is_told_of_once(
    start, releases, audio_file, tmp_path, caplog
):
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / ".latents").write_text("in the way")
    releases.publish(1)
    service = start()
    service.health.wait_for("SERVING")
    for seconds in (4.0, 5.0):
        voice_id = service.client.clone_voice([audio_file(seconds)]).voice_id
        assert service.say(voice_id).audio
    service.client.delete_voice(voice_id)
    assert caplog.text.count("no latents are kept in") == 1


def test_a_deleted_voice_leaves_no_latents_under_any_release(running, audio_file, tmp_path):
    [theirs] = {path.name for path in files(tmp_path)}
    voice_id = running.client.clone_voice([audio_file()]).voice_id
    running.say(voice_id)
    running.releases.publish(2)
    running.client.reload_model()
    speaker = theirs.split(".")[0]
    assert len([path for path in files(tmp_path) if not path.name.startswith(speaker)]) == 2
    running.client.delete_voice(voice_id)
    assert all(path.name.startswith(speaker) for path in files(tmp_path))
    assert len(files(tmp_path)) == 2
    with pytest.raises(ServiceError) as caught:
        running.say(voice_id)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_voice_that_is_deleted_while_it_is_heard_leaves_nothing(
    running, audio_file, tmp_path, monkeypatch
):
    [engine] = running.gate.engines
    heard, deleted = threading.Event(), threading.Event()
    listen = engine.latents

    def slowly(references, **how):
        heard.set()
        assert deleted.wait(30)
        return listen(references, **how)

    before = files(tmp_path)
    voice = running.service._store.serving._voices.add([audio_file()])
    monkeypatch.setattr(engine, "latents", slowly)
    with ThreadPoolExecutor(1) as caller:
        call = caller.submit(running.say, voice.voice_id)
        assert heard.wait(30)
        running.client.delete_voice(voice.voice_id)
        deleted.set()
        with pytest.raises(ServiceError) as caught:
            call.result()
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert files(tmp_path) == before


def test_a_new_voice_that_many_ask_for_is_computed_once(running, audio_file, monkeypatch):
    model = running.service._store.serving
    voice = model._voices.add([audio_file()])
    everybody = threading.Barrier(8)
    started, go_on = threading.Event(), threading.Event()
    [engine] = running.gate.engines
    listen = engine.latents

    def slowly(references, **how):
        started.set()
        assert go_on.wait(30)
        return listen(references, **how)

    def ask() -> Latents:
        everybody.wait(30)
        return model.latents(voice.voice_id)

    monkeypatch.setattr(engine, "latents", slowly)
    before = len(running.gate.heard)
    with ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(ask) for _ in range(8)]
        assert started.wait(30)
        go_on.set()
        answers = {id(call.result()) for call in calls}
    assert len(answers) == 1
    assert len(running.gate.heard) == before + 1


def test_a_call_that_is_given_up_while_it_listens_leaves_the_work_to_the_next(
    running, audio_file, monkeypatch
):
    model = running.service._store.serving
    voice_id = model._voices.add([audio_file()]).voice_id
    [engine] = running.gate.engines
    listen = engine.latents
    started, gone = threading.Event(), threading.Event()

    def until_gone() -> None:
        if gone.is_set():
            raise CallEndedError

    def patiently(references, *, check):
        started.set()
        while check is until_gone:
            check()
        return listen(references, check=check)

    monkeypatch.setattr(engine, "latents", patiently)
    looks = threading.Semaphore(0)
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(model.latents, voice_id, until_gone)
        assert started.wait(30)
        second = callers.submit(model.latents, voice_id, looks.release)
        assert looks.acquire(timeout=30)
        gone.set()
        with pytest.raises(CallEndedError):
            first.result()
        assert second.result() is model.latents(voice_id)


def test_a_call_need_not_wait_for_the_end_of_anothers_work(running, audio_file, monkeypatch):
    model = running.service._store.serving
    voice_id = model._voices.add([audio_file()]).voice_id
    [engine] = running.gate.engines
    listen = engine.latents
    started, go_on = threading.Event(), threading.Event()

    def slowly(references, **how):
        started.set()
        assert go_on.wait(30)
        return listen(references, **how)

    def gone() -> None:
        raise CallEndedError

    monkeypatch.setattr(engine, "latents", slowly)
    with ThreadPoolExecutor(1) as caller:
        first = caller.submit(model.latents, voice_id)
        assert started.wait(30)
        with pytest.raises(CallEndedError):
            model.latents(voice_id, gone)
        go_on.set()
        assert first.result() is model.latents(voice_id)


def test_what_could_not_be_computed_is_tried_again(running, audio_file, monkeypatch):
    voice_id = running.client.clone_voice([audio_file()]).voice_id
    model = running.service._store.serving
    model.forget(voice_id)
    model._voices.latents.delete(voice_id)
    [engine] = running.gate.engines
    with monkeypatch.context() as patch:
        patch.setattr(engine, "latents", lambda references, **how: 1 / 0)
        with pytest.raises(ServiceError):
            running.say(voice_id)
    assert running.say(voice_id).audio


def test_memory_holds_as_many_voices_as_are_allowed_and_files_the_others(
    start, releases, audio_file
):
    releases.publish(1)
    service = start(voices={"latents_in_memory": 2})
    service.health.wait_for("SERVING")
    cloned = [
        service.client.clone_voice([audio_file(seconds)]).voice_id for seconds in (3.0, 4.0, 5.0)
    ]
    spoken = [service.say(voice_id).audio for voice_id in cloned]
    assert service.service._store.serving.voices_in_use() == cloned[1:]
    computed = len(service.gate.heard)
    assert [service.say(voice_id).audio for voice_id in cloned] == spoken
    assert len(service.gate.heard) == computed


def test_the_latents_of_the_model_that_serves_and_the_one_before_are_kept(
    running, releases, tmp_path
):
    folders = []
    for release in (2, 3, 4):
        releases.publish(release)
        running.client.reload_model()
        folders.append({path.parent.name for path in files(tmp_path)})
    assert [len(names) for names in folders] == [2, 2, 2]
    assert len(folders[0] & folders[1]) == len(folders[1] & folders[2]) == 1
    assert not folders[0] & folders[2]


def test_the_latents_of_the_model_before_outlast_a_release_that_is_refused(running, releases):
    releases.publish(2, tone={"hz": 1.0, "mute": True})
    with pytest.raises(ServiceError, match="warm-up sentence is no audio"):
        running.client.reload_model()
    releases.publish(3)
    running.client.reload_model()
    computed = len(running.gate.heard)
    releases.point(1, sha256_file(releases.root / "releases/1/manifest.json"))
    assert running.client.reload_model().release == 1
    assert len(running.gate.heard) == computed


def test_a_file_of_a_killed_writer_goes_with_its_voice(folder, reference, latents, tmp_path):
    folder.write(MANIFEST, "voice", [reference], latents)
    [path] = files(tmp_path)
    left = path.with_name(f".{path.stem}.partial.safetensors")
    os.link(path, left)
    folder.delete("voice")
    assert files(tmp_path) == []
