"""The calls of the service over a real channel."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import av
import grpc
import numpy as np
import pytest
import soundfile

from xtts_core.model.engine import Delivery
from xtts_core.model.sampling import Sampling
from xtts_grpc.audio import encode
from xtts_grpc.client import (
    Encoding,
    SamplingOptions,
    ServiceDownError,
    ServiceError,
    Speech,
    StreamEnd,
    StreamStart,
    SynthesisClient,
)
from xtts_grpc.logs import JsonFormatter
from xtts_grpc.places import CallEndedError
from xtts_grpc.v1 import synthesis_pb2 as pb
from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc

TEXT = "Bom dia, tudo bem?"


def streamed(client: SynthesisClient, **options):
    parts = list(client.stream(TEXT, voice_id="dora", seed=7, **options))
    assert isinstance(parts[0], StreamStart)
    assert isinstance(parts[-1], StreamEnd)
    assert all(isinstance(part, bytes) and part for part in parts[1:-1])
    return parts[0], b"".join(parts[1:-1]), parts[-1]


def refusal(call, *arguments, **options) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        call(*arguments, **options)
    return caught.value


def test_a_text_is_spoken_as_a_wav_file(running, pitch_hz):
    speech = running.client.synthesize(TEXT, voice_id="dora", seed=7)
    audio, rate_hz = soundfile.read(io.BytesIO(speech.audio))
    assert (rate_hz, speech.sample_rate_hz, speech.encoding) == (24_000, 24_000, Encoding.WAV)
    assert len(audio) == len(TEXT) * 1_000
    assert speech.duration_s == pytest.approx(len(audio) / 24_000)
    assert pitch_hz(audio, rate_hz) == pytest.approx(running.releases.hz(1), abs=2)
    assert speech.seed == 7
    assert speech.model_version == running.client.get_model().model_version
    assert speech.real_time_factor > 0


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("encoding", [Encoding.PCM16, Encoding.WAV, Encoding.FLAC])
def test_a_stream_joined_is_the_whole_utterance(running, encoding, rate_hz):
    whole = running.client.synthesize(
        TEXT, voice_id="dora", seed=7, encoding=encoding, sample_rate_hz=rate_hz
    )
    start, joined, end = streamed(running.client, encoding=encoding, sample_rate_hz=rate_hz)
    assert (start.encoding, start.sample_rate_hz, start.seed) == (encoding, rate_hz, 7)
    assert start.model_version == whole.model_version
    assert end.duration_s == pytest.approx(whole.duration_s)
    np.testing.assert_array_equal(decoded(joined, encoding), decoded(whole.audio, encoding))


def decoded(data: bytes, encoding: Encoding) -> np.ndarray:
    if encoding is Encoding.PCM16:
        return np.frombuffer(data, "<i2")
    # libsndfile itself does not read a FLAC of unknown length; FFmpeg does.
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return np.concatenate(frames)


def test_a_stream_comes_in_pieces_while_it_is_spoken(running):
    running.gate.shut()
    parts = running.client.stream(TEXT, voice_id="dora")
    assert isinstance(next(parts), StreamStart)
    first = next(parts)
    running.gate.wait_for_call()
    running.gate.open()
    rest = list(parts)
    assert len(first) > 0
    assert len(rest) >= 4


def test_opus_carries_the_tone_in_whole_and_in_stream(running, pitch_hz):
    whole = running.client.synthesize(TEXT, voice_id="dora", encoding=Encoding.OGG_OPUS)
    _, joined, _ = streamed(running.client, encoding=Encoding.OGG_OPUS)
    for data in (whole.audio, joined):
        audio, rate_hz = soundfile.read(io.BytesIO(data))
        assert len(audio) == pytest.approx(len(TEXT) * 1_000, abs=rate_hz * 0.05)
        assert pitch_hz(audio, rate_hz) == pytest.approx(300, abs=5)


def test_encoding_ends_where_the_check_raises():
    checks = iter(range(3))

    def check() -> None:
        if next(checks) == 2:
            raise CallEndedError

    form = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_OGG_OPUS, sample_rate_hz=48_000)
    with pytest.raises(CallEndedError):
        encode(np.zeros(10 * 24_000, np.float32), 24_000, form, check=check)
    assert list(checks) == []


def test_sentences_that_ran_away_are_counted_in_the_reply(running):
    running.gate.engines[0].delivered = Delivery(retried=3, cut=2)
    speech = running.client.synthesize(TEXT, voice_id="dora")
    assert (speech.retried_sentences, speech.cut_sentences) == (3, 2)
    _, _, end = streamed(running.client)
    assert end.cut_sentences == 2


def test_the_same_seed_gives_the_same_audio_and_a_missing_one_is_told(running):
    drawn = running.client.synthesize(TEXT, voice_id="dora")
    again = running.client.synthesize(TEXT, voice_id="dora", seed=drawn.seed)
    other = running.client.synthesize(TEXT, voice_id="dora", seed=drawn.seed ^ 1)
    assert again.audio == drawn.audio
    assert other.audio != drawn.audio


def test_speed_and_sampling_reach_the_engine(running):
    asked = SamplingOptions(
        temperature=0.5, top_k=7, top_p=0.25, repetition_penalty=2.0, max_audio_tokens=100
    )
    options = {"voice_id": "dora", "seed": 5, "sampling": asked}
    fast = running.client.synthesize(TEXT, speed=2.0, **options)
    slow = running.client.synthesize(TEXT, speed=0.5, **options)
    assert slow.duration_s == pytest.approx(4 * fast.duration_s)
    wanted = Sampling(
        temperature=0.5,
        top_k=7,
        top_p=0.25,
        repetition_penalty=2.0,
        max_audio_tokens=100,
        speed=0.5,
        seed=5,
        retries=1,
    )
    assert running.gate.engines[0].asked[-2:] == [replace(wanted, speed=2.0), wanted]


def test_what_a_call_leaves_open_is_as_the_settings_have_it(start, releases):
    releases.publish(1)
    service = start(
        engine={
            "temperature": 0.5,
            "top_k": 7,
            "top_p": 0.25,
            "repetition_penalty": 2.0,
            "penalise_prefix": False,
            "runaway_retries": 0,
        }
    )
    service.health.wait_for("SERVING")
    service.client.synthesize(TEXT, voice_id="dora", seed=5)
    assert service.gate.engines[0].asked[-1] == Sampling(
        temperature=0.5,
        top_k=7,
        top_p=0.25,
        repetition_penalty=2.0,
        penalise_prefix=False,
        retries=0,
        seed=5,
    )


def test_the_lowest_temperature_that_the_proto_promises_is_taken(running):
    lowest = SamplingOptions(temperature=0.01)
    assert running.client.synthesize(TEXT, voice_id="dora", sampling=lowest).duration_s > 0


@pytest.mark.parametrize("language", ["pt", "pt-BR", "PT_br", "en-US", "zh", "zh-CN"])
def test_language_tags_find_the_models_language(running, language):
    assert running.client.synthesize(TEXT, voice_id="dora", language=language).duration_s > 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"text": ""}, "utterance.text"),
        ({"text": " \n…!?"}, "utterance.text"),
        ({"text": "\0\x07\x1b\u200b"}, "utterance.text"),
        ({"text": "a" * 2_001}, "utterance.text"),
        ({"text": "a" * 100_000}, "utterance.text"),
        ({"language": ""}, "utterance.language"),
        ({"language": "tlh"}, "utterance.language"),
        ({"speed": 0.0}, "utterance.speed"),
        ({"speed": 2.01}, "utterance.speed"),
        ({"speed": float("nan")}, "utterance.speed"),
        ({"speed": float("inf")}, "utterance.speed"),
        ({"sampling": SamplingOptions(temperature=0.0)}, "utterance.sampling.temperature"),
        ({"sampling": SamplingOptions(temperature=0.0099)}, "utterance.sampling.temperature"),
        ({"sampling": SamplingOptions(temperature=float("inf"))}, "utterance.sampling.temperature"),
        ({"sampling": SamplingOptions(temperature=float("nan"))}, "utterance.sampling.temperature"),
        ({"sampling": SamplingOptions(top_k=0)}, "utterance.sampling.top_k"),
        ({"sampling": SamplingOptions(top_p=1.5)}, "utterance.sampling.top_p"),
        ({"sampling": SamplingOptions(top_p=float("nan"))}, "utterance.sampling.top_p"),
        (
            {"sampling": SamplingOptions(repetition_penalty=0.5)},
            "utterance.sampling.repetition_penalty",
        ),
        (
            {"sampling": SamplingOptions(repetition_penalty=float("nan"))},
            "utterance.sampling.repetition_penalty",
        ),
        ({"sampling": SamplingOptions(max_audio_tokens=0)}, "utterance.sampling.max_audio_tokens"),
        ({"sample_rate_hz": 7_999}, "format.sample_rate_hz"),
        ({"sample_rate_hz": 192_000}, "format.sample_rate_hz"),
        ({"sample_rate_hz": 22_050, "encoding": Encoding.OGG_OPUS}, "format.sample_rate_hz"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(running, options, field):
    arguments = {"text": TEXT, "voice_id": "dora", **options}
    for call in (running.client.synthesize, lambda **a: list(running.client.stream(**a))):
        error = refusal(call, **arguments)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.service_reason == "invalid_request"
        assert f"{field}: " in error.what


def test_an_encoding_that_no_version_knows_is_refused(running):
    with grpc.insecure_channel(running.address) as channel:
        request = pb.SynthesizeRequest(
            utterance=pb.Utterance(text=TEXT, language="pt"),
            voice_id="dora",
            format={"encoding": 9},
        )
        with pytest.raises(grpc.RpcError) as caught:
            pb_grpc.SynthesisServiceStub(channel).Synthesize(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "AUDIO_ENCODING_FLAC" in caught.value.details()


@pytest.mark.parametrize("voice_id", ["", "nobody", "voice-0123456789abcdef", "../dora", "v" * 300])
def test_an_unknown_voice_is_not_found(running, voice_id):
    error = refusal(running.client.synthesize, TEXT, voice_id=voice_id)
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.service_reason == "voice_not_found"


def test_a_cloned_voice_speaks_at_once_and_later(running, audio_file):
    cloned = running.client.clone_voice(
        [audio_file(4.0)], label="Alex", consent="read by himself", text=TEXT, seed=1
    )
    assert cloned.reference_s == pytest.approx(4.0)
    assert cloned.speech is not None
    later = running.client.synthesize(TEXT, voice_id=cloned.voice_id, seed=1)
    assert later.audio == cloned.speech.audio
    silent = running.client.clone_voice([audio_file(4.0)])
    assert (silent.voice_id, silent.speech) == (cloned.voice_id, None)


@pytest.mark.parametrize(
    ("form", "subtype", "rate_hz"),
    [("FLAC", "PCM_16", 44_100), ("OGG", "VORBIS", 22_050), ("MP3", "MPEG_LAYER_III", 44_100)],
)
def test_reference_audio_may_come_in_common_formats(running, audio_file, form, subtype, rate_hz):
    stereo = np.random.default_rng(0).normal(0, 0.1, (5 * rate_hz, 2))
    data = audio_file(samples=stereo, rate_hz=rate_hz, form=form, subtype=subtype)
    assert running.client.clone_voice([data]).reference_s == pytest.approx(5.0, abs=0.1)


def test_reference_audio_that_cannot_be_used_is_refused_with_the_reason(running, audio_file):
    nan = np.full(5 * 22_050, np.nan, np.float32)
    cases = {
        "cannot be read as audio": [b"RIFF of nothing"],
        "is silent": [audio_file(samples=np.zeros(5 * 22_050))],
        "no numbers": [audio_file(samples=nan, subtype="FLOAT")],
        "2.00 s long": [audio_file(2.0)],
        "longer than 30 s": [audio_file(8.0)] * 4,
        "0 reference files": [],
        "11 reference files": [audio_file(1.0)] * 11,
        "4000 Hz is out of range": [audio_file(samples=np.ones(20_000) * 0.1, rate_hz=4_000)],
        "3 channels": [audio_file(samples=np.full((5 * 22_050, 3), 0.1))],
        "references[1]": [audio_file(4.0), b""],
        "shorter than 0.5 s": [audio_file(4.0), audio_file(0.4)],
    }
    for reason, files in cases.items():
        error = refusal(running.client.clone_voice, files)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in error.what
    for described in ({"label": "x" * 201}, {"consent": "x" * 2_001}):
        error = refusal(running.client.clone_voice, [audio_file()], **described)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_voice_is_not_kept_when_its_text_cannot_be_spoken(running, audio_file):
    refusal(running.client.clone_voice, [audio_file()], text="")
    assert list(running.client.list_voices()) == []


def test_a_request_that_is_too_large_is_refused(start, releases, audio_file):
    releases.publish(1)
    service = start(server={"max_message_bytes": 100_000})
    service.health.wait_for("SERVING")
    error = refusal(service.client.clone_voice, [audio_file(6.0)])
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def crowded(start, releases, request):
    """A service with two places, both taken, one call that waits, and the error of one more."""
    releases.publish(1)
    service = start(
        server={
            "max_concurrent_calls": 2,
            "max_waiting_calls": 1,
            **getattr(request, "param", {}),
        }
    )
    service.health.wait_for("SERVING")
    service.gate.shut()
    with grpc.insecure_channel(service.address) as channel:
        speak = pb_grpc.SynthesisServiceStub(channel).Synthesize
        utterance = pb.Utterance(text=TEXT, language="pt")

        def begin() -> Any:
            asked = pb.SynthesizeRequest(utterance=utterance, voice_id="dora")
            return speak.future(asked, timeout=60)

        answered = [begin() for _ in range(2)]
        service.gate.wait_for_call()
        service.gate.wait_for_call()
        refused, waiting = one_of_two(begin(), begin())
        yield service, answered, waiting, refused


def one_of_two(first, second):
    """The call that ends first, and the other one."""
    ended = threading.Semaphore(0)
    for call in (first, second):
        call.add_done_callback(lambda _: ended.release())
    assert ended.acquire(timeout=30)
    return (first, second) if first.done() else (second, first)


def test_calls_wait_for_a_place_and_one_more_is_told_when_to_come_again(crowded):
    service, answered, waiting, refused = crowded
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 calls are being answered and 1 wait" in refused.details()
    assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    error = refusal(service.client.synthesize, TEXT, voice_id="dora")
    assert (error.service_reason, error.retry_after_s > 0) == ("overloaded", True)
    assert service.client.get_model().serving, "a crowd must not hide what serves"
    assert not waiting.done()
    service.gate.open()
    for call in (*answered, waiting):
        assert call.result().speech.duration_s > 0
    assert service.client.synthesize(TEXT, voice_id="dora").duration_s > 0


def test_calls_that_wait_are_answered_while_the_service_stops(crowded):
    service, answered, waiting, _ = crowded
    with ThreadPoolExecutor(1) as stopping:
        stopped = stopping.submit(service.service.stop)
        until_new_calls_are_refused(service.address)
        service.gate.open()
        for call in (*answered, waiting):
            assert call.result().speech.duration_s > 0
        stopped.result()


@pytest.mark.parametrize("crowded", [{"drain_s": 0.0}], indirect=True)
def test_calls_that_wait_longer_than_the_drain_end_with_a_status(crowded):
    service, answered, waiting, _ = crowded
    with ThreadPoolExecutor(1) as stopping:
        stopped = stopping.submit(service.service.stop)
        for call in (*answered, waiting):
            assert call.code() is grpc.StatusCode.UNAVAILABLE
        service.gate.open()
        stopped.result()


def until_new_calls_are_refused(address: str) -> None:
    with SynthesisClient(address) as late, contextlib.suppress(ServiceDownError):
        while late.get_model():
            pass


def test_a_caller_that_goes_away_frees_its_place(start, releases):
    releases.publish(1)
    service = start(server={"max_concurrent_calls": 1, "max_waiting_calls": 0})
    service.health.wait_for("SERVING")
    service.gate.shut()
    parts = service.client.stream(TEXT, voice_id="dora")
    next(parts)
    service.gate.wait_for_call()
    parts.close()
    service.gate.open()
    assert spoken_after_refusals(service.client).duration_s > 0


def test_a_stream_that_nobody_reads_gives_its_place_to_the_next_call(start, releases, logged):
    lines = logged(JsonFormatter())
    releases.publish(1)
    service = start(server={"max_concurrent_calls": 1, "max_waiting_calls": 1, "max_unread_s": 0.3})
    service.health.wait_for("SERVING")
    # 8 MB: gRPC keeps 4 on the way.
    unread = service.client.stream("ah " * 660, voice_id="dora", sample_rate_hz=48_000)
    next(unread)
    assert service.client.synthesize(TEXT, voice_id="dora").duration_s > 0
    assert refusal(list, unread).code is grpc.StatusCode.CANCELLED
    ended = [json.loads(line) for line in lines.written if "has read nothing" in line]
    calls = [json.loads(lines.next_call()) for _ in range(2)]
    assert [line["call_id"] for line in ended] == [
        line["call_id"] for line in calls if line["method"] == "SynthesizeStream"
    ]


def spoken_after_refusals(client: SynthesisClient) -> Speech:
    while True:
        try:
            return client.synthesize(TEXT, voice_id="dora")
        except ServiceError as error:
            if error.service_reason != "overloaded":
                raise


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
def test_a_deadline_that_passes_ends_the_call_and_its_work(running, streams, logged):
    lines = logged(JsonFormatter())
    running.gate.shut()
    with SynthesisClient(running.address, timeout_s=0.2) as hasty:
        call = (lambda *a, **o: list(hasty.stream(*a, **o))) if streams else hasty.synthesize
        error = refusal(call, TEXT, voice_id="dora")
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert running.gate.engines[0].left.acquire(timeout=30)
    assert json.loads(lines.next_call())["status"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("method", ["Synthesize", "SynthesizeStream", "CloneVoice"])
def test_a_call_that_is_cancelled_ends_its_work(running, audio_file, method, logged):
    lines = logged(JsonFormatter())
    utterance = pb.Utterance(text=TEXT, language="pt")
    running.gate.shut()
    with grpc.insecure_channel(running.address) as channel:
        stub = pb_grpc.SynthesisServiceStub(channel)
        if method == "SynthesizeStream":
            call = stub.SynthesizeStream(
                pb.SynthesizeStreamRequest(utterance=utterance, voice_id="dora")
            )
        elif method == "Synthesize":
            call = stub.Synthesize.future(
                pb.SynthesizeRequest(utterance=utterance, voice_id="dora")
            )
        else:
            call = stub.CloneVoice.future(
                pb.CloneVoiceRequest(utterance=utterance, references=[audio_file()])
            )
        running.gate.wait_for_call()
        call.cancel()
    assert running.gate.engines[0].left.acquire(timeout=30)
    assert json.loads(lines.next_call())["status"] == "CANCELLED"


def test_a_failure_inside_the_engine_is_internal_and_tells_no_more(running, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(running.gate.engines[0], "stream", fail)
    error = refusal(running.client.synthesize, TEXT, voice_id="dora")
    assert (error.code, error.service_reason) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret" not in error.what


@pytest.mark.parametrize(
    "audio", [np.zeros(0, np.float32), np.full(24_000, np.nan, np.float32)], ids=["none", "nan"]
)
def test_audio_that_is_none_is_an_error_and_no_file(running, monkeypatch, audio):
    monkeypatch.setattr(
        running.gate.engines[0], "stream", lambda *_, **__: (part for part in [audio])
    )
    for call in (running.client.synthesize, lambda *a, **o: list(running.client.stream(*a, **o))):
        error = refusal(call, TEXT, voice_id="dora")
        assert (error.code, error.service_reason) == (grpc.StatusCode.INTERNAL, "invalid_model")


def test_get_model_describes_what_serves(running):
    model = running.client.get_model()
    assert model.serving
    assert model.release == 1
    assert model.source == "release"
    assert model.languages == ("pt", "en", "zh-cn")
    assert model.speakers == ("dora",)
    assert model.native_sample_rate_hz == 24_000
    assert model.loaded_at is not None
    assert (model.fallback_reason, model.last_error, model.last_error_at) == ("", "", None)


def test_a_service_that_is_not_there_is_told_apart_from_one_that_refuses():
    with SynthesisClient("127.0.0.1:1", timeout_s=5) as client, pytest.raises(ServiceDownError):
        client.get_model()


@pytest.mark.parametrize("text", ["mais " + "%" * 1_900, "999999 " * 280])
def test_a_short_text_that_takes_an_hour_to_read_out_is_refused(running, text):
    for call in (running.client.synthesize, lambda *a, **o: list(running.client.stream(*a, **o))):
        error = refusal(call, text, voice_id="dora", language="pt")
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT
        assert "written out" in str(error)
