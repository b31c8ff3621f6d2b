from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from xtts_core.corpus import file_hashes
from xtts_core.corpus.catalogue import (
    CatalogueRow,
    append_row,
    append_rows,
    format_clock,
    parse_clock,
    read_catalogue,
    remove_row,
)
from xtts_core.corpus.sources import youtube_id
from xtts_core.errors import CatalogueError
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


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "a1,https://example.org/v\n"])
def test_a_file_without_a_header_is_not_taken_for_no_videos(csv_path: Path, content: str) -> None:
    csv_path.write_text(content, encoding="utf-8")
    with pytest.raises(CatalogueError):
        read_catalogue(csv_path)


def test_a_header_alone_means_no_videos(csv_path: Path) -> None:
    csv_path.write_text("source\n")
    assert read_catalogue(csv_path).rows == ()


@pytest.mark.parametrize(
    "content", [b"source,title\nx.webm,caf\xe9\n", b"source,source\nx,y\n", b'"source\n']
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
    csv_path.write_bytes(content)
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
    csv_path.write_bytes("source\nhttps://example.org/1\n".encode(encoding))
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
    assert "'licence'" in catalogue.problems[0].reason


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


def test_a_row_is_added_to_a_new_file_and_read_back(csv_path: Path) -> None:
    added = append_row(csv_path, source="https://youtu.be/dQw4w9WgXcQ", title='a "b", c')
    assert read_catalogue(csv_path).rows == (added,)
    assert "dQw4w9WgXcQ" in csv_path.read_text().splitlines()[1].split(",")[0]


def test_adding_keeps_every_other_byte(csv_path: Path) -> None:
    before = "\ufeffsource,extra,video_id\r\nhttps://example.org/1,kept,a\r\n-bad,x,y".encode()
    csv_path.write_bytes(before)
    append_row(csv_path, source="https://example.org/2", video_id="b")
    assert csv_path.read_bytes() == before + b"\nhttps://example.org/2,,b\n"


def test_a_column_that_a_row_needs_and_the_file_lacks_is_added(csv_path: Path) -> None:
    csv_path.write_text('source,"a note"\r\nhttps://example.org/1,kept\r\n', newline="")
    added = append_row(csv_path, source="https://example.org/2", video_id="b", start="0:30")
    assert csv_path.read_bytes() == (
        b'source,"a note",video_id,start\r\nhttps://example.org/1,kept\r\n'
        b"https://example.org/2,,b,0:30\n"
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
