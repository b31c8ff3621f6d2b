from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf
from PIL import Image

from xtts_core.corpus.decode import MAX_HOLES, DamagedError, decode
from xtts_core.errors import DecodeError

RATE = 22_050


def tone(rate: int, seconds: float, hz: float = 440.0) -> npt.NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def encode(
    path: Path,
    rate: int,
    seconds: float,
    codec: str,
    container: str,
    layout: str = "mono",
    **options: str,
) -> Path:
    """A tone in any codec, and in a container that may differ from the suffix."""
    with av.open(str(path), "w", format=container, options=options) as out:
        stream: Any = out.add_stream(codec, rate=rate, layout=layout)
        channels = stream.layout.nb_channels
        samples = np.repeat((tone(rate, seconds) * 32_767).astype(np.int16), channels)
        for start in range(0, len(samples) // channels, 1_024):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start * channels : (start + 1_024) * channels],
                format="s16",
                layout=layout,
            )
            frame.sample_rate = rate
            frame.pts = start
            frame.time_base = Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def half(source: Path, path: Path) -> Path:
    whole = source.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def protected_mp4(path: Path) -> Path:
    """An MP4 as Common Encryption (ISO 23001-7) makes it: the sample entry is `enca`, its scheme
    `cenc`, and the content unreadable."""
    encode(path, 48_000, 2, "aac", "mp4")
    plain = path.read_bytes()
    entry = plain.index(b"mp4a", plain.index(b"stsd")) - 4
    (size,) = struct.unpack_from(">I", plain, entry)
    key = box(b"tenc", bytes(4), bytes([0, 0, 1, 8]), bytes(range(16)))
    scheme = box(b"schm", bytes(4), b"cenc", bytes([0, 1, 0, 0]))
    sinf = box(b"sinf", box(b"frma", b"mp4a"), scheme, box(b"schi", key))
    sealed = struct.pack(">I4s", size + len(sinf), b"enca") + plain[entry + 8 : entry + size] + sinf
    content = bytearray(plain[:entry] + sealed + plain[entry + size :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        at = plain.rindex(parent, 0, entry) - 4
        struct.pack_into(">I", content, at, struct.unpack_from(">I", content, at)[0] + len(sinf))
    media = plain.index(b"mdat") + 4
    end = media - 8 + struct.unpack_from(">I", plain, media - 8)[0]
    content[media:end] = np.random.default_rng(0).bytes(end - media)
    path.write_bytes(content)
    return path


def protected_webm(path: Path) -> Path:
    """A WebM whose track says in its ContentEncodings that it is encrypted (RFC 9559, 5.1.4.1)."""

    def element(name: str, content: bytes) -> bytes:
        return bytes.fromhex(name) + (len(content) | 1 << 56).to_bytes(8, "big") + content

    def number(at: int) -> tuple[int, int]:
        length = 9 - plain[at].bit_length()
        return int.from_bytes(plain[at : at + length], "big") - (1 << 7 * length), at + length

    encode(path, 48_000, 2, "libopus", "webm")
    plain = path.read_bytes()
    tracks = plain.rindex(bytes.fromhex("1654ae6b"))
    tracks_size, first = number(tracks + 4)
    entry = plain.index(b"\xae", first)
    entry_size, inside = number(entry + 1)
    encryption = bytes.fromhex("50338101") + element("5035", element("47e2", bytes(16)))
    encodings = element("6d80", element("6240", encryption))
    sealed = element("ae", plain[inside : inside + entry_size] + encodings)
    whole = plain[first:entry] + sealed + plain[inside + entry_size : first + tracks_size]
    path.write_bytes(plain[:tracks] + element("1654ae6b", whole) + plain[first + tracks_size :])
    return path


def test_a_real_recording_becomes_22050_hz_mono_16_bit(demo: Path, tmp_path: Path) -> None:
    told: list[float] = []
    audio = decode(
        demo / "feira-dora.webm", tmp_path / "o.wav", lambda done, total, unit: told.append(done)
    )
    written = sf.info(tmp_path / "o.wav")
    assert (written.samplerate, written.channels, written.subtype) == (RATE, 1, "PCM_16")
    assert written.frames == audio.n_samples
    assert audio.duration_s == pytest.approx(77.288, abs=0.01)
    assert (audio.codec, audio.source_rate_hz, audio.source_channels) == ("opus", 48_000, 2)
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(8_000, 1, "PCM_U8"), (22_050, 1, "PCM_16"), (44_100, 2, "PCM_24"), (96_000, 6, "FLOAT")],
)
def test_a_tone_keeps_its_pitch_level_and_length_from_any_format(
    tmp_path: Path, rate: int, channels: int, subtype: str
) -> None:
    sf.write(tmp_path / "i.wav", np.repeat(tone(rate, 3)[:, None], channels, axis=1), rate, subtype)
    audio = decode(tmp_path / "i.wav", tmp_path / "o.wav")
    samples, _ = sf.read(tmp_path / "o.wav")
    assert audio.n_samples == pytest.approx(3 * RATE, abs=2)
    middle = samples[RATE : 2 * RATE]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(RATE)))
    assert int(spectrum.argmax()) == 440
    assert 20 * np.log10(np.std(middle)) == pytest.approx(-9.03, abs=0.05)


def test_the_resampler_keeps_noise_above_the_new_band_out(tmp_path: Path) -> None:
    sf.write(tmp_path / "i.wav", tone(48_000, 2, hz=15_000), 48_000, "FLOAT")
    assert decode(tmp_path / "i.wav", tmp_path / "o.wav").rms_dbfs < -60


def test_the_last_samples_are_not_left_in_the_resampler(tmp_path: Path) -> None:
    samples = np.zeros(48_000)
    samples[-200:] = 0.5
    sf.write(tmp_path / "i.wav", samples, 48_000)
    decode(tmp_path / "i.wav", tmp_path / "o.wav")
    written, _ = sf.read(tmp_path / "o.wav")
    assert np.abs(written[-60:]).max() > 0.4


def test_a_rate_that_changes_inside_the_file_is_followed(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{rate}.mp3", rate, 2, "libmp3lame", "mp3") for rate in (48_000, 16_000)
    ]
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    audio = decode(joined, tmp_path / "o.wav")
    samples, _ = sf.read(tmp_path / "o.wav")
    assert audio.duration_s == pytest.approx(4, abs=0.25)
    for start in (RATE // 2, 3 * RATE):
        spectrum = np.abs(np.fft.rfft(samples[start : start + RATE // 2]))
        assert 2 * int(spectrum.argmax()) == pytest.approx(440, abs=2)


def write_seconds(path: Path, starts_s: tuple[int, ...]) -> None:
    """A second of a tone at each time, and nothing between."""
    rate = 48_000
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        samples = (tone(rate, 1) * 32_767).astype(np.int16)[None]
        for start_s in starts_s:
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = rate
            frame.pts = start_s * rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_a_hole_in_the_timestamps_becomes_silence(tmp_path: Path) -> None:
    write_seconds(tmp_path / "i.mkv", (0, 3))
    audio = decode(tmp_path / "i.mkv", tmp_path / "o.wav")
    written, _ = sf.read(tmp_path / "o.wav")
    assert audio.duration_s == pytest.approx(4, abs=0.01)
    assert np.abs(written[round(1.1 * RATE) : round(2.9 * RATE)]).max() == 0
    assert np.abs(written[round(3.1 * RATE) :]).max() > 0.4
    assert audio.holes == ((1.0, 3.0),)
    assert (audio.filled_s, audio.paused_s) == (2.0, 0.0)


def overwritten(source: Path, path: Path, first: float, last: float) -> Path:
    """A copy of which the bytes between two shares of its length are zeros."""
    content = source.read_bytes()
    start, end = (round(share * len(content)) for share in (first, last))
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    return path


@pytest.mark.parametrize(
    ("first", "last", "start_s", "end_s"),
    [(0.4, 0.4002, 29.29, 29.97), (1 / 3, 0.45, 24.31, 34.97), (0.01, 0.05, 0.69, 4.97)],
)
def test_damaged_clusters_are_named_as_holes(
    demo: Path, tmp_path: Path, first: float, last: float, start_s: float, end_s: float
) -> None:
    path = overwritten(demo / "feira-dora.webm", tmp_path / "i.webm", first, last)
    audio = decode(path, tmp_path / "o.wav")
    assert list(audio.holes[0]) == pytest.approx([start_s, end_s], abs=0.05)
    assert len(audio.holes) == 1
    assert audio.filled_s == pytest.approx(audio.holes[0][1] - audio.holes[0][0], abs=0.002)
    assert audio.duration_s == pytest.approx(77.288, abs=0.01)


def test_damage_of_more_than_half_a_minute_is_a_hole_and_no_new_clock(
    demo: Path, tmp_path: Path
) -> None:
    path = overwritten(demo / "feira-dora.webm", tmp_path / "i.webm", 0.3, 0.8)
    audio = decode(path, tmp_path / "o.wav")
    assert audio.clock_jumps == 0
    assert audio.filled_s > 35
    assert audio.duration_s == pytest.approx(77.288, abs=0.01)


def test_a_recording_whose_first_clusters_are_damaged_keeps_its_times(tmp_path: Path) -> None:
    path = encode(tmp_path / "i.webm", 48_000, 20, "libopus", "webm", cluster_time_limit="1000")
    header = path.read_bytes().index(bytes.fromhex("1f43b675")) / path.stat().st_size
    audio = decode(overwritten(path, tmp_path / "j.webm", header, 0.3), tmp_path / "o.wav")
    ((start_s, end_s),) = audio.holes
    assert (start_s, end_s) == pytest.approx((0, 6), abs=1)
    assert audio.duration_s == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize(
    ("start_s", "end_s", "holes"),
    [
        (0.5, 2.0, ((0.5, 1.5),)),
        (1.5, 2.5, ((0.0, 1.0),)),
        (1.5, None, ((0.0, 1.5), (2.5, 4.5))),
        (3.2, 3.9, ()),
    ],
)
def test_holes_are_those_of_the_span_in_its_own_time(
    tmp_path: Path, start_s: float, end_s: float | None, holes: tuple[tuple[float, float], ...]
) -> None:
    write_seconds(tmp_path / "i.mkv", (0, 3, 6))
    audio = decode(tmp_path / "i.mkv", tmp_path / "o.wav", start_s=start_s, end_s=end_s)
    assert audio.holes == holes
    assert audio.filled_s == pytest.approx(sum(end - start for start, end in holes), abs=0.002)


def test_the_list_of_holes_is_bounded_and_their_sum_is_not(tmp_path: Path) -> None:
    count = MAX_HOLES + 20
    with av.open(str(tmp_path / "i.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8_000, layout="mono")
        for number in range(count):
            frame = av.AudioFrame.from_ndarray(
                np.ones((1, 160), np.int16), format="s16", layout="mono"
            )
            frame.sample_rate = 8_000
            frame.pts = number * 4_960
            out.mux(stream.encode(frame))
    audio = decode(tmp_path / "i.mkv", tmp_path / "o.wav")
    assert len(audio.holes) == MAX_HOLES
    assert audio.filled_s == pytest.approx((count - 1) * 0.6, abs=0.1)


def write_pauses(path: Path, container: str, announced: bool, pause_s: float) -> None:
    """Two tones with a pause between, as an Opus encoder with DTX sends it: a packet each 0.4 s
    and nothing else, or (`announced`) a packet of one byte and then nothing at all."""
    plain = encode(path.with_suffix(".plain"), 48_000, 4 + pause_s, "libopus", "webm")
    with av.open(str(plain)) as old, av.open(str(path), "w", format=container) as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for number, packet in enumerate(old.demux(old.streams.audio[0])):
            into = number - 100
            if packet.pts is None:
                continue
            if 0 < into < 50 * pause_s and (announced or into % 20):
                continue
            sent = av.Packet(bytes(packet)[:1] if announced and into == 0 else bytes(packet))
            sent.pts = sent.dts = packet.pts
            sent.time_base = packet.time_base
            sent.stream = stream
            new.mux(sent)


@pytest.mark.parametrize(
    ("container", "announced", "pause_s"),
    [("webm", False, 6), ("webm", True, 6), ("ogg", False, 6), ("ogg", True, 0.8)],
)
def test_the_pauses_of_discontinuous_transmission_are_no_holes(
    tmp_path: Path, container: str, announced: bool, pause_s: float
) -> None:
    write_pauses(tmp_path / "i.media", container, announced, pause_s)
    audio = decode(tmp_path / "i.media", tmp_path / "o.wav")
    assert audio.holes == ()
    assert audio.filled_s == 0
    assert audio.paused_s > 0.7 * pause_s
    assert audio.duration_s == pytest.approx(4 + pause_s, abs=0.1)
    assert audio.corrupt_packets == 0


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_track_that_begins_late_and_ends_early_keeps_its_place(
    tmp_path: Path, suffix: str
) -> None:
    """The picture lasts from 0 to 60 s, the sound from 40 to 42 s."""
    rate = 48_000
    path = tmp_path / f"i.{suffix}"
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=1, width=16, height=16)
        sound = out.add_stream("aac", rate=rate, layout="mono")
        for second in range(60):
            image = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            image.pts = second
            image.time_base = Fraction(1, 1)
            out.mux(picture.encode(image))
        samples = tone(rate, 2).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        frame.pts = 40 * rate
        out.mux([*sound.encode(frame), *sound.encode(None), *picture.encode(None)])
    audio = decode(path, tmp_path / "o.wav")
    written, _ = sf.read(tmp_path / "o.wav")
    assert audio.duration_s == pytest.approx(42, abs=0.1)
    assert audio.clock_jumps == 0
    assert (audio.holes, audio.filled_s) == ((), 0)
    assert audio.paused_s == pytest.approx(40, abs=0.1)
    assert np.abs(written[: round(39.9 * RATE)]).max() < 0.01
    assert np.abs(written[round(40.2 * RATE) : round(41.8 * RATE)]).max() > 0.3


def test_a_clock_that_is_set_anew_is_not_a_hole(tmp_path: Path) -> None:
    write_seconds(tmp_path / "i.mkv", (0, 3_600, 3_603))
    audio = decode(tmp_path / "i.mkv", tmp_path / "o.wav")
    assert audio.clock_jumps == 1
    assert audio.holes == ((2.0, 4.0),)
    assert audio.duration_s == pytest.approx(5, abs=0.01)
    before = decode(tmp_path / "i.mkv", tmp_path / "o.wav", end_s=0.9)
    assert before.clock_jumps == 0


def test_channels_that_change_inside_the_file_are_followed(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / layout, 44_100, 2, "libmp3lame", "mp3", layout)
        for layout in ("stereo", "mono")
    ]
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    audio = decode(joined, tmp_path / "o.wav")
    samples, _ = sf.read(tmp_path / "o.wav")
    assert audio.duration_s == pytest.approx(4, abs=0.15)
    first, second = (samples[at * RATE : at * RATE + RATE // 2] for at in (1, 3))
    assert np.std(second) == pytest.approx(np.std(first), rel=0.01)


def test_a_film_keeps_the_voice_in_its_centre_and_does_not_clip(tmp_path: Path) -> None:
    centre, loud = np.zeros((96_000, 6)), np.repeat(1.99 * tone(96_000, 1)[:, None], 6, axis=1)
    centre[:, 2] = tone(96_000, 1)
    for name, channels in (("centre", centre), ("loud", loud)):
        sf.write(tmp_path / f"{name}.wav", channels, 96_000, "PCM_24")
    voice = decode(tmp_path / "centre.wav", tmp_path / "o.wav")
    assert voice.source_channels == 6
    assert voice.rms_dbfs == pytest.approx(-9.03 + 20 * np.log10(1 / 3.414), abs=0.1)
    assert decode(tmp_path / "loud.wav", tmp_path / "o.wav").clipped_samples == 0


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(10.31, 22.75), (70.0, None), (None, 3.0), (0.0, 77.9)]
)
def test_a_span_is_exactly_that_part_of_the_whole(
    demo: Path, tmp_path: Path, start_s: float | None, end_s: float | None
) -> None:
    decode(demo / "feira-dora.webm", tmp_path / "whole.wav")
    audio = decode(demo / "feira-dora.webm", tmp_path / "part.wav", start_s=start_s, end_s=end_s)
    whole, _ = sf.read(tmp_path / "whole.wav", dtype="int16")
    part, _ = sf.read(tmp_path / "part.wav", dtype="int16")
    first = round((start_s or 0) * RATE)
    last = len(whole) if end_s is None else round(end_s * RATE)
    np.testing.assert_array_equal(part, whole[first:last])
    assert audio.n_samples == len(part)


def test_a_span_needs_only_what_comes_before_its_end(demo: Path, tmp_path: Path) -> None:
    path = half(demo / "feira-dora.webm", tmp_path / "half.webm")
    audio = decode(path, tmp_path / "o.wav", start_s=5, end_s=20)
    assert audio.duration_s == pytest.approx(15)
    assert audio.recording_s < 30
    for start_s, end_s in ((5.0, None), (None, 60.0), (60.0, None)):
        with pytest.raises(DecodeError, match="truncated"):
            decode(path, tmp_path / "o.wav", start_s=start_s, end_s=end_s)


@pytest.mark.parametrize(
    ("start_s", "end_s", "reason"),
    [
        (78.0, None, r"span starts at 78 s, and the recording has 77\.29 s"),
        (70.0, 99.5, r"span ends at 99\.5 s, and the recording has 77\.29 s"),
    ],
)
def test_a_span_outside_the_recording_is_refused(
    demo: Path, tmp_path: Path, start_s: float, end_s: float | None, reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(demo / "feira-dora.webm", tmp_path / "o.wav", start_s=start_s, end_s=end_s)
    assert list(tmp_path.iterdir()) == []


def test_clipped_samples_are_counted(tmp_path: Path) -> None:
    sf.write(tmp_path / "i.wav", np.clip(4 * tone(RATE, 1), -1, 1), RATE)
    audio = decode(tmp_path / "i.wav", tmp_path / "o.wav")
    assert audio.clipped_samples > RATE / 2
    assert audio.peak_dbfs == 0


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    path = encode(tmp_path / "i.mp4", 48_000, 1, "libopus", "ogg")
    assert decode(path, tmp_path / "o.wav").codec == "opus"


def test_a_truncated_file_is_refused_with_its_name(demo: Path, tmp_path: Path) -> None:
    path = half(demo / "feira-dora.webm", tmp_path / "half.webm")
    with pytest.raises(DamagedError, match=r"half\.webm: The file is truncated: 3\d\.\d s of 77"):
        decode(path, tmp_path / "o.wav")


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("aac", "mp4", {"movflags": "faststart"}),
        ("libmp3lame", "mp3", {}),
        ("libopus", "ogg", {}),
        ("pcm_s16le", "wav", {}),
        ("flac", "flac", {}),
        ("pcm_s16be", "aiff", {}),
    ],
)
def test_a_missing_end_is_seen_where_the_container_tells(
    tmp_path: Path, codec: str, container: str, options: dict[str, str]
) -> None:
    whole = encode(tmp_path / "whole", 48_000, 6, codec, container, **options)
    assert decode(whole, tmp_path / "o.wav").duration_s == pytest.approx(6, abs=0.1)
    with pytest.raises(DamagedError, match="truncated"):
        decode(half(whole, tmp_path / "half"), tmp_path / "half.wav")
    assert not (tmp_path / "half.wav").exists()


def test_an_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", 48_000, 4, "aac", "mp4")
    with pytest.raises(DamagedError, match=r"cannot be decoded.*truncated"):
        decode(half(whole, tmp_path / "half.mp4"), tmp_path / "o.wav")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_written_into_a_pipe_states_no_length(tmp_path: Path, size: int) -> None:
    path = encode(tmp_path / "i.wav", 16_000, 2, "pcm_s16le", "wav")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"data") + 4, size)
    path.write_bytes(content)
    assert decode(path, tmp_path / "o.wav").duration_s == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("make", [protected_mp4, protected_webm])
def test_protected_sound_is_named_as_such(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(DecodeError, match="protected") as refusal:
        decode(make(tmp_path / "i"), tmp_path / "o.wav")
    assert not isinstance(refusal.value, DamagedError)
    assert not (tmp_path / "o.wav").exists()


def test_damaged_packets_are_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "i.flac", 44_100, 5, "flac", "flac")
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 4, len(content), 500):
        content[at : at + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"i\.flac: \d+ of \d+ packets are damaged"):
        decode(path, tmp_path / "o.wav")


def test_a_file_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        out.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        out.mux(stream.encode(None))
    with pytest.raises(DecodeError, match="no audio track"):
        decode(path, tmp_path / "o.wav")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"Bom dia.\n" * 100, "cannot be decoded"), (bytes(5_000), "decoded|audio")],
)
def test_what_is_no_media_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "i.webm"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=reason):
        decode(path, tmp_path / "o.wav")


def test_a_picture_and_a_playlist_are_no_recordings(demo: Path, tmp_path: Path) -> None:
    with (tmp_path / "i.mp4").open("wb") as file:
        Image.new("RGB", (32, 32)).save(file, "PNG")
    with pytest.raises(DecodeError, match=r"no audio track \(png"):
        decode(tmp_path / "i.mp4", tmp_path / "o.wav")
    (tmp_path / "v.webm").write_bytes((demo / "cidade-alex.webm").read_bytes())
    (tmp_path / "l.mp4").write_text("ffconcat version 1.0\nfile v.webm\n")
    with pytest.raises(DecodeError, match="playlist"):
        decode(tmp_path / "l.mp4", tmp_path / "o.wav")


def test_a_refused_file_leaves_the_old_output_and_nothing_else(demo: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "o.wav"
    decode(demo / "cidade-alex.webm", target)
    before = target.read_bytes()
    path = half(demo / "feira-dora.webm", tmp_path / "half.webm")
    with pytest.raises(DecodeError):
        decode(path, target)
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]
