from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.corpus.download import opened
from xtts_core.corpus.editing import append_rows
from xtts_core.corpus.listing import Item, Listing, _entries, _unsuited, list_source
from xtts_core.corpus.sources import LeftOut
from xtts_core.errors import CatalogueError, SourceError, TransientSourceError
from xtts_core.settings import DownloadSettings

SETTINGS = DownloadSettings(retries=0, retry_delay_s=0.0, busy_delay_s=0.0)


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data/videos.csv"


@pytest.fixture
def media(tmp_path: Path, demo: Path) -> Path:
    """A folder as people have them."""
    folder = tmp_path / "media"
    (folder / "b/deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    video = demo / "cidade-alex.webm"
    for name in ("-one.webm", "b/deep/no-suffix", "b/a: two.txt", ".part.webm", ".hidden/x.webm"):
        (folder / name).write_bytes(video.read_bytes() + name.encode())
    (folder / "-one.pt-BR.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nolá\n")
    (folder / "notes.txt").write_text("not media\n" * 100)
    (folder / "cover.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "empty.mp4").touch()
    (folder / "b/cut.webm").write_bytes(video.read_bytes()[:300])
    return folder


def feed(*entries: tuple[str, str]) -> str:
    items = "".join(
        f'<item><title>{title}</title><enclosure url="{url}" type="video/webm"/></item>'
        for title, url in entries
    )
    return f'<?xml version="1.0"?><rss><channel><title>T</title>{items}</channel></rss>'


def sources(listing: Listing) -> list[str]:
    return [item.source for item in listing.items]


def test_a_feed_expands_into_its_videos_with_their_titles(site: Any, csv_path: Path) -> None:
    one, two = f"{site.address}/feira-dora.webm", f"{site.address}/watch"
    site.pages["/feed"] = feed(("=Um\n dois", one), ("Três", two), ("again", one))
    counted: list[float] = []
    listing = list_source(
        csv_path, f"{site.address}/feed", SETTINGS, lambda done, of, unit: counted.append(done)
    )
    assert listing.items == (Item(one, "Um dois"), Item(two, "Três"))
    assert listing.several
    assert counted[-1] == 2
    assert site.asked == ["/feed"]


def test_entries_that_are_not_http_are_named_and_the_others_go_on(
    site: Any, csv_path: Path
) -> None:
    good = f"{site.address}/watch"
    site.pages["/feed"] = feed(
        *(("a", "file:///etc/passwd"), ("b", "ftp://example.org/v"), ("c", "-rf")),
        *(("d", "ytsearch5:feira"), ("e", "http://[::1/v"), ("f", good)),
    )
    listing = list_source(csv_path, f"{site.address}/feed", SETTINGS)
    assert sources(listing) == [good]
    assert len(listing.left_out) == 5
    assert all("address" in left.reason for left in listing.left_out)


def test_a_page_with_several_videos_expands_into_their_media(site: Any, csv_path: Path) -> None:
    names = ("feira-dora.webm", "cidade-alex.webm")
    site.pages["/two"] = "".join(
        f'<video><source src="/{name}" type="video/webm"></video>' for name in names
    )
    listing = list_source(csv_path, f"{site.address}/two", SETTINGS)
    assert sources(listing) == [f"{site.address}/{name}" for name in names]


def test_an_xspf_list_expands(site: Any, csv_path: Path) -> None:
    tracks = "".join(
        f"<track><title>{n}</title><location>{site.address}/{n}.webm</location></track>"
        for n in ("feira-dora", "cidade-alex")
    )
    head = '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/">'
    site.pages["/list.xspf"] = f"{head}<trackList>{tracks}</trackList></playlist>"
    listing = list_source(csv_path, f"{site.address}/list.xspf", SETTINGS)
    assert [item.title for item in listing.items] == ["feira-dora", "cidade-alex"]
    assert sources(listing)[0] == f"{site.address}/feira-dora.webm"


def test_one_video_stays_one_and_brings_its_title(site: Any, csv_path: Path) -> None:
    url = f"{site.address}/watch"
    assert list_source(csv_path, url, SETTINGS) == Listing((Item(url, "Feira (1)"),))


def test_a_youtube_video_is_taken_without_asking_also_out_of_a_playlist(csv_path: Path) -> None:
    url = "https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PLx"
    assert list_source(csv_path, url, SETTINGS) == Listing((Item(url),))


def test_an_address_without_a_video_is_refused_and_a_busy_one_is_waited_for(
    site: Any, csv_path: Path
) -> None:
    with pytest.raises(SourceError, match="404"):
        list_source(csv_path, f"{site.address}/gone", SETTINGS)
    site.first["/watch"] = [(429, {}, "")]
    with pytest.raises(TransientSourceError, match="asks to wait"):
        list_source(csv_path, f"{site.address}/watch", SETTINGS)
    site.first["/watch"] = [(429, {"Retry-After": "0"}, "")]
    patient = SETTINGS.model_copy(update={"retries": 1, "busy_delay_s": 900.0})
    assert len(list_source(csv_path, f"{site.address}/watch", patient).items) == 1


@pytest.mark.parametrize("source", ["-x", "ftp://example.org/v", "ytsearch5:x", ""])
def test_a_source_that_is_not_allowed_is_refused(csv_path: Path, source: str) -> None:
    with pytest.raises(CatalogueError):
        list_source(csv_path, source, SETTINGS)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"title": "[Private video]"}, "private"),
        ({"title": "[Deleted video]"}, "deleted"),
        ({"title": "x", "availability": "subscriber_only"}, "subscriber only.*cookies_file"),
        ({"title": "x", "live_status": "is_upcoming"}, "not begun"),
    ],
)
def test_entries_that_nobody_can_watch_are_named(entry: dict[str, Any], reason: str) -> None:
    """As yt-dlp's YoutubeTabIE gives them."""
    found = _unsuited("https://www.youtube.com/watch?v=dQw4w9WgXcQ", entry, SETTINGS)
    assert re.search(reason, found)


def test_lists_in_lists_are_followed_and_what_is_busy_ends_it(site: Any) -> None:
    """As yt-dlp's YoutubeTabIE gives a channel: tabs, in which there are videos and playlists."""
    playlist = {"_type": "url", "ie_key": "YoutubeTab", "url": "https://www.youtube.com/@canal"}
    videos: list[Any] = [
        {"_type": "url", "ie_key": "Youtube", "url": f"https://youtu.be/{n:011}"} for n in range(2)
    ]
    tab = {"_type": "playlist", "title": "Videos", "entries": iter([*videos, None])}
    settings = SETTINGS.model_copy(update={"proxy": site.address})
    with opened("https://www.youtube.com/@canal", settings) as downloader:
        found = {"_type": "playlist", "entries": [tab, videos[0]]}
        *entries, last = list(_entries(downloader, found, set(), 3))
        assert entries[:2] == videos
        assert entries[2] == LeftOut("Videos", "it has an entry that is not available")
        assert last == videos[0]
        with pytest.raises(TransientSourceError):
            list(_entries(downloader, {"entries": [playlist]}, set(), 3))
        assert list(_entries(downloader, {"entries": [playlist]}, {playlist["url"]}, 3)) == []
        (deep,) = _entries(downloader, {"entries": [playlist]}, set(), 0)
        assert isinstance(deep, LeftOut)


def test_a_folder_expands_into_the_media_files_in_it(csv_path: Path, media: Path) -> None:
    listing = list_source(csv_path, "../media", SETTINGS)
    assert listing.items == (
        Item("../media/-one.webm", "one"),
        Item("../media/b/a: two.txt", "a: two"),
        Item("../media/b/deep/no-suffix", "no-suffix"),
    )
    assert [Path(left.source).name for left in listing.left_out] == ["empty.mp4", "cut.webm"]
    assert all("media" in left.reason for left in listing.left_out)


def test_names_in_the_catalogue_s_own_folder_are_no_options_and_no_addresses(
    csv_path: Path, media: Path
) -> None:
    listing = list_source(media / "videos.csv", ".", SETTINGS)
    assert sources(listing) == ["./-one.webm", "b/a: two.txt", "b/deep/no-suffix"]
    added = append_rows(media / "videos.csv", [{"source": item.source} for item in listing.items])
    assert len(added.rows) == 3
    assert read_catalogue(media / "videos.csv").rows == added.rows


def test_of_copies_the_one_with_subtitles_is_taken_or_else_the_shortest_name(
    csv_path: Path, demo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copies"
    (folder / "deep").mkdir(parents=True)
    for name in ("aa.webm", "deep/b.webm", "c.webm", "feira (1).webm", "feira.webm", "other.webm"):
        kind = "feira-dora" if "feira" in name else "cidade-alex"
        shutil.copy(demo / f"{kind}.webm", folder / name)
    (folder / "aa.pt-BR.vtt").write_text("WEBVTT\n")
    with (folder / "other.webm").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    listing = list_source(csv_path, "../copies", SETTINGS)
    assert sources(listing) == [f"../copies/{name}.webm" for name in ("aa", "feira", "other")]
    assert [(Path(left.source).name, left.reason) for left in listing.left_out] == [
        ("c.webm", "it is a copy of ../copies/aa.webm"),
        ("feira (1).webm", "it is a copy of ../copies/feira.webm"),
        ("b.webm", "it is a copy of ../copies/aa.webm"),
    ]


def test_a_folder_is_found_from_the_working_directory_and_by_its_whole_name(
    csv_path: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources(list_source(csv_path, "media", SETTINGS))[0] == "../media/-one.webm"
    for source in (str(media), f"file://{media}"):
        assert sources(list_source(csv_path, source, SETTINGS))[0] == str(media / "-one.webm")
