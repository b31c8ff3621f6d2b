"""ListVoices, GetVoice and DeleteVoice over a real channel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import numpy as np
import pytest
import soundfile

from xtts_grpc.client import ServiceError
from xtts_grpc.v1 import synthesis_pb2 as pb
from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc

TEXT = "Bom dia."


@pytest.fixture
def cloned(running, audio_file):
    """Three voices, by their ids."""
    voices = [
        running.client.clone_voice([audio_file(seconds)] * count, label=label, consent="own voice")
        for seconds, count, label in ((4.0, 1, "Alex"), (5.0, 1, "Dora"), (6.0, 2, "Bia"))
    ]
    return sorted(voice.voice_id for voice in voices)


def test_voices_are_listed_as_they_were_described(running, cloned):
    listed = list(running.client.list_voices())
    assert [voice.voice_id for voice in listed] == cloned
    assert {voice.label for voice in listed} == {"Alex", "Dora", "Bia"}
    (bia,) = [voice for voice in listed if voice.label == "Bia"]
    assert (bia.reference_s, bia.reference_count) == (pytest.approx(12.0), 2)
    assert bia.consent == "own voice"
    assert abs(datetime.now(UTC) - bia.created_at) < timedelta(minutes=5)
    assert running.client.get_voice(bia.voice_id) == bia


def test_a_service_without_voices_lists_none(running):
    assert list(running.client.list_voices()) == []


def test_pages_joined_are_the_whole_list(running, cloned):
    stub = pb_grpc.SynthesisServiceStub(grpc.insecure_channel(running.address))
    first = stub.ListVoices(pb.ListVoicesRequest(page_size=2))
    second = stub.ListVoices(pb.ListVoicesRequest(page_size=2, page_token=first.next_page_token))
    assert [len(first.voices), len(second.voices)] == [2, 1]
    assert [voice.voice_id for voice in [*first.voices, *second.voices]] == cloned
    assert second.next_page_token == ""
    exact = stub.ListVoices(pb.ListVoicesRequest(page_size=3))
    assert exact.next_page_token == ""


@pytest.mark.parametrize("token", ["\0", "../..", "voice-", "a" * 100_000])
def test_a_page_token_that_no_page_gave_starts_after_it(running, cloned, token):
    stub = pb_grpc.SynthesisServiceStub(grpc.insecure_channel(running.address))
    page = stub.ListVoices(pb.ListVoicesRequest(page_size=2, page_token=token))
    after = [voice_id for voice_id in cloned if voice_id > token]
    assert [voice.voice_id for voice in page.voices] == after[:2]


def test_a_page_that_is_too_large_is_refused(running):
    stub = pb_grpc.SynthesisServiceStub(grpc.insecure_channel(running.address))
    with pytest.raises(grpc.RpcError, match="page_size: 1001 items are too many") as refused:
        stub.ListVoices(pb.ListVoicesRequest(page_size=1_001))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_deleted_voice_is_gone_from_the_disk_and_from_the_model(running, cloned, tmp_path):
    gone, *left = cloned
    for voice_id in cloned:
        running.client.synthesize(TEXT, voice_id=voice_id)
    running.client.delete_voice(gone)
    assert [voice.voice_id for voice in running.client.list_voices()] == left
    assert sorted(path.name for path in (tmp_path / "voices").iterdir()) == [".latents", *left]
    for call in (
        lambda: running.client.synthesize(TEXT, voice_id=gone),
        lambda: running.client.get_voice(gone),
        lambda: running.client.delete_voice(gone),
    ):
        with pytest.raises(ServiceError, match="There is no voice") as refused:
            call()
        assert refused.value.code is grpc.StatusCode.NOT_FOUND
    running.client.synthesize(TEXT, voice_id=left[0])


def test_a_deleted_voice_can_be_cloned_again(running, audio_file):
    voice = running.client.clone_voice([audio_file(4.0)], label="first")
    running.client.delete_voice(voice.voice_id)
    again = running.client.clone_voice([audio_file(4.0)], label="second")
    assert again.voice_id == voice.voice_id
    assert running.client.get_voice(again.voice_id).label == "second"


@pytest.mark.parametrize(
    "voice_id", ["", "..", "../voices", "voice-0000000000000000", "Dora", "a\0b", "v" * 300]
)
def test_what_is_no_cloned_voice_is_neither_told_of_nor_deleted(running, voice_id, tmp_path):
    (tmp_path / "voices" / "Dora").mkdir(parents=True)
    for call in (running.client.get_voice, running.client.delete_voice):
        with pytest.raises(ServiceError) as refused:
            call(voice_id)
        assert refused.value.code is grpc.StatusCode.NOT_FOUND
    assert (tmp_path / "voices" / "Dora").is_dir()


def test_what_a_killed_service_left_of_a_deleted_voice_goes_with_the_next(
    running, cloned, tmp_path
):
    voices = tmp_path / "voices"
    (voices / cloned[0]).rename(voices / f".deleted-{cloned[0]}-0011")
    assert [voice.voice_id for voice in running.client.list_voices()] == cloned[1:]
    running.client.delete_voice(cloned[1])
    assert sorted(path.name for path in voices.iterdir()) == [".latents", *cloned[2:]]


@pytest.fixture
def damaged(running, cloned, tmp_path):
    """The first of the three voices, whose record is cut short."""
    record = tmp_path / "voices" / cloned[0] / "voice.json"
    record.write_text(record.read_text()[:40])
    return cloned[0]


def test_a_damaged_voice_hides_no_other_and_is_named(running, cloned, damaged):
    assert [voice.voice_id for voice in running.client.list_voices()] == cloned[1:]
    for call in (running.client.get_voice, running.say):
        with pytest.raises(ServiceError, match=f"The voice {damaged} is damaged") as refused:
            call(damaged)
        assert refused.value.code is grpc.StatusCode.NOT_FOUND


def test_a_damaged_voice_can_be_deleted(running, damaged, tmp_path):
    running.client.delete_voice(damaged)
    assert not (tmp_path / "voices" / damaged).exists()


@pytest.mark.parametrize("left", ["a folder", "a record that is cut short"])
def test_a_damaged_voice_can_be_cloned_again(start, releases, audio_file, tmp_path, left):
    releases.publish(1)
    service = start(limits={"max_voices": 1})
    service.health.wait_for("SERVING")
    voice = service.client.clone_voice([audio_file()])
    record = tmp_path / "voices" / voice.voice_id / "voice.json"
    record.unlink() if left == "a folder" else record.write_text("{")
    assert service.client.clone_voice([audio_file()]).voice_id == voice.voice_id
    assert service.say(voice.voice_id).duration_s > 0


@pytest.mark.parametrize("damage", ["cut", "lost", "somebody else"])
def test_a_voice_whose_recording_is_damaged_is_told_of_as_that(
    start, releases, audio_file, tmp_path, damage
):
    releases.publish(1)
    before = start()
    before.health.wait_for("SERVING")
    voice_id = before.client.clone_voice([audio_file()]).voice_id
    [recording] = (tmp_path / "voices" / voice_id).glob("*.wav")
    if damage == "lost":
        recording.unlink()
    else:
        recording.write_bytes(b"RIFF" if damage == "cut" else audio_file(4.0))
    after = start()
    after.health.wait_for("SERVING")
    with pytest.raises(ServiceError, match=f"The voice {voice_id} is damaged") as refused:
        after.say(voice_id)
    assert refused.value.code is grpc.StatusCode.NOT_FOUND


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


def test_a_recording_over_full_scale_is_brought_down_and_not_cut(
    running, audio_file, recording, tmp_path
):
    loud = 3 * recording / np.abs(recording).max()
    voice_id = running.client.clone_voice([audio_file(samples=loud, subtype="FLOAT")]).voice_id
    [kept] = (tmp_path / "voices" / voice_id).glob("*.wav")
    samples, _ = soundfile.read(kept)
    assert np.abs(samples - loud / 3).max() < 1e-4


def test_the_references_of_a_voice_are_mono_wav_files_at_22_050_hz(running, audio_file, tmp_path):
    voice_id = running.client.clone_voice([audio_file(2.0), audio_file(3.0)]).voice_id
    files = sorted((tmp_path / "voices" / voice_id).glob("*.wav"))
    kinds = [(soundfile.info(f).samplerate, soundfile.info(f).channels) for f in files]
    assert kinds == [(22_050, 1), (22_050, 1)]
