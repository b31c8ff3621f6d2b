from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from xtts_core.corpus.decode import decode
from xtts_core.errors import DecodeError

RATE = 22_050


def tone(rate: int, seconds: float, hz: float = 440.0) -> npt.NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def encode(path: Path, rate: int, seconds: float, codec: str, container: str) -> Path:
    """A mono tone in any codec, and in a container that may differ from the suffix."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        samples = (tone(rate, seconds) * 32_767).astype(np.int16)
        for start in range(0, len(samples), 1_024):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start : start + 1_024], format="s16", layout="mono"
            )
            frame.sample_rate = rate
            frame.pts = start
            frame.time_base = Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
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


def test_a_hole_in_the_timestamps_becomes_silence(tmp_path: Path) -> None:
    rate = 48_000
    with av.open(str(tmp_path / "i.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        samples = (tone(rate, 1) * 32_767).astype(np.int16)[None]
        for second in (0, 3):
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = rate
            frame.pts = second * rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    audio = decode(tmp_path / "i.mkv", tmp_path / "o.wav")
    written, _ = sf.read(tmp_path / "o.wav")
    assert audio.duration_s == pytest.approx(4, abs=0.01)
    assert np.abs(written[round(1.1 * RATE) : round(2.9 * RATE)]).max() == 0
    assert np.abs(written[round(3.1 * RATE) :]).max() > 0.4


def test_clipped_samples_are_counted(tmp_path: Path) -> None:
    sf.write(tmp_path / "i.wav", np.clip(4 * tone(RATE, 1), -1, 1), RATE)
    audio = decode(tmp_path / "i.wav", tmp_path / "o.wav")
    assert audio.clipped_samples > RATE / 2
    assert audio.peak_dbfs == 0


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    path = encode(tmp_path / "i.mp4", 48_000, 1, "libopus", "ogg")
    assert decode(path, tmp_path / "o.wav").codec == "opus"


def test_a_truncated_file_is_refused_with_its_name(demo: Path, tmp_path: Path) -> None:
    whole = (demo / "feira-dora.webm").read_bytes()
    path = tmp_path / "half.webm"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=r"half\.webm: The file is truncated: 3\d\.\d s of 77"):
        decode(path, tmp_path / "o.wav")


def test_damaged_packets_are_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "i.flac", 44_100, 5, "flac", "flac")
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 4, len(content), 500):
        content[at : at + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"i\.flac"):
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
    with pytest.raises(DecodeError, match=reason):
        decode(path, tmp_path / "o.wav")


def test_a_refused_file_leaves_the_old_output_and_nothing_else(demo: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "o.wav"
    decode(demo / "cidade-alex.webm", target)
    before = target.read_bytes()
    whole = (demo / "feira-dora.webm").read_bytes()
    (tmp_path / "half.webm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError):
        decode(tmp_path / "half.webm", target)
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]
