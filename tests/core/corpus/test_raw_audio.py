from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile as sf

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
    (media / "v.pt-BR.srt").write_bytes(SRT.encode("latin-1"))
    (media / "v.pt-orig.srt").write_text(SRT, encoding="utf-8")
    result = make(store, media, "v.webm")
    provenance = read_json(store.raw_provenance("a"))
    assert [entry["language"] for entry in provenance["subtitles"]] == ["pt-orig"]
    assert [entry["name"] for entry in provenance["subtitles_rejected"]] == [
        "v.pt.vtt",
        "v.pt-BR.srt",
    ]
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
            "reason": "line 3: The cue ends before it starts: '00:00:03.000 --> 00:00:01.000'",
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


def test_without_its_row_nothing_is_decoded(store: CorpusStore) -> None:
    with pytest.raises(UpstreamError, match="videos"):
        make_raw_audio(store, SETTINGS, "a")
