"""Adding rows to videos.csv and taking them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.corpus.editing import append_row, append_rows, remove_row
from xtts_core.errors import CatalogueError


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    return tmp_path / "videos.csv"


def test_a_row_is_added_to_a_new_file_and_read_back(csv_path: Path) -> None:
    added = append_row(csv_path, source="https://youtu.be/dQw4w9WgXcQ", title='a "b", c')
    assert read_catalogue(csv_path).rows == (added,)
    assert "dQw4w9WgXcQ" in csv_path.read_text().splitlines()[1].split(",")[0]


def test_adding_keeps_every_other_byte(csv_path: Path) -> None:
    before = "\ufeffsource,extra,video_id\r\nhttps://example.org/1,kept,a\r\n-bad,x,y".encode()
    csv_path.write_bytes(before)
    os.utime(csv_path, (0, 0))
    append_row(csv_path, source="https://example.org/2", video_id="b")
    assert csv_path.read_bytes() == before + b"\r\nhttps://example.org/2,,b\r\n"


def test_a_row_is_not_glued_to_one_that_is_still_being_written(
    csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv_path.write_text("source,licence\nhttps://example.org/1,fr")

    def rest_comes(_seconds: float) -> None:
        with csv_path.open("a") as file:
            file.write("ee\nhttps://example.org/2,free\n")

    monkeypatch.setattr("time.sleep", rest_comes)
    append_row(csv_path, source="https://example.org/3", licence="free")
    assert [(row.source[-1], row.licence) for row in read_catalogue(csv_path).rows] == [
        ("1", "free"),
        ("2", "free"),
        ("3", "free"),
    ]


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [
        ("sep=;\r\nVideo_ID ; SOURCE;Title\r\n", ";"),
        ('\ufeff"SEP=,",\nVideo_ID , SOURCE,Title\n', ","),
        ("sep=|\nvideo_id|source|title\n", "|"),
        ("\n;;\nVIDEO_ID;SOURCE;TITLE\n", ";"),
        ("\n \nVideo_ID\tSource\ttitle\n", "\t"),
    ],
)
def test_what_stands_before_the_header_and_its_spelling_are_kept(
    csv_path: Path, head: str, delimiter: str
) -> None:
    end = "\r\n" if "\r" in head else "\n"
    first = f"a{delimiter}https://example.org/1{delimiter}um{end}"
    csv_path.write_bytes((head + first).encode())
    added = append_row(csv_path, source="https://example.org/2", video_id="b", title="x, y; z")
    catalogue = read_catalogue(csv_path)
    assert [row.video_id for row in catalogue.rows] == ["a", "b"]
    assert catalogue.row("b") == added
    assert catalogue.problems == ()
    append_row(csv_path, source="https://example.org/3", video_id="c", speaker="ana")
    remove_row(csv_path, "b")
    remove_row(csv_path, "c")
    wider = head.removesuffix(end) + delimiter + "speaker" + end
    assert csv_path.read_bytes().decode() == wider + first


def test_a_column_that_a_row_needs_and_the_file_lacks_is_added(csv_path: Path) -> None:
    csv_path.write_text('source,"a note"\r\nhttps://example.org/1,kept\r\n', newline="")
    added = append_row(csv_path, source="https://example.org/2", video_id="b", start="0:30")
    assert csv_path.read_bytes() == (
        b'source,"a note",video_id,start\r\nhttps://example.org/1,kept\r\n'
        b"https://example.org/2,,b,0:30\r\n"
    )
    assert read_catalogue(csv_path).row("b") == added


def test_many_rows_are_added_at_once_and_known_recordings_are_counted(csv_path: Path) -> None:
    append_row(csv_path, source="https://youtu.be/dQw4w9WgXcQ", video_id="song")
    append_row(csv_path, source="https://example.org/1", video_id="aaaaaaaaaaa")
    given = [
        {"source": "https://www.youtube.com/watch?v=dQw4w9WgXcQ"},
        {"source": "https://www.youtube.com/watch?v=dQw4w9WgXcQ", "end": "10"},
        {"source": "https://www.youtube.com/watch?v=AAAAAAAAAAA"},
        {"source": "https://example.org/2", "title": "two"},
        {"source": "https://example.org/2", "title": "two again"},
        {"source": "ftp://example.org/3"},
    ]
    added = append_rows(csv_path, given)
    assert [row.source for row in added.rows] == [given[1]["source"], given[3]["source"]]
    assert added.known == 2
    assert [left.reason.split()[0] for left in added.left_out] == ["its", "source"]
    assert read_catalogue(csv_path).rows[2:] == added.rows
    before = csv_path.stat().st_ino
    assert append_rows(csv_path, given).known == 4
    assert csv_path.stat().st_ino == before


def test_adding_refuses_a_taken_id_and_a_bad_row_and_changes_nothing(csv_path: Path) -> None:
    append_row(csv_path, source="https://example.org/1", video_id="Ab")
    before = csv_path.read_bytes()
    for source, video_id in [
        ("https://example.org/2", "aB"),
        ("https://example.org/2", "no good"),
        ("missing.webm", "x"),
        ("-x", "x"),
    ]:
        with pytest.raises(CatalogueError):
            append_row(csv_path, source=source, video_id=video_id)
    assert csv_path.read_bytes() == before


def test_a_copy_of_a_recording_is_refused_with_its_name_unless_it_is_asked_for(
    csv_path: Path,
) -> None:
    for name in ("a.webm", "b.webm"):
        (csv_path.parent / name).write_bytes(b"sound")
    append_row(csv_path, source="a.webm")
    with pytest.raises(CatalogueError, match=r"same recording as a\.webm, whose id is"):
        append_row(csv_path, source="b.webm")
    assert append_row(csv_path, source="b.webm", video_id="b").video_id == "b"


def test_a_file_named_from_the_working_directory_is_found_again(
    csv_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "v.webm").write_bytes(b"sound")
    monkeypatch.chdir(elsewhere)
    added = append_row(csv_path, source="v.webm")
    assert added.source == f"../{elsewhere.name}/v.webm"
    assert (csv_path.parent / added.source).samefile(elsewhere / "v.webm")


def test_a_project_can_be_moved_with_a_file_that_was_named_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "media").mkdir(parents=True)
    (project / "media/v.webm").write_bytes(b"sound")
    monkeypatch.chdir(project)
    added = append_row(project / "data/videos.csv", source="media/v.webm")
    moved = project.rename(tmp_path / "moved")
    assert read_catalogue(moved / "data/videos.csv").rows == (added,)
    assert (moved / "data" / added.source).is_file()


def test_removing_takes_away_the_lines_of_one_row(csv_path: Path) -> None:
    csv_path.write_text(
        'source,video_id,title\nhttps://example.org/1,a,"two\nlines"\n-bad,x,\n'
        "https://example.org/2,b,\n"
    )
    assert remove_row(csv_path, "a").title == "two\nlines"
    assert csv_path.read_text() == ("source,video_id,title\n-bad,x,\nhttps://example.org/2,b,\n")
    with pytest.raises(CatalogueError, match="No row"):
        remove_row(csv_path, "a")
