from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyloudnorm
import pytest
import soundfile as sf

from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.corpus.segments import SEGMENTS_SCHEMA, make_segments, summary, verdicts
from xtts_core.corpus.videos import make_video
from xtts_core.errors import UpstreamError
from xtts_core.settings import (
    MAX_CLIP_SAMPLES,
    DatasetSettings,
    DownloadSettings,
    LoudnessSettings,
    SegmentationSettings,
    SpeakerSettings,
    VadSettings,
)
from xtts_core.stage import Markdown, read_result, require
from xtts_core.store import CorpusStore, sha256_file

RATE = 22_050
VIDEOS = ("feira-dora", "cidade-alex")
PLAIN = DatasetSettings(speakers=SpeakerSettings(engine="off"))
"""Without the pass that costs the most."""


@pytest.fixture
def corpus(tmp_path: Path, demo: Path) -> CorpusStore:
    """A corpus of one decoded video that a test may change."""
    store = CorpusStore(tmp_path / "corpus")
    make_video(store, DatasetSettings(), demo / "videos.csv", "cidade-alex")
    make_raw_audio(store, DatasetSettings(), "cidade-alex")
    return store


def rows(store: CorpusStore, video_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(store.segments_table(video_id)).to_pylist()
    return found


def row(start_s: float = 0, **changes: Any) -> dict[str, Any]:
    """A good clip of nine seconds."""
    return {
        "segment_id": "a_00001",
        "start_sample": round(start_s * RATE),
        "end_sample": round((start_s + 9) * RATE),
        "duration_s": 9.0,
        "cut": "pause",
        "rms_dbfs": -20.5,
        "loudness_lufs": -20.0,
        "speech_ratio": 0.9,
        "speaker_similarity": 0.9,
    } | changes


@pytest.mark.parametrize("video_id", VIDEOS)
def test_a_demo_video_gives_clips_that_xtts_can_train_on(
    demo_corpus: CorpusStore, video_id: str
) -> None:
    found = rows(demo_corpus, video_id)
    assert len(found) >= 6
    assert [clip["segment_id"] for clip in found] == [
        f"{video_id}_{number:05d}" for number in range(1, len(found) + 1)
    ]
    for clip in found:
        path = demo_corpus.root / clip["path"]
        info = sf.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        assert info.frames == clip["end_sample"] - clip["start_sample"] <= MAX_CLIP_SAMPLES
        assert clip["duration_s"] == pytest.approx(info.frames / RATE, abs=1e-5)
        assert clip["sha256"] == sha256_file(path)
    assert not require(demo_corpus, "segments", video_id).blocked


@pytest.mark.parametrize("video_id", VIDEOS)
def test_clips_cover_the_speech_and_hardly_cut_into_it(
    demo_corpus: CorpusStore, truth: dict[str, list[tuple[float, float]]], video_id: str
) -> None:
    clips = [clip for clip in rows(demo_corpus, video_id) if clip["cut"] == "pause"]
    spans = [(clip["start_sample"] / RATE, clip["end_sample"] / RATE) for clip in clips]
    spoken = sum(end - start for start, end in truth[video_id])
    covered = sum(
        max(0.0, min(end, stop) - max(start, begin))
        for start, end in truth[video_id]
        for begin, stop in spans
    )
    inside = [
        at
        for at in (edge for span in spans for edge in span)
        for start, end in truth[video_id]
        if start + 0.1 < at < end - 0.1
    ]
    assert covered / spoken >= 0.97
    assert len(inside) <= 1


def test_the_samples_of_a_clip_are_those_of_the_video_at_one_gain(
    demo_corpus: CorpusStore,
) -> None:
    video, _ = sf.read(demo_corpus.raw_audio("feira-dora"), dtype="int16")
    gain_db = float(str(require(demo_corpus, "segments", "feira-dora").metadata["gain_db"]))
    for clip in rows(demo_corpus, "feira-dora"):
        sound, _ = sf.read(demo_corpus.root / clip["path"], dtype="int16")
        inside = slice(RATE // 10, -RATE // 10)
        source = video[clip["start_sample"] : clip["end_sample"]][inside]
        assert np.abs(sound[inside] - source * 10 ** (gain_db / 20)).max() < 3


def test_fades_start_and_end_at_silence(demo_corpus: CorpusStore) -> None:
    for clip in rows(demo_corpus, "cidade-alex"):
        sound, _ = sf.read(demo_corpus.root / clip["path"], dtype="int16")
        assert abs(int(sound[0])) <= 1
        assert abs(int(sound[-1])) <= 1


def test_the_snr_estimate_is_that_of_the_recordings(demo_corpus: CorpusStore) -> None:
    """The noise in the pauses lies so far below the speech; the truth's figures, 30, 20, 20 and
    15 dB, are against a nominal level."""
    measured = {"feira-dora": (34.7, 24.8), "cidade-alex": (22.8, 17.8)}
    for video_id, (first, second) in measured.items():
        for clip in rows(demo_corpus, video_id):
            expected = first if clip["start_sample"] < 37 * RATE else second
            assert clip["snr_db"] == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize("video_id", VIDEOS)
def test_the_levels_of_a_row_are_those_of_its_file(demo_corpus: CorpusStore, video_id: str) -> None:
    meter = pyloudnorm.Meter(RATE)
    for clip in rows(demo_corpus, video_id):
        sound, _ = sf.read(demo_corpus.root / clip["path"])
        assert clip["loudness_lufs"] == pytest.approx(meter.integrated_loudness(sound), abs=0.1)
        assert clip["rms_dbfs"] == pytest.approx(20 * np.log10(np.std(sound)), abs=0.01)
        assert clip["peak_dbfs"] == pytest.approx(20 * np.log10(np.abs(sound).max()), abs=0.01)
        assert clip["peak_dbfs"] <= clip["true_peak_dbtp"] < clip["peak_dbfs"] + 3


@pytest.mark.parametrize("video_id", VIDEOS)
def test_each_clip_has_its_measures(demo_corpus: CorpusStore, video_id: str) -> None:
    found = rows(demo_corpus, video_id)
    for clip in found:
        assert clip["clipping_ratio"] == 0
        assert clip["overlap_s"] == 0
        assert 10_000 < clip["bandwidth_hz"] < 11_025
        assert clip["music_ratio"] < 0.1
        assert len(clip["speaker_embedding"]) == 256
        assert clip["speaker_similarity"] > 0.8
        assert clip["halves_similarity"] > 0.8
    rooms = [clip["reverberation_s"] for clip in found if clip["reverberation_s"] is not None]
    assert len(rooms) >= len(found) - 2
    assert np.median(rooms) < 0.3


def test_the_table_has_its_schema_and_the_metadata_its_histogram(demo_corpus: CorpusStore) -> None:
    assert pq.read_schema(demo_corpus.segments_table("feira-dora")).equals(SEGMENTS_SCHEMA)
    metadata = require(demo_corpus, "segments", "feira-dora").metadata
    assert 0.5 < float(str(metadata["yield"])) < 1
    histogram = metadata["durations"]
    assert isinstance(histogram, Markdown)
    assert "| 8 to 10 s |" in histogram.text
    picture = metadata["picture"]
    assert isinstance(picture, Markdown)
    assert "data:image/png;base64," in picture.text
    spread = metadata["measures"]
    assert isinstance(spread, Markdown)
    for measure in ("snr_db", "loudness_lufs", "bandwidth_hz", "speaker_similarity"):
        assert f"| {measure} |" in spread.text
        assert isinstance(metadata[f"median_{measure}"], float)


def test_equal_inputs_give_equal_clips_and_are_not_cut_again(
    corpus: CorpusStore, demo_corpus: CorpusStore
) -> None:
    made = make_segments(corpus, PLAIN, "cidade-alex")
    assert [clip["sha256"] for clip in rows(corpus, "cidade-alex")] == [
        clip["sha256"] for clip in rows(demo_corpus, "cidade-alex")
    ]
    settings = PLAIN.model_copy(update={"vad": VadSettings(chunk_s=3.0, aggressiveness=3)})
    assert make_segments(corpus, settings, "cidade-alex").skipped
    assert read_result(corpus, "segments", "cidade-alex") is not None
    assert not made.skipped


def test_the_target_of_another_method_moves_no_clip(corpus: CorpusStore) -> None:
    make_segments(corpus, PLAIN, "cidade-alex")
    other = PLAIN.model_copy(update={"loudness": LoudnessSettings(loudnorm_lufs=-18.0)})
    assert make_segments(corpus, other, "cidade-alex").skipped
    own = PLAIN.model_copy(update={"loudness": LoudnessSettings(rms_dbfs=-22.0)})
    assert not make_segments(corpus, own, "cidade-alex").skipped


def test_an_edited_sidecar_moves_no_clip(tmp_path: Path, demo: Path) -> None:
    store = CorpusStore(tmp_path / "corpus")
    shutil.copy(demo / "cidade-alex.webm", tmp_path / "v.webm")
    (tmp_path / "videos.csv").write_text("video_id,source\na,v.webm\n")
    made = []
    for line in ("Bom dia.", "Boa tarde."):
        (tmp_path / "v.pt.vtt").write_text(f"WEBVTT\n\n00:01.000 --> 00:02.000\n{line}\n")
        make_video(store, DatasetSettings(), tmp_path / "videos.csv", "a")
        raw = make_raw_audio(store, DatasetSettings(), "a")
        assert not raw.skipped
        made.append(make_segments(store, PLAIN, "a"))
    assert [result.skipped for result in made] == [False, True]
    assert made[1].built_on == {"raw_audio/a": raw.data_version}
    assert require(store, "segments", "a")


def test_clips_end_where_the_cues_of_manual_subtitles_end(tmp_path: Path, demo: Path) -> None:
    store = CorpusStore(tmp_path / "corpus")
    shutil.copy(demo / "cidade-alex.webm", tmp_path / "v.webm")
    (tmp_path / "videos.csv").write_text("video_id,source\na,v.webm\n")
    ends_s = []
    skipped = []
    for cue_end_s in (None, 13.2, 13.2, 28.0):
        if cue_end_s is not None:
            cue = f"00:12.000 --> 00:{cue_end_s:06.3f}\nBom dia.\n"
            (tmp_path / "v.pt.vtt").write_text(f"WEBVTT\n\n{cue}")
        make_video(store, PLAIN, tmp_path / "videos.csv", "a")
        make_raw_audio(store, PLAIN, "a")
        result = make_segments(store, PLAIN, "a")
        skipped.append(result.skipped)
        ends_s.append([clip["end_sample"] / RATE for clip in rows(store, "a")])
    assert skipped == [False, False, True, False]
    plain, first, _, second = ends_s
    for cue_end_s, ends in ((13.2, first), (28.0, second)):
        assert any(abs(end - cue_end_s) < 0.3 for end in ends)
        assert not any(abs(end - cue_end_s) < 0.3 for end in plain)


def test_the_cues_in_the_language_of_the_row_come_before_a_translation(
    tmp_path: Path, demo: Path
) -> None:
    store = CorpusStore(tmp_path / "corpus")
    shutil.copy(demo / "cidade-alex.webm", tmp_path / "v.webm")
    settings = PLAIN.model_copy(
        update={"download": DownloadSettings(subtitle_languages=("en", "pt-BR", "pt-orig"))}
    )
    (tmp_path / "videos.csv").write_text("video_id,source\na,v.webm\n")
    counts = []
    for name, cues in (("pt-orig", 4), ("en", 1), ("pt-BR", 2)):
        text = [f"00:0{at}.000 --> 00:0{at}.900\nOlá.\n" for at in range(cues)]
        (tmp_path / f"v.{name}.vtt").write_text("WEBVTT\n\n" + "\n".join(text))
        make_video(store, settings, tmp_path / "videos.csv", "a")
        make_raw_audio(store, settings, "a")
        counts.append(make_segments(store, settings, "a").metadata["cue_ends"])
    assert counts == [0, 1, 2]


def test_without_the_speaker_pass_nothing_is_said_of_the_voice(corpus: CorpusStore) -> None:
    result = make_segments(corpus, PLAIN, "cidade-alex")
    for clip in rows(corpus, "cidade-alex"):
        assert clip["speaker_embedding"] is clip["halves_similarity"] is None
        assert clip["speaker_similarity"] is clip["change_similarity"] is None
        assert clip["bandwidth_hz"] is not None
    (verdict,) = (v for v in result.verdicts if v.check == "declared_speaker")
    assert verdict.passed
    assert verdict.value is None


def test_what_the_share_of_short_clips_drops_is_told(corpus: CorpusStore) -> None:
    """Sentences by themselves, with and without room for the short ones."""
    settings = PLAIN.model_copy(update={"vad": VadSettings(min_silence_s=0.2)})
    figures = []
    for share in (0.0, 1.0):
        segmentation = SegmentationSettings(min_s=9.5, short_share=share)
        cut = settings.model_copy(update={"segmentation": segmentation})
        figures.append(make_segments(corpus, cut, "cidade-alex").metadata)
    none, every = figures
    assert int(str(none["short_dropped"])) == int(str(every["segments"])) - int(
        str(none["segments"])
    )
    assert float(str(none["short_dropped_s"])) == pytest.approx(
        float(str(every["segments_duration_s"])) - float(str(none["segments_duration_s"])),
        abs=0.01,
    )
    assert float(str(none["short_dropped_s"])) > 0
    assert every["short_dropped"] == every["short_dropped_s"] == 0


def test_other_settings_replace_the_old_clips(corpus: CorpusStore) -> None:
    make_segments(corpus, PLAIN, "cidade-alex")
    old = [corpus.root / clip["path"] for clip in rows(corpus, "cidade-alex")]
    other = PLAIN.model_copy(update={"loudness": LoudnessSettings(method="loudnorm")})
    make_segments(corpus, other, "cidade-alex")
    new = [corpus.root / clip["path"] for clip in rows(corpus, "cidade-alex")]
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in new)
    assert len(list((corpus.root / "segments" / "cidade-alex").iterdir())) == 1


def test_a_folder_that_a_killed_run_left_is_replaced(corpus: CorpusStore) -> None:
    made = make_segments(corpus, PLAIN, "cidade-alex")
    folder = corpus.segments_dir("cidade-alex", made.fingerprint)
    corpus.record("segments", "cidade-alex").unlink()
    (folder / "cidade-alex_00001.wav").write_bytes(b"half")
    (folder / "stray.wav").write_bytes(b"stray")
    again = make_segments(corpus, PLAIN, "cidade-alex")
    assert again.data_version == made.data_version
    assert not (folder / "stray.wav").exists()


def test_without_vad_every_cut_is_forced_and_that_is_told(corpus: CorpusStore) -> None:
    settings = PLAIN.model_copy(update={"vad": VadSettings(enabled=False)})
    result = make_segments(corpus, settings, "cidade-alex")
    found = rows(corpus, "cidade-alex")
    assert {clip["cut"] for clip in found} == {"forced"}
    assert found[0]["start_sample"] == 0
    assert "forced_cut_share" in {v.check for v in result.verdicts if not v.passed}
    assert [clip["overlap_s"] for clip in found] == [0.5, *[1.0] * (len(found) - 2), 0.5]
    assert not result.blocked


def test_a_video_without_speech_blocks_what_follows(tmp_path: Path) -> None:
    store = CorpusStore(tmp_path / "corpus")
    noise = np.random.default_rng(0).normal(0, 0.02, 5 * RATE)
    sf.write(tmp_path / "noise.wav", noise, RATE)
    (tmp_path / "videos.csv").write_text("video_id,source\na,noise.wav\n")
    make_video(store, DatasetSettings(), tmp_path / "videos.csv", "a")
    make_raw_audio(store, DatasetSettings(), "a")
    make_segments(store, PLAIN, "a")
    assert rows(store, "a") == []
    with pytest.raises(UpstreamError, match="has_segments"):
        require(store, "segments", "a")


def test_without_raw_audio_nothing_is_cut(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="raw_audio"):
        make_segments(CorpusStore(tmp_path), DatasetSettings(), "a")


@pytest.mark.parametrize(
    ("found", "failed"),
    [
        ([row()], set()),
        ([], {"has_segments", "speech_ratio"}),
        ([row(), row(9, end_sample=21 * RATE)], {"segment_window"}),
        ([row(end_sample=RATE // 2)], {"segment_window"}),
        ([row(speech_ratio=0.3)], {"speech_ratio"}),
        ([row(), row(9, cut="forced")], {"forced_cut_share"}),
        ([row(), row(9 - 0.1)], {"overlap"}),
        ([row(cut="forced"), row(9 - 0.1, cut="forced")], {"overlap", "forced_cut_share"}),
        ([row(cut="forced"), row(9 - 0.5, cut="forced")], {"forced_cut_share"}),
        ([row(cut="forced"), row(9 - 0.5)], {"overlap", "forced_cut_share"}),
        ([row(), row(9, rms_dbfs=-35.0)], set()),
        ([row(rms_dbfs=-35.0), row(9, rms_dbfs=-35.0)], {"loudness"}),
        ([row(), row(9, speaker_similarity=0.4)], {"declared_speaker"}),
        ([row(speaker_similarity=None)], set()),
    ],
)
def test_checks_name_what_is_wrong(found: list[dict[str, Any]], failed: set[str]) -> None:
    lengths = [clip["end_sample"] - clip["start_sample"] for clip in found]
    results = verdicts(found, lengths, DatasetSettings())
    assert {verdict.check for verdict in results if not verdict.passed} == failed


@pytest.mark.parametrize("length", [9 * RATE - 1, 12 * RATE])
def test_a_file_that_is_not_as_long_as_its_row_says_is_named(length: int) -> None:
    (wrong,) = (v for v in verdicts([row()], [length], DatasetSettings()) if v.blocks)
    assert wrong.check == "segment_window"
    assert "a_00001" in wrong.description


def segments_of(folder: Path, media: Path) -> CorpusStore:
    store = CorpusStore(folder / "corpus")
    (folder / "videos.csv").write_text(f"video_id,source\na,{media.name}\n")
    make_video(store, DatasetSettings(), folder / "videos.csv", "a")
    make_raw_audio(store, DatasetSettings(), "a")
    make_segments(store, PLAIN, "a")
    return store


def test_the_clips_beside_a_hole_of_the_recording_say_so_and_the_others_do_not(
    tmp_path: Path, demo: Path, truth: dict[str, list[tuple[float, float]]], retimed: Any
) -> None:
    middle_s = sum(truth["cidade-alex"][3]) / 2
    media = retimed(demo / "cidade-alex.webm", tmp_path / "a.webm", middle_s, lost_s=1.5)
    found = rows(segments_of(tmp_path, media), "a")
    beside = [
        clip
        for clip in found
        if clip["start_sample"] / RATE - 0.3 < middle_s + 1.5
        and clip["end_sample"] / RATE + 0.3 > middle_s
    ]
    assert 0 < len(beside) < len(found)
    assert [clip for clip in found if clip["filled_s"] > 0] == beside


def test_where_the_clock_of_a_recording_jumps_its_cues_are_no_hints(
    tmp_path: Path, demo: Path, retimed: Any
) -> None:
    media = retimed(demo / "feira-dora.webm", tmp_path / "a.webm", 20, jump_s=100)
    shutil.copy(demo / "feira-dora.pt-BR.vtt", tmp_path / "a.pt-BR.vtt")
    store = segments_of(tmp_path, media)
    assert require(store, "raw_audio", "a").metadata["subtitles"] == "pt-BR (manual)"
    assert require(store, "segments", "a").metadata["cue_ends"] == 0


def test_a_recording_too_faint_for_the_floor_is_told_which_setting_hides_it(
    tmp_path: Path, demo_corpus: CorpusStore
) -> None:
    sound, _ = sf.read(demo_corpus.raw_audio("cidade-alex"))
    sf.write(tmp_path / "a.wav", sound * 10 ** (-24 / 20), RATE)
    store = segments_of(tmp_path, tmp_path / "a.wav")
    result = read_result(store, "segments", "a")
    assert result is not None
    (faint,) = (v for v in result.verdicts if v.check == "speech_over_floor")
    assert not faint.passed
    assert "vad.floor_dbfs (-40)" in faint.description
    assert not [v for v in require(demo_corpus, "segments", "cidade-alex").verdicts if not v.passed]


def test_a_video_without_clips_has_a_summary_too() -> None:
    assert summary([], 0, 0.0, [])["yield"] == 0
