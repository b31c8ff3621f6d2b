from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from xtts_core.corpus.videos import absolute, make_video
from xtts_core.errors import CatalogueError, UpstreamError
from xtts_core.settings import DatasetSettings
from xtts_core.stage import require
from xtts_core.store import CorpusStore, read_json, sha256_file


@pytest.fixture
def store(tmp_path: Path) -> CorpusStore:
    return CorpusStore(tmp_path / "corpus")


@pytest.fixture
def folder(tmp_path: Path, demo: Path) -> Path:
    """A folder with a catalogue, a recording and its sidecars."""
    folder = tmp_path / "media"
    folder.mkdir()
    shutil.copy(demo / "cidade-alex.webm", folder / "a.webm")
    for name in ("a.pt-BR.vtt", "a.pt-BR.srt", "a.pt-orig.vtt", "a.en.srt", "a.notes.old.vtt"):
        (folder / name).write_text("WEBVTT\n")
    (folder / "videos.csv").write_text(
        "video_id,source,language,licence\n"
        "a,a.webm,pt-BR,free\nlost,lost.webm,pt,\nweb,https://example.org/v,xx,free\n"
    )
    return folder


def failed(store: CorpusStore, folder: Path, video_id: str) -> set[str]:
    result = make_video(store, DatasetSettings(), folder / "videos.csv", video_id)
    return {verdict.check for verdict in result.verdicts if not verdict.passed}


def test_a_local_file_is_recorded_with_its_hash_and_sidecars(
    store: CorpusStore, folder: Path
) -> None:
    result = make_video(store, DatasetSettings(), folder / "videos.csv", "a")
    record = read_json(result.uri)
    source = record["source"]
    assert source["kind"] == "file"
    assert absolute(store, source["path"]) == (folder / "a.webm").resolve()
    assert source["sha256"] == sha256_file(folder / "a.webm")
    assert [(s["language"], Path(s["path"]).suffix) for s in source["sidecars"]] == [
        ("en", ".srt"),
        ("pt-BR", ".vtt"),
        ("pt-orig", ".vtt"),
    ]
    assert record["row"]["speaker"] == "a"
    assert not result.blocked


def test_the_same_row_and_file_are_not_recorded_again(store: CorpusStore, folder: Path) -> None:
    first = make_video(store, DatasetSettings(), folder / "videos.csv", "a")
    (folder / "a.webm").touch()
    again = make_video(store, DatasetSettings(), folder / "videos.csv", "a")
    assert again.skipped
    assert again.data_version == first.data_version


def test_a_file_with_another_content_is_another_version(store: CorpusStore, folder: Path) -> None:
    first = make_video(store, DatasetSettings(), folder / "videos.csv", "a")
    with (folder / "a.webm").open("ab") as file:
        file.write(b"more")
    assert (
        make_video(store, DatasetSettings(), folder / "videos.csv", "a").data_version
        != first.data_version
    )


def test_corpus_and_media_can_move_together(
    store: CorpusStore, folder: Path, tmp_path: Path
) -> None:
    first = make_video(store, DatasetSettings(), folder / "videos.csv", "a")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("corpus", "media"):
        (tmp_path / name).rename(moved / name)
    again = make_video(
        CorpusStore(moved / "corpus"), DatasetSettings(), moved / "media/videos.csv", "a"
    )
    assert again.skipped
    assert again.data_version == first.data_version


def test_the_span_of_a_row_is_recorded_where_there_is_one(store: CorpusStore, folder: Path) -> None:
    csv_path = folder / "videos.csv"
    whole = make_video(store, DatasetSettings(), csv_path, "a")
    assert read_json(whole.uri)["row"].keys() == {
        *("video_id", "source", "title", "language", "speaker", "licence", "subtitles")
    }
    text = csv_path.read_text().replace("licence\n", "licence,start,end\n")
    csv_path.write_text(text.replace("a,a.webm,pt-BR,free", "a,a.webm,pt-BR,free,0:02,4.5"))
    part = make_video(store, DatasetSettings(), csv_path, "a")
    row = read_json(part.uri)["row"]
    assert (row["start_s"], row["end_s"]) == (2.0, 4.5)
    assert part.data_version != whole.data_version


def test_a_missing_file_blocks_what_follows_until_it_is_there(
    store: CorpusStore, folder: Path
) -> None:
    assert failed(store, folder, "lost") == {"source_allowed_and_present", "licence_stated"}
    with pytest.raises(UpstreamError, match=r"lost\.webm"):
        require(store, "videos", "lost")
    shutil.copy(folder / "a.webm", folder / "lost.webm")
    assert failed(store, folder, "lost") == {"licence_stated"}


def test_a_language_outside_the_settings_blocks(store: CorpusStore, folder: Path) -> None:
    assert failed(store, folder, "web") == {"language_supported"}


def test_a_language_without_a_normaliser_blocks_though_the_settings_name_it(
    store: CorpusStore, folder: Path
) -> None:
    settings = DatasetSettings(languages=("pt", "xx"))
    result = make_video(store, settings, folder / "videos.csv", "web")
    assert {verdict.check for verdict in result.blocked} == {"language_supported"}


def test_an_id_without_a_usable_row_says_what_is_wrong_with_the_file(
    store: CorpusStore, folder: Path
) -> None:
    csv_path = folder / "videos.csv"
    csv_path.write_text(csv_path.read_text() + "bad,-x,pt,\n")
    with pytest.raises(CatalogueError, match="line 5"):
        make_video(store, DatasetSettings(), csv_path, "bad")
