from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xtts_core.corpus.download import Download, download
from xtts_core.errors import SourceError, TransientSourceError
from xtts_core.settings import DownloadSettings
from xtts_core.store import sha256_file

LANGUAGES = ("pt", "pt-BR", "pt-orig")


def fetch(
    url: str, folder: Path, languages: tuple[str, ...] = LANGUAGES, **settings: Any
) -> Download:
    return download(
        url, folder, languages, DownloadSettings(**{"retries": 0, "retry_delay_s": 0.0} | settings)
    )


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
    from yt_dlp.utils import DownloadError

    from xtts_core.corpus.download import explained

    told = explained("u", DownloadError("ERROR: [youtube] x: Sign in to confirm you’re not a bot."))
    assert isinstance(told, TransientSourceError)
    assert "cookies_file" in str(told)


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
    with pytest.raises(SourceError, match="several"):
        fetch(f"{site.address}/two", tmp_path)
