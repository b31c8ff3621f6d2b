from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from xtts_core.corpus import file_hashes
from xtts_core.corpus.catalogue import CatalogueRow, format_clock, parse_clock, read_catalogue
from xtts_core.corpus.sources import youtube_id
from xtts_core.store import sha256_file


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    return tmp_path / "videos.csv"


def test_defaults_are_filled_in(csv_path: Path) -> None:
    csv_path.write_text("video_id,source\na1,https://example.org/v\n")
    (row,) = read_catalogue(csv_path).rows
    assert (row.language, row.speaker, row.subtitles, row.licence) == ("pt", "a1", "auto", "")


def test_the_row_hash_changes_with_any_cell_and_comes_back(csv_path: Path) -> None:
    csv_path.write_text("video_id,source,title\na,https://example.org/v,one\n")
    first = read_catalogue(csv_path).rows[0].row_hash
    csv_path.write_text("video_id,source,title\na,https://example.org/v,two\n")
    second = read_catalogue(csv_path).rows[0].row_hash
    csv_path.write_text("title,video_id,source\n one ,a,https://example.org/v\n")
    assert second != first
    assert read_catalogue(csv_path).rows[0].row_hash == first


def test_a_row_without_a_span_has_the_hash_that_it_had_before_there_were_spans() -> None:
    row = CatalogueRow("a", "https://example.org/v", "Título", "pt", "a", "free", "auto")
    assert row.row_hash == "d863fe65cfdaca3e348bbf0cb05466646129c2da73423eb3a984a420f32d29c7"


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("75.5", 75.5, "1:15.5"),
        ("0", 0.0, "0:00"),
        ("90:00", 5400.0, "1:30:00"),
        ("1:15,050", 75.05, "1:15.05"),
        ("10:00:00.001", 36000.001, "10:00:00.001"),
    ],
)
def test_times_are_read_and_written(text: str, seconds: float, shown: str) -> None:
    assert parse_clock(text) == seconds
    assert format_clock(seconds) == shown
    assert parse_clock(shown) == seconds


def test_the_span_of_a_row_changes_its_hash_and_its_derived_id(csv_path: Path) -> None:
    url = "https://youtu.be/dQw4w9WgXcQ"
    csv_path.write_text(f"source,start,end\n{url},,\n{url},1:00,\n{url},,90.5\n{url},60,1:30\n")
    rows = read_catalogue(csv_path).rows
    assert [(row.video_id, row.start_s, row.end_s) for row in rows] == [
        ("dQw4w9WgXcQ", None, None),
        ("dQw4w9WgXcQ_60000-end", 60.0, None),
        ("dQw4w9WgXcQ_0-90500", None, 90.5),
        ("dQw4w9WgXcQ_60000-90000", 60.0, 90.0),
    ]
    assert len({row.row_hash for row in rows}) == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a b,https://example.org/v,,,", "video_id"),
        (f"{'a' * 65},https://example.org/v,,,", "video_id"),
        ("a\u0301,https://example.org/v,,,", "video_id"),
        ("a,,,,", "source is empty"),
        ("a,-rf,,,", "starts with '-'"),
        ("a,ftp://example.org/v,,,", "'ftp'"),
        ("a,javascript:alert(1),,,", "'javascript'"),
        ("a,ytsearch5:feira,,,", "'ytsearch5'"),
        ("a,http:///v,,,", "host"),
        ("a,http://[::1/v,,,", "no URL"),
        ("a,file://elsewhere/v.webm,,,", "this machine"),
        ("a,x\x01y.webm,,,", "control character"),
        ("a,v.webm,português,,", "language"),
        ("a,v.webm,pt,todas!,", "subtitles"),
        ("a,v.webm,pt,auto,../b", "speaker"),
        ("a,v.webm,pt,auto,b,,,more", "8 cells under 7 columns"),
        ("a,v.webm,,,,-1,", "start '-1' is no time"),
        ("a,v.webm,,,,1:75,", "start '1:75' has 60 or more"),
        ("a,v.webm,,,,,1:00:60", "end '1:00:60' has 60 or more"),
        ("a,v.webm,,,,1:30,90", "end '90' does not come after start '1:30'"),
        ("a,v.webm,,,,,0", "end '0' does not come after start '0'"),
        ("a,v.webm,,,,nan,", "no time"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_the_others_go_on(
    csv_path: Path, row: str, reason: str
) -> None:
    csv_path.write_text(
        f"video_id,source,language,subtitles,speaker,start,end\ngood,https://example.org/1,,,\n{row}\n"
        "better,https://example.org/2,,,\n",
        encoding="utf-8",
    )
    catalogue = read_catalogue(csv_path)
    assert [row.video_id for row in catalogue.rows] == ["good", "better"]
    (problem,) = catalogue.problems
    assert problem.line == 3
    assert reason in problem.reason


def test_the_second_of_two_with_one_id_is_reported_also_in_another_case(csv_path: Path) -> None:
    csv_path.write_text(
        "video_id,source\nAb,https://example.org/1\nAb,https://example.org/2\n"
        "aB,https://example.org/3\n"
    )
    catalogue = read_catalogue(csv_path)
    assert [row.source for row in catalogue.rows] == ["https://example.org/1"]
    assert [(problem.line, "case" in problem.reason) for problem in catalogue.problems] == [
        (3, False),
        (4, True),
    ]


def test_the_second_row_of_one_content_is_reported_with_the_first(csv_path: Path) -> None:
    for name in ("a.webm", "b.webm"):
        (csv_path.parent / name).write_bytes(b"sound")
    csv_path.write_text("source\na.webm\nb.webm\n")
    catalogue = read_catalogue(csv_path)
    assert [row.source for row in catalogue.rows] == ["a.webm"]
    assert [problem.reason for problem in catalogue.problems] == [
        "b.webm is the same recording as a.webm"
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
        "https://youtube.com/watch?list=PL1&v=dQw4w9WgXcQ&t=3s",
        "http://m.youtube.com/watch?v=dQw4w9WgXcQ#x",
        "https://music.youtube.com/watch?v=dQw4w9WgXcQ",
        "https://youtu.be/dQw4w9WgXcQ?si=abc",
        "https://www.youtube.com/shorts/dQw4w9WgXcQ",
        "https://www.youtube.com/live/dQw4w9WgXcQ?feature=share",
        "https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ",
    ],
)
def test_every_form_of_a_youtube_address_gives_its_id(csv_path: Path, url: str) -> None:
    csv_path.write_text(f"source\n{url}\n")
    assert read_catalogue(csv_path).rows[0].video_id == "dQw4w9WgXcQ"


@pytest.mark.parametrize(
    "url",
    [
        "https://notyoutube.com/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com/@canal",
        "https://www.youtube.com/watch?v=short",
        "https://example.org/?v=dQw4w9WgXcQ",
    ],
)
def test_other_addresses_have_no_youtube_id(url: str) -> None:
    assert youtube_id(url) is None


def test_ids_are_derived_from_the_url_and_from_the_content_of_a_file(csv_path: Path) -> None:
    (csv_path.parent / "v.webm").write_bytes(b"sound")
    csv_path.write_text("source\nhttps://example.org/v\nv.webm\nmissing.webm\n")
    catalogue = read_catalogue(csv_path)
    assert [row.video_id for row in catalogue.rows] == [
        hashlib.sha256(b"https://example.org/v").hexdigest()[:12],
        hashlib.sha256(b"sound").hexdigest()[:12],
    ]
    assert [problem.line for problem in catalogue.problems] == [4]


def test_a_file_is_hashed_for_its_id_once_until_it_changes(
    csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr(file_hashes, "sha256_file", counted)
    media = csv_path.parent / "v.webm"
    media.write_bytes(b"sound")
    csv_path.write_text("source\nv.webm\n")
    first = read_catalogue(csv_path)
    file_hashes._sha256.cache_clear()  # as in another process
    assert read_catalogue(csv_path) == first
    assert read == [media]
    media.write_bytes(b"other sound")
    (row,) = read_catalogue(csv_path).rows
    assert row.video_id == hashlib.sha256(b"other sound").hexdigest()[:12]


def test_damaged_hashes_are_made_anew(csv_path: Path) -> None:
    (csv_path.parent / "v.webm").write_bytes(b"sound")
    csv_path.write_text("source\nv.webm\n")
    first = read_catalogue(csv_path)
    (hashes,) = csv_path.parent.glob(".*.hashes.json")
    hashes.write_text("{half")
    assert read_catalogue(csv_path) == first
