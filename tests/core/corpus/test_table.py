"""The file of the catalogue as people, spreadsheets and killed programs leave it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from xtts_core.corpus import table
from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.corpus.editing import append_row
from xtts_core.errors import CatalogueError


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    return tmp_path / "videos.csv"


def rested(path: Path, content: bytes) -> None:
    """A file that nobody writes any more."""
    path.write_bytes(content)
    os.utime(path, (0, 0))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "line 1: The catalogue is empty"),
        ("\n ;;\n", "empty"),
        ("\ufeff", "empty"),
        ("sep=;\n", "empty"),
        (
            "a1,https://example.org/v\n",
            "line 1: The header is missing.*known are video_id",
        ),
        ("\nvideo_id;url\n", r"line 2: .*no column 'source', but video_id, url.*known are"),
    ],
)
def test_a_file_without_a_header_is_not_taken_for_no_videos(
    csv_path: Path, content: str, told: str
) -> None:
    rested(csv_path, content.encode())
    with pytest.raises(CatalogueError, match=told):
        read_catalogue(csv_path)


def test_a_header_alone_means_no_videos(csv_path: Path) -> None:
    csv_path.write_text("source\n")
    assert read_catalogue(csv_path).rows == ()


@pytest.mark.parametrize(
    "content", [b"source,title\nx.webm,caf\xe9\n", b"source,SOURCE\nx,y\n", b'"source\n']
)
def test_an_unreadable_file_raises(csv_path: Path, content: bytes) -> None:
    csv_path.write_bytes(content)
    with pytest.raises(CatalogueError):
        read_catalogue(csv_path)


def test_a_missing_file_and_a_folder_raise(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(CatalogueError):
            read_catalogue(path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(csv_path: Path) -> None:
    csv_path.write_bytes("\ufeffvideo_id,source\r\na,https://example.org/á\r\n".encode())
    catalogue = read_catalogue(csv_path)
    assert [row.video_id for row in catalogue.rows] == ["a"]
    assert catalogue.problems == ()


def test_lines_are_counted_over_cells_that_span_them(csv_path: Path) -> None:
    csv_path.write_text('source,title\nhttps://example.org/1,"two\nlines"\n\n-x,bad\n')
    catalogue = read_catalogue(csv_path)
    assert len(catalogue.rows) == 1
    assert [problem.line for problem in catalogue.problems] == [5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'source,title\nx.webm,one\ny.webm,"half', r"line 3: .*never closed"),
        (b"source,title\nhttps://example.org/1,one\nhttps://exam", r"line 3: .*no line end"),
        (b"source,title", "line 1: .*no line end"),
        (b"source,title\nx.webm,one\n" + bytes(64), "line 3: .*NUL"),
    ],
)
def test_a_half_written_file_is_not_taken_for_fewer_videos(
    csv_path: Path, content: bytes, message: str
) -> None:
    rested(csv_path, content)
    with pytest.raises(CatalogueError, match=message):
        read_catalogue(csv_path)
    with pytest.raises(CatalogueError, match=message):
        append_row(csv_path, source="https://example.org/2")
    assert csv_path.read_bytes() == content


def test_a_stray_quotation_mark_costs_its_own_line_alone(csv_path: Path) -> None:
    csv_path.write_text(
        'source,title\nhttps://example.org/1,"stray\nhttps://example.org/2,two\n'
        'https://example.org/3,"three, quoted"\n'
    )
    catalogue = read_catalogue(csv_path)
    assert [row.source[-1] for row in catalogue.rows] == ["2", "3"]
    assert [problem.line for problem in catalogue.problems] == [2]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_utf_16_file_is_named_with_the_remedy(csv_path: Path, encoding: str) -> None:
    rested(csv_path, "source\nhttps://example.org/1\n".encode(encoding))
    with pytest.raises(CatalogueError, match=r"UTF-16.*CSV UTF-8"):
        read_catalogue(csv_path)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_separators_of_spreadsheets_are_read_and_kept(csv_path: Path, delimiter: str) -> None:
    before = "\ufeff" + delimiter.join(("source", "title", "end", "", "\r\n"))
    before += delimiter.join(("https://example.org/1", "um, dois", "1:30,5", "", "\r\n"))
    csv_path.write_bytes(before.encode())
    added = append_row(csv_path, source="https://example.org/2", title="a;b\tc")
    first, second = read_catalogue(csv_path).rows
    assert (first.title, first.end_s) == ("um, dois", 90.5)
    assert second == added
    assert csv_path.read_bytes().startswith(before.split("\r\n")[0].encode())


def test_an_unknown_column_is_reported_with_the_nearest_known_one(csv_path: Path) -> None:
    csv_path.write_text("source,licens\nhttps://example.org/1,x\n")
    catalogue = read_catalogue(csv_path)
    assert len(catalogue.rows) == 1
    assert "did you mean 'licence'? known are video_id, source" in catalogue.problems[0].reason


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("\n\nvideo_id,source,title\n", ","),
        (",,\nvideo_id,source,title\n", ","),
        ("sep=;\r\nvideo_id;source;title\r\n", ";"),
        ("\ufeffSEP=\t\nVideo_ID \tSOURCE\t Title\n", "\t"),
        ('"sep=|"||\nvideo_id|source|title\n', "|"),
        ("VIDEO_ID;Source ;\xa0title\n", ";"),
    ],
)
def test_headers_of_spreadsheets_name_the_same_columns(
    csv_path: Path, header: str, delimiter: str
) -> None:
    row = delimiter.join(("a", "https://example.org/1", "um"))
    csv_path.write_text(f"{header}{row}\n-x\n", encoding="utf-8", newline="")
    catalogue = read_catalogue(csv_path)
    assert [(row.video_id, row.source[-1], row.title) for row in catalogue.rows] == [
        ("a", "1", "um")
    ]
    assert [problem.line for problem in catalogue.problems] == [header.count("\n") + 2]


def test_a_file_without_an_end_that_changed_just_now_is_not_read(csv_path: Path) -> None:
    csv_path.write_text("video_id,source,speaker\na,https://example.org/1,do")
    with pytest.raises(CatalogueError, match="may be half written"):
        read_catalogue(csv_path, wait=False)
    for last_line_end in ("\n", "\r\n"):
        csv_path.write_text(
            f"video_id,source,speaker\na,https://example.org/1,dora{last_line_end}", newline=""
        )
        assert read_catalogue(csv_path, wait=False).rows[0].speaker == "dora"


@pytest.mark.parametrize("age_s", [table.SETTLE_S, -table.SETTLE_S - 60])
def test_a_file_without_an_end_is_taken_once_it_rests_or_where_its_time_is_wrong(
    csv_path: Path, age_s: float
) -> None:
    csv_path.write_text("video_id,source,speaker\na,https://example.org/1,dora")
    changed_at = time.time() - age_s
    os.utime(csv_path, (changed_at, changed_at))
    assert read_catalogue(csv_path, wait=False).rows[0].speaker == "dora"


def test_what_comes_while_a_reader_waits_is_read(
    csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv_path.write_text("")
    parts = iter(["video_id,source,spea", "ker\na,https://example.org/1,do", "ra"])

    def next_part(_seconds: float) -> None:
        part = next(parts, None)
        if part is None:
            os.utime(csv_path, (0, 0))
            return
        with csv_path.open("a") as file:
            file.write(part)

    monkeypatch.setattr("time.sleep", next_part)
    assert read_catalogue(csv_path).rows[0].speaker == "dora"


def test_a_file_that_is_written_for_ever_is_given_up(
    csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "GIVE_UP_S", 0.0)
    csv_path.write_text("video_id,source\na,https://example.org/1")
    with pytest.raises(CatalogueError, match="half written"):
        read_catalogue(csv_path)
