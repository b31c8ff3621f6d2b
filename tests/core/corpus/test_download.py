from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from yt_dlp.utils import DownloadError

from xtts_core.corpus.download import (
    Download,
    _choose_subtitles,
    _warn_without_runtime,
    download,
    explained,
    javascript_runtime,
)
from xtts_core.errors import SettingsError, SourceError, TransientSourceError
from xtts_core.settings import DownloadSettings
from xtts_core.store import sha256_file

LANGUAGES = ("pt", "pt-BR", "pt-orig")


def fetch(
    url: str, folder: Path, languages: tuple[str, ...] = LANGUAGES, **settings: Any
) -> Download:
    at_once = {"retries": 0, "retry_delay_s": 0.0, "busy_delay_s": 0.0}
    return download(url, folder, languages, DownloadSettings(**at_once | settings))


def test_a_page_with_a_video_gives_the_media_and_its_manual_subtitles(
    site: Any, demo: Path, tmp_path: Path
) -> None:
    told: list[tuple[float, float | None, str]] = []
    got = download(
        f"{site.address}/watch",
        tmp_path,
        LANGUAGES,
        DownloadSettings(),
        lambda done, total, unit: told.append((done, total, unit)),
    )
    size = (demo / "feira-dora.webm").stat().st_size
    assert sha256_file(got.media) == sha256_file(demo / "feira-dora.webm")
    (subtitle,) = got.subtitles
    assert (subtitle.language, subtitle.kind) == ("pt-BR", "manual")
    assert subtitle.path.read_bytes() == (demo / "feira-dora.pt-BR.vtt").read_bytes()
    assert told[-1] == (size, size, "bytes")


@pytest.mark.parametrize("languages", [(), ("en",)])
def test_subtitles_that_are_not_asked_for_are_not_fetched(
    site: Any, tmp_path: Path, languages: tuple[str, ...]
) -> None:
    assert fetch(f"{site.address}/watch", tmp_path, languages).subtitles == ()
    assert "/feira-dora.pt-BR.vtt" not in site.asked


def test_a_language_is_matched_in_any_case(site: Any, tmp_path: Path) -> None:
    assert len(fetch(f"{site.address}/watch", tmp_path, ("PT-br",)).subtitles) == 1


def test_a_complete_download_is_not_fetched_again(site: Any, tmp_path: Path) -> None:
    first = fetch(f"{site.address}/watch", tmp_path)
    second = fetch(f"{site.address}/watch", tmp_path)
    assert second == first
    assert site.asked.count("/feira-dora.webm") == 1


def test_another_address_leaves_nothing_of_the_old_one(site: Any, tmp_path: Path) -> None:
    old = fetch(f"{site.address}/watch", tmp_path)
    new = fetch(f"{site.address}/cidade-alex.webm", tmp_path)
    assert not old.media.exists()
    assert new.media.exists()


def test_a_broken_connection_is_taken_up_where_it_stopped(
    site: Any, demo: Path, tmp_path: Path
) -> None:
    site.fail_after = 200_000
    with pytest.raises(TransientSourceError):
        fetch(f"{site.address}/watch", tmp_path)
    (partial,) = tmp_path.rglob("*.part")
    had = partial.stat().st_size
    assert 0 < had <= 200_000
    site.fail_after = None
    got = fetch(f"{site.address}/watch", tmp_path)
    assert site.ranges[-1] == f"bytes={had}-"
    assert sha256_file(got.media) == sha256_file(demo / "feira-dora.webm")


def test_a_missing_page_is_no_reason_to_try_again(site: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="404") as error:
        fetch(f"{site.address}/gone", tmp_path, retries=3)
    assert not error.value.retryable
    assert site.asked == ["/gone"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_and_then_reported_as_transient(
    site: Any, tmp_path: Path, status: int
) -> None:
    site.pages["/watch"] = status
    with pytest.raises(TransientSourceError, match=str(status)) as error:
        fetch(f"{site.address}/watch", tmp_path, retries=2)
    assert error.value.retryable
    assert site.asked == ["/watch"] * 3


def test_a_page_that_suspects_a_bot_is_transient_and_names_the_cookies(
    tmp_path: Path,
) -> None:
    told = explained("u", DownloadError("ERROR: [youtube] x: Sign in to confirm you’re not a bot."))
    assert isinstance(told, TransientSourceError)
    assert "cookies_file" in str(told)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[youtube] x: Private video. Sign in if you've been granted access", "cookies_file"),
        ("[youtube] x: The uploader has not made this video available in your country", "proxy"),
    ],
)
def test_what_needs_an_account_or_another_country_says_so(text: str, remedy: str) -> None:
    told = explained("https://example.org/v", DownloadError(f"ERROR: {text}"))
    assert remedy in str(told)
    assert not told.retryable


def test_a_server_that_is_down_is_transient(tmp_path: Path) -> None:
    with pytest.raises(TransientSourceError, match="network"):
        fetch("http://127.0.0.1:9/v", tmp_path)


def test_a_page_without_a_video_is_named(site: Any, tmp_path: Path) -> None:
    site.pages["/text"] = "<html>nothing to see</html>"
    with pytest.raises(SourceError, match="No video"):
        fetch(f"{site.address}/text", tmp_path)


def test_a_page_with_several_videos_is_refused(site: Any, tmp_path: Path) -> None:
    site.pages["/two"] = "".join(
        f'<video><source src="/{name}.webm" type="video/webm"></video>'
        for name in ("feira-dora", "cidade-alex")
    )
    with pytest.raises(SourceError, match=r"several.*`xtts videos add '.*/two'`"):
        fetch(f"{site.address}/two", tmp_path)


def test_a_broken_connection_is_taken_up_by_the_next_attempt(
    site: Any, demo: Path, tmp_path: Path
) -> None:
    site.fail_after, site.failures = 200_000, 1
    got = fetch(f"{site.address}/watch", tmp_path, retries=1)
    assert len(site.ranges) == 1
    assert sha256_file(got.media) == sha256_file(demo / "feira-dora.webm")


def test_attempts_that_get_further_are_not_counted(site: Any, tmp_path: Path) -> None:
    site.media["/long.webm"] = bytes(range(256)) * 20_000
    site.fail_after, site.failures = 1_200_000, 3
    got = fetch(f"{site.address}/long.webm", tmp_path, retries=1)
    assert got.media.read_bytes() == site.media["/long.webm"]


@pytest.mark.parametrize(
    "retry_after",
    ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 -0000"],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_how_long_to_wait_is_waited_for_so_long(
    site: Any, tmp_path: Path, status: int, retry_after: str
) -> None:
    site.first["/watch"] = [(status, {"Retry-After": retry_after}, "")] * 2
    patient = {"retries": 2, "retry_delay_s": 900.0, "busy_delay_s": 900.0}
    assert fetch(f"{site.address}/watch", tmp_path, **patient).media.is_file()


@pytest.mark.parametrize("path", ["/watch", "/feira-dora.webm", "/feira-dora.pt-BR.vtt"])
def test_a_server_that_asks_for_a_long_wait_is_not_waited_for(
    site: Any, tmp_path: Path, path: str
) -> None:
    site.first[path] = [(429, {"Retry-After": "3600"}, "")]
    with pytest.raises(TransientSourceError, match="a wait of 3600 s"):
        fetch(f"{site.address}/watch", tmp_path, retries=3)
    assert site.asked.count(path) == 1


def test_a_wait_is_logged_and_shown(
    site: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.first["/watch"] = [(429, {}, "")]
    told: list[str] = []
    settings = DownloadSettings(retries=1, busy_delay_s=0.01)
    download(
        f"{site.address}/watch", tmp_path, (), settings, lambda done, of, unit: told.append(unit)
    )
    assert "429" in told[0]
    assert "Attempt 2 of 2" in caplog.text
    assert "asks to wait" in caplog.text


def test_a_stream_in_pieces_becomes_one_file(site: Any, demo: Path, tmp_path: Path) -> None:
    whole = (demo / "feira-dora.webm").read_bytes()
    site.media |= {"/0.ts": whole[:300_000], "/1.ts": whole[300_000:]}
    site.pages["/v.m3u8"] = hls("/0.ts", "/1.ts")
    got = fetch(f"{site.address}/v.m3u8", tmp_path)
    assert got.media.read_bytes() == whole


def test_a_piece_that_is_busy_says_how_long_to_wait(site: Any, tmp_path: Path) -> None:
    site.pages["/v.m3u8"] = hls("/0.ts")
    site.pages["/0.ts"] = (429, {"Retry-After": "3600"}, "")
    with pytest.raises(TransientSourceError, match="a wait of 3600 s"):
        fetch(f"{site.address}/v.m3u8", tmp_path)


@pytest.mark.parametrize("scheme", ["file", "ftp", "rtmp"])
@pytest.mark.parametrize("way", ["address", "redirect", "video", "piece", "subtitles"])
def test_nothing_but_http_is_followed(site: Any, tmp_path: Path, scheme: str, way: str) -> None:
    secret = tmp_path / ("secret.vtt" if way == "subtitles" else "secret.webm")
    secret.write_bytes(b"secret")
    foreign = f"file://{secret}" if scheme == "file" else f"{scheme}://127.0.0.1:9/{secret.name}"
    track = f'<track kind="subtitles" srclang="pt" src="{foreign}">'
    site.pages |= {
        "/redirect": (302, {"Location": foreign}, ""),
        "/video": f'<video><source src="{foreign}" type="video/webm"></video>',
        "/piece": hls(foreign),
        "/subtitles": f'<video><source src="/feira-dora.webm" type="video/webm">{track}</video>',
    }
    place = tmp_path / "downloads"
    with pytest.raises(SourceError, match=r"http|not allowed|No video") as error:
        fetch(foreign if way == "address" else f"{site.address}/{way}", place)
    assert not error.value.retryable
    fetched = [file.read_bytes() for file in place.rglob("*") if file.is_file()]
    assert not any(b"secret" in content for content in fetched)


def test_cookies_are_sent_and_their_file_stays_as_it_is(site: Any, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(
        "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tkey\tvalue\n"
    )
    before = cookies.read_bytes()
    headers = {"Content-Type": "text/html", "Set-Cookie": "other=1"}
    site.pages["/watch"] = (200, headers, site.pages["/watch"])
    fetch(f"{site.address}/watch", tmp_path / "downloads", cookies_file=str(cookies))
    assert "key=value" in site.cookies[0]
    assert cookies.read_bytes() == before


@pytest.mark.parametrize("content", [None, "no cookies\n", "\xff"])
def test_cookies_that_cannot_be_used_are_named_before_the_download(
    site: Any, tmp_path: Path, content: str | None
) -> None:
    cookies = tmp_path / "cookies.txt"
    if content is not None:
        cookies.write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match=r"cookies\.txt.*cookies_file"):
        fetch(f"{site.address}/watch", tmp_path / "downloads", cookies_file=str(cookies))
    assert site.asked == []


def test_the_proxy_is_asked(site: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="404"):
        fetch("http://nowhere.invalid/v.webm", tmp_path, proxy=site.address)
    assert site.asked == ["http://nowhere.invalid/v.webm"]


def test_a_person_s_subtitles_are_preferred_to_a_recogniser_s() -> None:
    offered = {"ext": "vtt", "url": "https://example.org/s"}
    found = {
        "subtitles": {"pt-BR": [offered], "en": [offered], "pt": [{"ext": "ttml"}]},
        "automatic_captions": {"pt-orig": [offered], "pt": [offered]},
    }
    assert _choose_subtitles(found, LANGUAGES) == {"pt-BR": "manual"}
    del found["subtitles"]["pt-BR"]
    assert _choose_subtitles(found, LANGUAGES) == {"pt": "automatic", "pt-orig": "automatic"}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes programs that say a version; no other ones are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(name: str, says: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (folder / name).chmod(0o755)

    return install


def test_a_javascript_runtime_is_found_or_its_absence_explained(
    programs: Callable[[str, str], None],
) -> None:
    assert javascript_runtime()[0] is None
    programs("node", "v20.1.0")
    name, sentence = javascript_runtime()
    assert name is None
    assert "node 20.1.0 is too old" in sentence
    assert "deno" in sentence
    programs("deno", "deno 2.5.0 (stable)")
    assert javascript_runtime()[0] == "deno 2.5.0"


def test_youtube_without_a_javascript_runtime_is_explained_once_and_in_the_error(
    programs: Callable[[str, str], None],
    site: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _warn_without_runtime.cache_clear()
    for _ in range(2):
        with pytest.raises(SourceError):
            fetch("https://youtu.be/dQw4w9WgXcQ", tmp_path / "d", proxy=site.address)
    _warn_without_runtime.cache_clear()
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [text for text in warnings if "No JavaScript runtime" in text] == warnings
    assert len(warnings) == 1
    for text in ("Requested format is not available", "Sign in to confirm you’re not a bot"):
        told = explained("https://youtu.be/dQw4w9WgXcQ", DownloadError(f"ERROR: {text}"))
        assert "install one of deno" in str(told)
        assert "deno" not in str(explained("https://example.org/v", DownloadError(text)))


def hls(*pieces: str) -> tuple[int, dict[str, str], str]:
    """A list of pieces of 5 s (RFC 8216)."""
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:5"]
    for piece in pieces:
        lines += ["#EXTINF:5.0,", piece]
    lines += ["#EXT-X-ENDLIST", ""]
    return 200, {"Content-Type": "application/vnd.apple.mpegurl"}, "\n".join(lines)
