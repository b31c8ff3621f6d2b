from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyloudnorm
import pytest
import soundfile as sf
import webvtt

from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.corpus.videos import make_video
from xtts_core.errors import DecodeError, SourceError, UpstreamError
from xtts_core.settings import DatasetSettings, DownloadSettings
from xtts_core.stage import Markdown, StageResult, require
from xtts_core.store import CorpusStore, read_json
from xtts_core.transcription.subtitles import Cue, read_cues

SRT = "1\n00:00:01,000 --> 00:00:02,500\nBom dia, João.\n\n"
SETTINGS = DatasetSettings(download=DownloadSettings(retries=0, retry_delay_s=0))


@pytest.fixture
def store(tmp_path: Path) -> CorpusStore:
    return CorpusStore(tmp_path / "corpus")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


def make(store: CorpusStore, media: Path, source: str, subtitles: str = "auto") -> StageResult:
    csv_path = media / "videos.csv"
    csv_path.write_text(
        f"video_id,source,language,licence,subtitles\na,{source},pt,x,{subtitles}\n"
    )
    make_video(store, SETTINGS, csv_path, "a")
    return make_raw_audio(store, SETTINGS, "a")


def failed(result: StageResult) -> set[str]:
    return {verdict.check for verdict in result.verdicts if not verdict.passed}


def test_a_local_file_comes_with_its_sidecar(demo_corpus: CorpusStore, demo: Path) -> None:
    provenance = read_json(demo_corpus.raw_provenance("feira-dora"))
    assert provenance["duration_s"] == pytest.approx(77.288, abs=0.01)
    assert provenance["audio"]["codec"] == "opus"
    assert provenance["audio"]["rate_hz"] == 48_000
    assert provenance["subtitles"] == [
        {"language": "pt-BR", "kind": "manual", "path": "raw/feira-dora.pt-BR.vtt"}
    ]
    copied = demo_corpus.root / provenance["subtitles"][0]["path"]
    assert copied.read_bytes() == (demo / "feira-dora.pt-BR.vtt").read_bytes()
    assert read_json(demo_corpus.raw_provenance("cidade-alex"))["subtitles"] == []


def test_the_provenance_says_the_same_each_time(
    demo_corpus: CorpusStore, store: CorpusStore, demo: Path
) -> None:
    make_video(store, DatasetSettings(), demo / "videos.csv", "cidade-alex")
    make_raw_audio(store, DatasetSettings(), "cidade-alex")
    sounds = {corpus.raw_audio("cidade-alex").read_bytes() for corpus in (store, demo_corpus)}
    assert len(sounds) == 1
    first, second = (
        read_json(corpus.raw_provenance("cidade-alex")) for corpus in (store, demo_corpus)
    )
    first["source"].pop("path")
    second["source"].pop("path")
    assert first == second


def test_a_url_gives_the_same_sound_and_its_subtitles(
    store: CorpusStore, media: Path, demo_corpus: CorpusStore, site: Any
) -> None:
    result = make(store, media, f"{site.address}/watch")
    provenance = read_json(store.raw_provenance("a"))
    assert store.raw_audio("a").read_bytes() == demo_corpus.raw_audio("feira-dora").read_bytes()
    assert provenance["source"]["url"] == f"{site.address}/watch"
    assert provenance["subtitles"] == [
        {"language": "pt-BR", "kind": "manual", "path": "raw/a.pt-BR.vtt"}
    ]
    assert not failed(result)
    assert result.metadata["subtitles"] == "pt-BR (manual)"


@pytest.mark.parametrize(
    ("subtitles", "expected"),
    [("auto", ["pt", "pt-orig"]), ("none", []), ("EN", ["en"]), ("pt-orig", ["pt-orig"])],
)
def test_a_row_chooses_its_subtitles_and_srt_becomes_vtt(
    store: CorpusStore, media: Path, demo: Path, subtitles: str, expected: list[str]
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    for language in ("pt", "en", "pt-orig"):
        (media / f"v.{language}.srt").write_text(SRT, encoding="utf-8")
    result = make(store, media, "v.webm", subtitles)
    found = read_json(store.raw_provenance("a"))["subtitles"]
    assert [entry["language"] for entry in found] == expected
    for entry in found:
        assert entry["kind"] == ("automatic" if entry["language"] == "pt-orig" else "manual")
        text = (store.root / entry["path"]).read_text(encoding="utf-8")
        assert text.startswith("WEBVTT")
        assert "00:00:01.000 --> 00:00:02.500\nBom dia, João." in text
    assert failed(result) == ({"subtitles_language"} if subtitles == "EN" else set())


def test_subtitles_that_cannot_be_read_are_named_and_the_rest_goes_on(
    store: CorpusStore, media: Path, demo: Path
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    (media / "v.pt.vtt").write_text("no subtitles\n")
    (media / "v.pt-BR.srt").write_bytes(b"\xff\xfeW")
    (media / "v.pt-orig.srt").write_text(SRT, encoding="utf-8")
    result = make(store, media, "v.webm")
    provenance = read_json(store.raw_provenance("a"))
    assert [entry["language"] for entry in provenance["subtitles"]] == ["pt-orig"]
    assert [entry["name"] for entry in provenance["subtitles_rejected"]] == [
        "v.pt.vtt",
        "v.pt-BR.srt",
    ]
    assert failed(result) == {"subtitles_readable"}


@pytest.mark.parametrize(
    ("suffix", "encoding", "header"),
    [
        ("srt", "cp1252", ""),
        ("srt", "utf-16", ""),
        ("vtt", "utf-8", ""),
        ("vtt", "cp1252", "WEBVTT\n\n"),
    ],
)
def test_what_is_written_of_subtitles_can_be_read_by_later_stages_and_by_players(
    store: CorpusStore, media: Path, demo: Path, suffix: str, encoding: str, header: str
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    comma = "," if suffix == "srt" else "."
    (media / f"v.pt.{suffix}").write_bytes(
        (
            f"{header}1\n0:00:01{comma}000 --> 0:00:02{comma}500\nBom dia, João.\n\n"
            f"2\n00:00:03{comma}000 --> depois\nNão.\n\n"
            f"3\n00:00:04{comma}000 --> 00:00:05{comma}000\nAté já.\n"
        ).encode(encoding)
    )
    result = make(store, media, "v.webm")
    written = store.raw_subtitles("a", "pt")
    assert read_cues(written) == [Cue(1.0, 2.5, "Bom dia, João."), Cue(4.0, 5.0, "Até já.")]
    if not header:
        assert [caption.text for caption in webvtt.read(str(written)).captions] == [
            "Bom dia, João.",
            "Até já.",
        ]
    (broken,) = read_json(store.raw_provenance("a"))["subtitles_broken_cues"]
    assert broken["name"] == f"v.pt.{suffix}"
    assert "no readable times: '00:00:03" in broken["reason"]
    assert failed(result) == {"subtitles_readable"}


def test_subtitles_that_later_stages_cannot_read_are_named_with_the_line(
    store: CorpusStore, media: Path, demo: Path
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    (media / "v.pt.vtt").write_text("WEBVTT\n\n00:00:03.000 --> 00:00:01.000\nBom dia.\n")
    make(store, media, "v.webm")
    assert read_json(store.raw_provenance("a"))["subtitles_rejected"] == [
        {
            "name": "v.pt.vtt",
            "reason": "The subtitle file has no cue that can be read: "
            "line 3: it ends before it starts: '00:00:03.000 --> 00:00:01.000'",
        }
    ]


def make_span(store: CorpusStore, media: Path, span: str) -> StageResult:
    csv_path = media / "videos.csv"
    csv_path.write_text(f"video_id,source,language,licence,start,end\na,v.webm,pt,x,{span}\n")
    make_video(store, SETTINGS, csv_path, "a")
    return make_raw_audio(store, SETTINGS, "a")


def test_a_row_with_a_span_gives_that_part_with_its_subtitles(
    store: CorpusStore, media: Path, demo: Path, demo_corpus: CorpusStore
) -> None:
    shutil.copy(demo / "feira-dora.webm", media / "v.webm")
    shutil.copy(demo / "feira-dora.pt-BR.vtt", media / "v.pt-BR.vtt")
    cues = read_cues(demo / "feira-dora.pt-BR.vtt")
    start_s, end_s = round(cues[2].end_s + 0.1, 1), round(cues[6].end_s + 0.1, 1)
    result = make_span(store, media, f"{start_s},{end_s}")
    whole, _ = sf.read(demo_corpus.raw_audio("feira-dora"), dtype="int16")
    part, _ = sf.read(store.raw_audio("a"), dtype="int16")
    np.testing.assert_array_equal(part, whole[round(start_s * 22_050) : round(end_s * 22_050)])
    provenance = read_json(store.raw_provenance("a"))
    assert provenance["span"] == {"start_s": start_s, "end_s": end_s}
    assert result.metadata["duration_s"] == pytest.approx(end_s - start_s, abs=0.001)
    assert read_cues(store.raw_subtitles("a", "pt-BR")) == [
        Cue(round(cue.start_s - start_s, 3), round(cue.end_s - start_s, 3), cue.text)
        for cue in cues[3:7]
    ]


def test_a_span_without_a_cue_has_no_subtitles(store: CorpusStore, media: Path, demo: Path) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    (media / "v.pt.srt").write_text(SRT, encoding="utf-8")
    make_span(store, media, "10,")
    provenance = read_json(store.raw_provenance("a"))
    assert provenance["subtitles"] == []
    assert provenance["subtitles_rejected"][0]["reason"] == "no cue lies within the span"


def test_a_span_that_is_edited_is_decoded_anew_and_one_of_nothing_changes_nothing(
    store: CorpusStore, media: Path, demo: Path
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    plain = make(store, media, "v.webm")
    whole = make_span(store, media, ",")
    assert whole.skipped
    assert whole.fingerprint == plain.fingerprint
    spans = [make_span(store, media, span) for span in ("10,", "10,20", "10,20")]
    assert [result.skipped for result in spans] == [False, False, True]


def test_a_recording_is_shown_and_its_measures_are_told(demo_corpus: CorpusStore) -> None:
    result = require(demo_corpus, "raw_audio", "feira-dora")
    picture = result.metadata["picture"]
    assert isinstance(picture, Markdown)
    assert picture.text.startswith("![")
    samples, rate = sf.read(demo_corpus.raw_audio("feira-dora"))
    lufs = pyloudnorm.Meter(rate).integrated_loudness(samples)
    assert result.metadata["loudness_lufs"] == pytest.approx(lufs, abs=0.05)
    assert (result.metadata["filled_s"], result.metadata["clock_jumps"]) == (0, 0)
    values = {verdict.check: verdict.value for verdict in result.verdicts}
    assert values["decodable"] == 0
    assert values["loudness"] == result.metadata["loudness_lufs"]


def test_subtitles_of_an_earlier_version_are_removed(
    store: CorpusStore, media: Path, demo: Path
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    (media / "v.pt.srt").write_text(SRT, encoding="utf-8")
    make(store, media, "v.webm")
    assert store.raw_subtitles("a", "pt").exists()
    make(store, media, "v.webm", "none")
    assert not store.raw_subtitles("a", "pt").exists()


@pytest.mark.parametrize("kind", ["file", "url"])
def test_what_a_person_reads_in_the_row_is_no_reason_to_fetch_it_again(
    store: CorpusStore, media: Path, demo: Path, site: Any, kind: str
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    source = "v.webm" if kind == "file" else f"{site.address}/watch"
    csv_path = media / "videos.csv"
    made = []
    for title in ("one,dora,free", "two,alex,closed"):
        csv_path.write_text(f"video_id,source,title,speaker,licence\na,{source},{title}\n")
        make_video(store, SETTINGS, csv_path, "a")
        site.asked.clear()
        made.append(make_raw_audio(store, SETTINGS, "a"))
    assert [result.skipped for result in made] == [False, True]
    assert site.asked == []
    assert require(store, "raw_audio", "a").data_version == made[0].data_version


def test_settings_of_the_download_do_not_touch_a_local_file(
    store: CorpusStore, media: Path, demo: Path
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    (media / "v.en.srt").write_text(SRT, encoding="utf-8")
    make(store, media, "v.webm")
    for languages, skipped in ((("pt", "es"), True), (("pt", "en"), False)):
        download = DownloadSettings(format="best", subtitle_languages=languages)
        result = make_raw_audio(store, DatasetSettings(download=download), "a")
        assert result.skipped is skipped


def test_raw_audio_of_an_earlier_row_is_refused_until_it_is_looked_at_again(
    store: CorpusStore, media: Path, demo: Path
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    make(store, media, "v.webm")
    csv_path = media / "videos.csv"
    csv_path.write_text(csv_path.read_text().replace(",x,", ",y,"))
    make_video(store, SETTINGS, csv_path, "a")
    with pytest.raises(UpstreamError, match="earlier videos"):
        require(store, "raw_audio", "a")
    make_raw_audio(store, SETTINGS, "a")
    require(store, "raw_audio", "a")


def test_equal_inputs_are_not_decoded_again(store: CorpusStore, media: Path, demo: Path) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    first = make(store, media, "v.webm")
    again = make(store, media, "v.webm")
    assert again.skipped
    assert again.data_version == first.data_version


@pytest.mark.parametrize(
    ("samples", "check"),
    [
        (np.zeros(44_100), "not_silent"),
        (0.5 * np.ones(11_025), "duration_in_range"),
        (np.sign(np.sin(np.arange(44_100) / 50)), "clipping_ratio"),
        (0.003 * np.sin(np.arange(44_100) / 50), "loudness"),
    ],
)
def test_sound_that_cannot_be_used_fails_its_check(
    store: CorpusStore, media: Path, samples: Any, check: str
) -> None:
    sf.write(media / "v.wav", samples, 22_050)
    assert check in failed(make(store, media, "v.wav"))


def test_a_file_that_changed_behind_its_row_is_refused(
    store: CorpusStore, media: Path, demo: Path
) -> None:
    shutil.copy(demo / "cidade-alex.webm", media / "v.webm")
    (media / "videos.csv").write_text("video_id,source\na,v.webm\n")
    make_video(store, SETTINGS, media / "videos.csv", "a")
    with (media / "v.webm").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SourceError, match="changed"):
        make_raw_audio(store, SETTINGS, "a")


def test_a_download_that_cannot_be_decoded_is_fetched_anew(
    store: CorpusStore, media: Path, demo: Path, site: Any
) -> None:
    whole = (demo / "feira-dora.webm").read_bytes()
    site.media["/broken.webm"] = whole[: len(whole) // 2]
    source = f"{site.address}/broken.webm"
    with pytest.raises(DecodeError, match="truncated"):
        make(store, media, source)
    assert not store.raw_audio("a").exists()
    site.media["/broken.webm"] = whole
    assert not failed(make(store, media, source))


@pytest.mark.parametrize(
    ("name", "span", "reason"), [("whole", "60,900", "span ends"), ("mute", ",", "no audio track")]
)
def test_a_whole_download_that_is_of_no_use_is_not_fetched_again(
    store: CorpusStore, media: Path, demo: Path, site: Any, name: str, span: str, reason: str
) -> None:
    site.media["/whole.webm"] = (demo / "cidade-alex.webm").read_bytes()
    with av.open(str(media / "mute.webm"), "w") as out:
        picture = out.add_stream("libvpx", rate=10, width=64, height=64)
        out.mux([*picture.encode(av.VideoFrame(64, 64, "yuv420p")), *picture.encode(None)])
    site.media["/mute.webm"] = (media / "mute.webm").read_bytes()
    csv_path = media / "videos.csv"
    csv_path.write_text(
        f"video_id,source,licence,start,end\na,{site.address}/{name}.webm,x,{span}\n"
    )
    make_video(store, SETTINGS, csv_path, "a")
    with pytest.raises(DecodeError, match=reason):
        make_raw_audio(store, SETTINGS, "a")
    (kept,) = store.download_dir("a").rglob("media.*")
    os.utime(kept, (1, 1))
    with pytest.raises(DecodeError, match=reason):
        make_raw_audio(store, SETTINGS, "a")
    assert kept.stat().st_mtime == 1


def damaged(source: Path, share: float) -> bytes:
    """A third into the file so much of it is zeros."""
    content = source.read_bytes()
    first, length = len(content) // 3, round(len(content) * share)
    return content[:first] + bytes(length) + content[first + length :]


def test_a_small_hole_is_told_with_its_place(store: CorpusStore, media: Path, demo: Path) -> None:
    (media / "v.webm").write_bytes(damaged(demo / "feira-dora.webm", 0.001))
    result = make(store, media, "v.webm")
    assert failed(result) == {"holes"}
    ((start_s, end_s),) = read_json(store.raw_provenance("a"))["audio"]["holes"]
    assert (start_s, end_s) == pytest.approx((24.3, 24.97), abs=0.02)
    (told,) = (verdict for verdict in result.verdicts if verdict.check == "holes")
    assert told.value == pytest.approx(0.66 / 77.29, abs=0.001)
    assert "0.7 s of 77.3 s are missing and silent: 0:00:24.3 to 0:00:25.0." in told.description


def test_a_download_of_which_a_large_part_is_missing_is_refused_and_fetched_anew(
    store: CorpusStore, media: Path, demo: Path, site: Any
) -> None:
    site.media["/v.webm"] = damaged(demo / "feira-dora.webm", 0.1)
    source = f"{site.address}/v.webm"
    assert failed(make(store, media, source)) == {"complete", "holes"}
    with pytest.raises(UpstreamError, match=r"complete: 10\.\d s of 77\.3 s are missing"):
        require(store, "raw_audio", "a")
    site.media["/v.webm"] = (demo / "feira-dora.webm").read_bytes()
    assert not failed(make(store, media, source))
    assert make(store, media, source).skipped


def test_where_the_clock_leaps_subtitles_are_kept_and_said_to_be_out_of_step(
    store: CorpusStore, media: Path, demo: Path, demo_corpus: CorpusStore, retimed: Any
) -> None:
    retimed(demo / "cidade-alex.webm", media / "v.webm", 20, jump_s=100)
    (media / "v.pt.srt").write_text(SRT, encoding="utf-8")
    assert failed(make(store, media, "v.webm")) == {"clock"}
    provenance = read_json(store.raw_provenance("a"))
    assert provenance["subtitles_in_step"] is False
    assert [entry["language"] for entry in provenance["subtitles"]] == ["pt"]
    assert read_json(demo_corpus.raw_provenance("feira-dora"))["subtitles_in_step"] is True


DECODE_SLOWLY = """
import sys
from pathlib import Path
from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.settings import DatasetSettings
from xtts_core.store import CorpusStore
def wait(done, total, unit):
    print("begun", flush=True)
    sys.stdin.read()
make_raw_audio(CorpusStore(Path(sys.argv[1])), DatasetSettings(), sys.argv[2], wait)
"""


def test_a_killed_run_leaves_nothing_once_it_has_run_again_and_others_are_left_alone(
    store: CorpusStore, media: Path, demo: Path, begun: Any
) -> None:
    csv_path = media / "videos.csv"
    csv_path.write_text("video_id,source\na,v.webm\nb,w.webm\n")
    for video_id, name in (("a", "v"), ("b", "w")):
        shutil.copy(demo / "cidade-alex.webm", media / f"{name}.webm")
        make_video(store, DatasetSettings(), csv_path, video_id)
    raw = store.raw_audio("a").parent
    with begun(DECODE_SLOWLY, str(store.root), "b") as other:
        with begun(DECODE_SLOWLY, str(store.root), "a") as killed:
            killed.kill()
        assert len(list(raw.iterdir())) == 2
        make_raw_audio(store, DatasetSettings(), "a")
        assert len(list(raw.glob(".*"))) == 1
        other.communicate("go on")
        assert other.returncode == 0
    assert sorted(file.name for file in raw.iterdir()) == ["a.json", "a.wav", "b.json", "b.wav"]
    assert store.raw_audio("b").read_bytes() == store.raw_audio("a").read_bytes()


def test_without_its_row_nothing_is_decoded(store: CorpusStore) -> None:
    with pytest.raises(UpstreamError, match="videos"):
        make_raw_audio(store, SETTINGS, "a")
