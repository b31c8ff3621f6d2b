"""What strangers send: values, messages and audio files that are wrong in every way there is."""

from __future__ import annotations

import io
import socket
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import grpc
import numpy as np
import pytest
import soundfile
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtts_core.errors import DecodeError as BadAudioError
from xtts_core.errors import RequestError
from xtts_grpc.client import ServiceError
from xtts_grpc.references import decode_references
from xtts_grpc.v1 import synthesis_pb2 as pb

TEXT = "Bom dia!"
PLACES = 4
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
REQUESTS: dict[str, type[Message]] = {
    "Synthesize": pb.SynthesizeRequest,
    "SynthesizeStream": pb.SynthesizeStreamRequest,
    "CloneVoice": pb.CloneVoiceRequest,
    "ListVoices": pb.ListVoicesRequest,
    "GetVoice": pb.GetVoiceRequest,
    "DeleteVoice": pb.DeleteVoiceRequest,
}


def mostly(good: Any, hostile: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Good often enough that the other fields of a message matter too."""
    return st.integers(0, 7).flatmap(lambda number: hostile if number == 7 else st.just(good))


TEXTS = mostly(
    TEXT,
    st.one_of(
        st.text(max_size=80),
        st.sampled_from(["", " \n\t", "…!?", "\0\x07\x1b[2J", "a" * 100_000, "²", "\u202e9" * 50]),
    ),
)
LANGUAGES = mostly(
    "pt-BR",
    st.one_of(st.text(max_size=8), st.sampled_from(["", "tlh", "-", "zh", "pt\0", "x" * 50_000])),
)
FLOATS = st.none() | st.floats(width=32) | st.sampled_from([0.5, 1.0, 2.0])
NUMBERS = st.none() | st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1])
SAMPLINGS = st.builds(
    pb.SamplingSettings,
    temperature=FLOATS,
    top_k=NUMBERS,
    top_p=FLOATS,
    repetition_penalty=FLOATS,
    max_audio_tokens=NUMBERS,
)
UTTERANCES = st.builds(
    pb.Utterance,
    text=TEXTS,
    language=LANGUAGES,
    speed=mostly(None, FLOATS),
    sampling=mostly(None, SAMPLINGS),
    seed=NUMBERS,
)
FORMATS = st.builds(
    pb.AudioFormat,
    sample_rate_hz=mostly(None, NUMBERS | st.sampled_from([8_000, 22_050, 48_000])),
    encoding=st.sampled_from([0, 1, 2, 3, 4, 5, -1, 2**31 - 1]),
)
NO_VOICE_IDS = st.text(max_size=30) | st.sampled_from(
    [
        *("", ".", "..", "../dora", "/etc/passwd", "a\0b", "v" * 300, "🎙" * 100_000),
        *("voice-" + "0" * 16, "voice-" + "0" * 16 + "\n", ".deleted-voice"),
    ]
)
VOICE_IDS = mostly("dora", NO_VOICE_IDS)


def damaged(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """`data` with each edit made at its place (modulo the length)."""
    for kind, place, patch in edits:
        at = place % (len(data) + 1)
        match kind:
            case "overwrite":
                data = data[:at] + patch + data[at + len(patch) :]
            case "insert":
                data = data[:at] + patch + data[at:]
            case "remove":
                data = data[:at] + data[at + len(patch) :]
            case "flip":
                data = data[:at] + bytes(b ^ patch[0] for b in data[at : at + 1]) + data[at + 1 :]
            case "cut":
                data = data[:at]
    return data


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "remove", "flip", "cut"]),
        st.integers(0, 80) | st.integers(0, 2**18),
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f" * 8]),
    ),
    max_size=4,
)


def calls(files: list[bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    """A method's name and the bytes of its request."""
    references = st.lists(
        st.builds(damaged, st.sampled_from(files), EDITS) | st.binary(max_size=60), max_size=3
    )
    labels = mostly("Alex", st.text(max_size=300) | st.just("x" * 100_000))
    messages = st.one_of(
        st.builds(pb.SynthesizeRequest, utterance=UTTERANCES, voice_id=VOICE_IDS, format=FORMATS),
        st.builds(
            pb.SynthesizeStreamRequest, utterance=UTTERANCES, voice_id=VOICE_IDS, format=FORMATS
        ),
        st.builds(
            pb.CloneVoiceRequest,
            references=references,
            label=labels,
            consent=labels,
            utterance=mostly(None, UTTERANCES),
            format=mostly(None, FORMATS),
        ),
        st.builds(pb.CloneVoiceRequest, references=references.filter(bool)),
        st.builds(pb.ListVoicesRequest, page_size=NUMBERS, page_token=NO_VOICE_IDS),
        st.builds(pb.GetVoiceRequest, voice_id=NO_VOICE_IDS),
        st.builds(pb.DeleteVoiceRequest, voice_id=NO_VOICE_IDS),
    )
    names = {kind: name for name, kind in REQUESTS.items()}
    whole = messages.map(lambda message: (names[type(message)], message.SerializeToString()))
    broken = st.builds(lambda call, edits: (call[0], damaged(call[1], edits)), whole, EDITS)
    raw = st.tuples(st.sampled_from(list(REQUESTS)), st.binary(max_size=200))
    return st.one_of(whole, whole, whole, broken, raw)


class Stranger:
    """Sends bytes as they are, and keeps count of how the calls ended."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.ends: Counter[str] = Counter()
        self._methods: dict[str, Any] = {
            name: (channel.unary_stream if name == "SynthesizeStream" else channel.unary_unary)(
                f"/xtts.v1.SynthesisService/{name}"
            )
            for name in REQUESTS
        }

    def send(self, name: str, data: bytes, *, leave: bool) -> None:
        """Make a call; `leave` makes it one that is given up within moments."""
        error = self._failure(name, data, leave=leave)
        code = error.code() if error else grpc.StatusCode.OK
        self.ends[code.name] += 1
        if code is grpc.StatusCode.OK:
            return
        if leave and code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
            return
        if parses(REQUESTS[name], data):
            assert code in REFUSALS, error
            assert "xtts-reason" in dict(error.trailing_metadata()), error
        else:
            assert code is grpc.StatusCode.INTERNAL, error
            assert "deserializing" in error.details(), error

    def _failure(self, name: str, data: bytes, *, leave: bool) -> Any:
        try:
            if name == "SynthesizeStream":
                call = self._methods[name](data, timeout=30)
                for _ in call:
                    if leave:
                        call.cancel()
            else:
                self._methods[name](data, timeout=0.001 if leave else 30)
        except grpc.RpcError as error:
            return error
        return None


def parses(kind: type[Message], data: bytes) -> bool:
    try:
        kind.FromString(data)
    except DecodeError:
        return False
    return True


@pytest.fixture
def quick(start, releases):
    """A service whose speech is short, with few places, that keeps few voices."""
    releases.publish(1)
    service = start(
        server={"max_concurrent_calls": PLACES, "max_waiting_calls": PLACES},
        limits={"max_text_characters": 100, "max_voices": 20},
    )
    service.health.wait_for("SERVING")
    service.gate.engines[0].character_samples = 100
    service.gate.engines[0].chunk_samples = 200
    return service


@pytest.fixture(scope="session")
def files(recording: np.ndarray) -> list[bytes]:
    """The same speech as a small file of each kind that is taken."""
    made = []
    for form, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAV", "IMA_ADPCM"),
        ("RF64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ):
        file = io.BytesIO()
        soundfile.write(file, recording[:84_000:2], 12_000, format=form, subtype=subtype)
        made.append(file.getvalue())
    return made + [
        contained(recording[:84_000:2], container, codec)
        for container, codec in (("mp4", "aac"), ("ipod", "alac"), ("webm", "libopus"))
    ]


def contained(samples: np.ndarray, container: str, codec: str) -> bytes:
    """Samples at 12 000 Hz as telephones and browsers record them."""
    sound = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples[None]), format="fltp", layout="mono"
    )
    sound.sample_rate = 12_000
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        track: Any = out.add_stream(codec, rate=12_000, layout="mono")
        resampler = av.AudioResampler(track.codec_context.format, "mono", 12_000)
        for frame in resampler.resample(sound):
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return file.getvalue()


def test_every_kind_of_file_that_is_taken_is_taken(quick, files):
    for data in files:
        # AAC has a block of silence before and after.
        assert quick.client.clone_voice([data]).reference_s == pytest.approx(3.5, abs=0.2)


@pytest.mark.parametrize("cases", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_whatever_is_sent_ends_with_a_status_that_says_why_and_blocks_nothing(quick, files, cases):
    with grpc.insecure_channel(quick.address) as channel:
        stranger = Stranger(channel)

        @settings(
            max_examples=cases,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(call=calls(files), leave=st.sampled_from([False] * 9 + [True]))
        def send(call: tuple[str, bytes], leave: bool) -> None:
            stranger.send(*call, leave=leave)

        send()
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"} <= stranger.ends.keys()
    every_place_is_free(quick)


def every_place_is_free(service) -> None:
    service.gate.shut()
    with ThreadPoolExecutor(PLACES) as callers:
        spoken = [
            callers.submit(service.client.synthesize, TEXT, voice_id="dora") for _ in range(PLACES)
        ]
        for _ in spoken:
            service.gate.wait_for_call()
        service.gate.open()
        assert all(call.result().duration_s > 0 for call in spoken)


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_a_message_over_the_limit_is_refused_however_small_it_was_packed(running, compression):
    message = pb.SynthesizeRequest(voice_id="a" * 100_000_000).SerializeToString()
    with grpc.insecure_channel(running.address) as channel:
        call = channel.unary_unary("/xtts.v1.SynthesisService/Synthesize")
        with pytest.raises(grpc.RpcError, match="larger than max") as refused:
            call(message, timeout=60, compression=compression)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert running.client.synthesize(TEXT, voice_id="dora").duration_s > 0


def test_a_message_that_says_it_has_4_gb_is_refused_before_it_comes(running):
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/xtts.v1.SynthesisService/CloneVoice",
        ":authority": "stranger",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    # RFC 9113 and, for the fields, RFC 7541, section 6.2.2: literals that are not indexed.
    fields = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    hello, ask, claim = frame(4, 0, 0), frame(1, 4, 1, fields), frame(0, 0, 1, b"\0" + b"\xff" * 4)
    host, port = running.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hello + ask + claim)
        answers = connection.makefile("rb")
        kind = None
        while kind != 1:
            head = answers.read(9)
            kind, payload = head[3], answers.read(int.from_bytes(head[:3], "big"))
    assert b"grpc-status\x018" in payload
    assert b"larger than max (4294967295 vs. 16777216)" in payload
    assert running.client.synthesize(TEXT, voice_id="dora").duration_s > 0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def wav(samples: bytes = b"\1\2" * 100_000, **header: int) -> bytes:
    """A WAV file whose header says what it is told to."""
    says = {"channels": 1, "rate": 22_050, "bits": 16, "size": len(samples), **header}
    block = says["channels"] * says["bits"] // 8
    return (
        struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", says["size"] + 36 & 0xFFFFFFFF, b"WAVE", b"fmt ", 16, 1, says["channels"]),
            *(says["rate"], says["rate"] * block & 0xFFFFFFFF, block & 0xFFFF, says["bits"]),
            *(b"data", says["size"]),
        )
        + samples
    )


def test_the_header_that_the_others_change_is_a_right_one():
    assert len(decode_references([wav()], 30.0)[0]) == 100_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wav(channels=1_000), "1000 channels are too many"),
        (wav(channels=65_535), "cannot be read as audio"),
        (wav(channels=0), "cannot be read as audio"),
        (wav(rate=2_000_000_000), "2000000000 Hz is out of range"),
        (wav(rate=0), "cannot be read as audio"),
        (wav(bits=0), "cannot be read as audio"),
        (wav(b"", size=2**32 - 1), "silent"),
        (b"RIFF" + b"\xff" * 200, "cannot be read as audio"),
        (b"ID3\x04\0\0" + b"\x7f" * 4 + b"x" * 200, "cannot be read as audio"),
        (b".snd" + b"\0" * 200, "in none of these formats"),
        (b"PK\x03\x04" + b"\0" * 200, "in none of these formats"),
        (b"\xff", "in none of these formats"),
    ],
)
def test_a_header_that_lies_is_refused(data, reason):
    with pytest.raises(BadAudioError, match=reason) as refused:
        decode_references([data], 30.0)
    assert "0x" not in str(refused.value), "no addresses of objects"


@pytest.fixture(scope="session")
def vorbis(recording: np.ndarray) -> bytes:
    """An Ogg Vorbis file whose comments take several pages."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 22_050, 1, format="OGG", subtype="VORBIS") as writer:
        writer.title = "x" * 200_000
        writer.write(recording)
    return file.getvalue()


def test_ogg_headers_of_several_pages_are_read(vorbis):
    assert vorbis.count(b"OggS", 0, 200_000) > 3
    assert len(decode_references([vorbis], 30.0)[0]) == pytest.approx(8 * 22_050, abs=100)


@pytest.mark.parametrize(
    "damage",
    [
        # libsndfile would refuse all of these too, and keep the comments for ever.
        lambda data, comments: data[:comments],
        lambda data, comments: data[: comments + 100_000],
        lambda data, comments: data[: comments + 10] + data[comments + 11 :],
        lambda data, comments: damaged(data, [("flip", comments + 1_000, b"\1")]),
        lambda data, comments: damaged(data, [("flip", comments + 14, b"\1")]),
        lambda data, comments: damaged(data, [("flip", 30, b"\1")]),
        lambda data, comments: data[:comments] + data[data.index(b"OggS", comments + 4) :],
    ],
    ids=["end", "cut", "short", "content", "serial", "first page", "page"],
)
def test_damaged_ogg_headers_never_reach_the_parser_that_leaks(vorbis, damage):
    comments = vorbis.index(b"OggS", 4)
    with pytest.raises(BadAudioError, match="Ogg headers are damaged"):
        decode_references([damage(vorbis, comments)], 30.0)


def test_a_file_that_says_it_has_2_to_the_60th_bytes_has_what_it_holds():
    samples = b"\1\2" * 100_000
    data = struct.pack(
        "<4sI4s4sIQQQI4sIHHIIHH4sI",
        *(b"RF64", 0xFFFFFFFF, b"WAVE", b"ds64", 28, 2**60, 2**60, 2**59, 0),
        *(b"fmt ", 16, 1, 1, 22_050, 44_100, 2, 16, b"data", 0xFFFFFFFF),
    )
    assert len(decode_references([data + samples], 30.0)[0]) == 100_000


def test_an_hour_in_a_small_file_is_refused_after_its_first_seconds(monkeypatch):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(3_600 * 8_000, np.int16), 8_000, format="FLAC")
    assert len(file.getvalue()) < 100_000
    taken = []
    read = soundfile.SoundFile.read

    def counted(*arguments: Any, **options: Any) -> Any:
        audio = read(*arguments, **options)
        taken.append(len(audio))
        return audio

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    with pytest.raises(RequestError, match="longer than 30 s"):
        decode_references([file.getvalue()], 30.0)
    assert taken == [30 * 8_000 + 1]


def test_of_a_long_recording_of_a_browser_only_the_first_seconds_are_read(demo, monkeypatch):
    data = (demo / "cidade-alex.webm").read_bytes()
    taken = []

    class Counted:
        def __init__(self, **form: Any) -> None:
            self._counted = resampler(**form)

        def resample(self, frame: Any) -> Any:
            taken.append(frame.samples)
            return self._counted.resample(frame)

    resampler = av.AudioResampler
    monkeypatch.setattr(av, "AudioResampler", Counted)
    with pytest.raises(RequestError, match="longer than 5 s"):
        decode_references([data], 5.0)
    assert 5 * 48_000 < sum(taken) < 5.1 * 48_000


def stating(data: bytes, box: bytes, *fields: int) -> bytes:
    """An M4A whose box of this name begins with these numbers, without the bytes for them."""
    at = data.index(box) + len(box)
    said = struct.pack(f">{len(fields)}I", *fields)
    return data[:at] + said + data[at + len(said) :]


@pytest.mark.parametrize("fields", [(0, 1, 10_000_000), (0, 1, 2**32 - 1), (0, 0, 10_000_000)])
def test_an_m4a_that_states_millions_of_samples_gets_no_room_for_them(recording, fields):
    data = contained(recording[:84_000:2], "ipod", "aac")
    assert len(decode_references([data], 30.0)[0]) > 70_000
    with pytest.raises(BadAudioError, match="more than it can hold"):
        decode_references([stating(data, b"stsz", *fields)], 30.0)


@pytest.mark.parametrize(
    "box",
    [
        struct.pack(">I4s4s", 12, b"cmov", b"zlib"),
        struct.pack(">I4sI4sII", 24, b"free", 16, b"trun", 0, 10_000_000),
        struct.pack(">I4sI4sII", 3, b"????", 16, b"trun", 0, 10_000_000),
    ],
    ids=["packed", "in a free box", "after what is no box"],
)
def test_boxes_that_unpack_are_found_wherever_they_lie(recording, box):
    data = contained(recording[:84_000:2], "ipod", "aac")
    with pytest.raises(BadAudioError, match="more than it can hold"):
        decode_references([data + box], 30.0)


def test_what_only_sounds_like_a_box_is_media(recording):
    data = contained(recording[:84_000:2], "ipod", "aac")
    media = b"trun" + b"\xff" * 12
    more = struct.pack(">I4s", 8 + len(media), b"mdat") + media
    wide = struct.pack(">I4sQ", 1, b"mdat", 16 + len(media)) + media
    assert len(decode_references([data + more + wide], 30.0)[0]) > 70_000


@pytest.mark.parametrize(
    ("container", "codec", "reason"),
    [("mov", "pcm_s16le", "codec pcm_s16le is not taken"), ("mp4", "mpeg4", "no audio track")],
)
def test_a_container_without_a_track_that_is_taken_is_refused(container, codec, reason):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        if codec == "mpeg4":
            track: Any = out.add_stream(codec, rate=25, width=64, height=64, pix_fmt="yuv420p")
            frame: Any = av.VideoFrame(64, 64, "yuv420p")
        else:
            track = out.add_stream(codec, rate=8_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 8_000), np.int16), format="s16", layout="mono"
            )
            frame.sample_rate = 8_000
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    with pytest.raises(BadAudioError, match=reason):
        decode_references([file.getvalue()], 30.0)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, "no numbers"),
        (np.inf, "no numbers"),
        (-np.inf, "no numbers"),
        (3e38, "far over full scale"),
        (32_767.0, "far over full scale"),
    ],
)
def test_samples_that_no_recording_has_are_refused(audio_file, recording, value, reason):
    samples = recording.copy()
    samples[50_000] = value
    with pytest.raises(BadAudioError, match=reason):
        decode_references([audio_file(samples=samples, subtype="FLOAT")], 30.0)


def test_two_channels_that_cancel_out_to_no_number_are_refused(audio_file):
    stereo = np.tile(np.array([[np.inf, -np.inf]], np.float32), (88_200, 1))
    with pytest.raises(BadAudioError, match="no numbers"):
        decode_references([audio_file(samples=stereo, subtype="FLOAT")], 30.0)


def test_what_is_refused_is_quoted_shortly(running):
    for call in (
        lambda: running.client.synthesize(TEXT, voice_id="🎙" * 100_000),
        lambda: running.client.synthesize(TEXT, voice_id="dora", language="x" * 100_000),
        lambda: running.client.get_voice("v" * 100_000),
        lambda: running.client.delete_voice("v" * 300),
    ):
        with pytest.raises(ServiceError) as refused:
            call()
        assert refused.value.service_reason in ("voice_not_found", "invalid_request")
        assert len(refused.value.what) < 300
