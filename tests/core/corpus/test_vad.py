from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from xtts_core.corpus import vad
from xtts_core.corpus.levels import SILENCE_DBFS
from xtts_core.corpus.vad import Envelope, Region, measure, voice_regions
from xtts_core.errors import SettingsError
from xtts_core.settings import VadSettings
from xtts_core.store import CorpusStore

RATE = 22_050
FRAME = 512
LONGEST = 11 * RATE
WEBRTC = VadSettings(engine="webrtc")
SILERO = VadSettings(engine="silero")


def envelope_of(*stretches: tuple[float, float], voiced: bool = True) -> Envelope:
    """Levels as (seconds, dBFS), all of them voiced or not. As in speech, every sixth frame of a
    stretch over -40 dBFS is much weaker."""
    parts = []
    for length_s, dbfs in stretches:
        part = np.full(round(length_s * RATE / FRAME), dbfs, np.float32)
        if dbfs > -40:
            part[3::6] -= 30
        parts.append(part)
    level = np.concatenate(parts)
    return Envelope(
        frame_samples=FRAME,
        n_samples=len(level) * FRAME,
        level_dbfs=level,
        peak=np.full(len(level), 1_000, np.uint16),
        speech=np.full(len(level), float(voiced), np.float32),
    )


def steady(length_s: float, dbfs: float) -> Envelope:
    envelope = envelope_of((length_s, -90))
    envelope.level_dbfs[:] = dbfs
    return envelope


def seconds(regions: list[Region]) -> list[tuple[float, float]]:
    return [(region.start / RATE, region.end / RATE) for region in regions]


def frames(spans: list[tuple[float, float]], length_s: float) -> npt.NDArray[np.bool_]:
    """10 ms frames that lie in one of the spans."""
    mask = np.zeros(round(length_s * 100), np.bool_)
    for start, end in spans:
        mask[round(start * 100) : round(end * 100)] = True
    return mask


def test_levels_and_peaks_are_those_of_the_samples(tmp_path: Path) -> None:
    samples = np.concatenate((np.zeros(FRAME), np.full(FRAME, 16_384), np.full(100, -32_768)))
    sf.write(tmp_path / "a.wav", samples.astype(np.int16), RATE)
    envelope = measure(tmp_path / "a.wav", WEBRTC)
    assert envelope.level_dbfs.tolist() == pytest.approx([SILENCE_DBFS, -6.0206, 0], abs=1e-3)
    assert envelope.peak.tolist() == [0, 16_384, 32_768]
    assert envelope.n_samples == 2 * FRAME + 100


@pytest.mark.parametrize("engine", ["silero", "webrtc"])
@pytest.mark.parametrize("chunk_s", [0.01, 1.7, 1_000.0])
def test_the_size_of_a_chunk_does_not_change_what_is_found(
    demo_corpus: CorpusStore, engine: Literal["silero", "webrtc"], chunk_s: float
) -> None:
    wav = demo_corpus.raw_audio("feira-dora")
    one = measure(wav, VadSettings(engine=engine))
    other = measure(wav, VadSettings(engine=engine, chunk_s=chunk_s))
    assert np.array_equal(one.level_dbfs, other.level_dbfs)
    assert one.speech == pytest.approx(other.speech, abs=1e-4)
    assert 0.3 < one.speech.mean() < 0.95


@pytest.mark.parametrize("video_id", ["feira-dora", "cidade-alex"])
@pytest.mark.parametrize(
    ("settings", "recall", "precision"), [(SILERO, 0.98, 0.95), (WEBRTC, 0.93, 0.85)]
)
def test_real_speech_is_found(
    demo_corpus: CorpusStore,
    truth: dict[str, list[tuple[float, float]]],
    video_id: str,
    settings: VadSettings,
    recall: float,
    precision: float,
) -> None:
    envelope = measure(demo_corpus.raw_audio(video_id), settings)
    found = frames(seconds(voice_regions(envelope, settings, LONGEST)), 80)
    spoken = frames(truth[video_id], 80)
    assert (found & spoken).sum() / spoken.sum() >= recall
    assert (found & spoken).sum() / found.sum() >= precision


def test_music_is_not_speech_to_silero(demo_corpus: CorpusStore, tmp_path: Path) -> None:
    """feira-dora begins with four seconds of music, which webrtcvad takes for speech."""
    samples, _ = sf.read(demo_corpus.raw_audio("feira-dora"), frames=4 * RATE)
    sf.write(tmp_path / "music.wav", samples, RATE)
    envelope = measure(tmp_path / "music.wav", SILERO)
    assert voice_regions(envelope, SILERO, LONGEST) == []
    assert measure(tmp_path / "music.wav", WEBRTC).speech.mean() > 0.9


def test_a_voice_that_stays_under_the_floor_is_not_taken_by_silero(
    demo_corpus: CorpusStore, tmp_path: Path
) -> None:
    samples, _ = sf.read(demo_corpus.raw_audio("feira-dora"))
    sf.write(tmp_path / "far.wav", samples * 0.02, RATE)
    envelope = measure(tmp_path / "far.wav", SILERO)
    assert (envelope.speech > 0.5).any()
    assert voice_regions(envelope, SILERO, LONGEST) == []
    lower = SILERO.model_copy(update={"floor_dbfs": -75.0})
    assert voice_regions(envelope, lower, LONGEST) != []


def test_without_the_package_that_carries_silero_the_remedy_is_named(
    demo_corpus: CorpusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    vad._silero_session.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="webrtc"):
        measure(demo_corpus.raw_audio("feira-dora"), SILERO)


@pytest.mark.parametrize("settings", [SILERO, WEBRTC])
def test_silence_and_an_empty_file_hold_no_speech(tmp_path: Path, settings: VadSettings) -> None:
    for samples in (0, 1, RATE):
        sf.write(tmp_path / "a.wav", np.zeros(samples), RATE)
        envelope = measure(tmp_path / "a.wav", settings)
        assert voice_regions(envelope, settings, LONGEST) == []


def test_steady_noise_is_not_speech_even_where_webrtcvad_takes_it_for_that() -> None:
    envelope = steady(20, -30)
    assert voice_regions(envelope, WEBRTC, LONGEST) == []


def test_a_burst_of_steady_noise_is_not_speech_though_it_stands_out() -> None:
    envelope = envelope_of((5, -90), (4, -40), (5, -90))
    envelope.level_dbfs[envelope.level_dbfs == -40] = -30
    assert voice_regions(envelope, WEBRTC, LONGEST) == []


def test_what_is_under_the_floor_is_not_speech() -> None:
    envelope = envelope_of((2, -90), (2, -42), (2, -90), (2, -38), (2, -90))
    (region,) = seconds(voice_regions(envelope, WEBRTC, LONGEST))
    assert region == pytest.approx((6, 8), abs=0.05)


def test_what_webrtcvad_takes_for_noise_is_not_speech() -> None:
    envelope = envelope_of((2, -90), (2, -20), (2, -90), voiced=False)
    assert voice_regions(envelope, WEBRTC, LONGEST) == []


def test_weak_sounds_at_the_ends_belong_to_the_speech() -> None:
    envelope = envelope_of((5, -90), (0.2, -43), (2, -20), (0.2, -43), (5, -90))
    (region,) = seconds(voice_regions(envelope, WEBRTC, LONGEST))
    assert region == pytest.approx((5, 7.4), abs=0.05)


def test_a_silence_shorter_than_the_setting_does_not_end_a_region() -> None:
    envelope = envelope_of(
        (5, -90), (1, -20), (0.25, -90), (1, -20), (0.4, -90), (1, -20), (5, -90)
    )
    found = seconds(voice_regions(envelope, WEBRTC, LONGEST))
    assert [end - start for start, end in found] == pytest.approx([2.25, 1], abs=0.1)


def test_a_region_that_is_too_long_is_given_in_the_pieces_between_its_gaps() -> None:
    envelope = envelope_of(
        (5, -90),
        (4, -20),
        (0.2, -90),
        (5, -20),
        (0.25, -90),
        (5, -20),
        (0.08, -90),
        (5, -20),
        (5, -90),
    )
    found = seconds(voice_regions(envelope, WEBRTC, LONGEST))
    assert [end - start for start, end in found] == pytest.approx([4, 5, 10.1], abs=0.1)


def test_clicks_are_not_speech() -> None:
    envelope = envelope_of((5, -90), (0.05, -10), (5, -90))
    assert voice_regions(envelope, WEBRTC, LONGEST) == []


def test_switched_off_everything_is_one_region(demo_corpus: CorpusStore) -> None:
    settings = VadSettings(enabled=False)
    envelope = measure(demo_corpus.raw_audio("feira-dora"), settings)
    assert voice_regions(envelope, settings, LONGEST) == [Region(0, envelope.n_samples)]
    assert (envelope.speech == 1).all()
