"""Media and subtitles from a URL, by yt-dlp's Python API (never a shell)."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xtts_core.errors import SourceError, TransientSourceError
from xtts_core.settings import DownloadSettings
from xtts_core.stage import Progress, silent
from xtts_core.store import sha256_json

SubtitleKind = Literal["manual", "automatic"]

SUBTITLE_FORMATS = ("vtt", "srt")
"""What can be read, best first."""
SOCKET_TIMEOUT_S = 30.0
MAX_RETRY_DELAY_S = 300.0

_BUSY_STATUS = (408, 425, 429)
_BUSY_TEXT = re.compile(r"not a bot|rate.?limit|too many requests|try again later", re.IGNORECASE)
_MISSING_STATUS = (404, 410)
_GAVE_UP_TEXT = "Got error: "
"""How yt-dlp reports a transfer that it would have tried again; its cause is lost by then."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subtitle:
    """A subtitle file: `language` as it came, and whether a person or a recogniser wrote it."""

    language: str
    kind: SubtitleKind
    path: Path


@dataclass(frozen=True)
class Download:
    """What a URL gave. `extractor` and `remote_id` name the video where it comes from."""

    media: Path
    subtitles: tuple[Subtitle, ...]
    extractor: str
    remote_id: str
    title: str


def download(
    url: str,
    folder: Path,
    languages: Sequence[str],
    settings: DownloadSettings,
    progress: Progress = silent,
) -> Download:
    """Fetch the audio of one video and its subtitles into `folder`.

    A partial download is taken up where it stopped, and a complete one is not fetched again: the
    files lie in a folder of their own for each URL and format, and those of others are removed.
    Manual subtitles are taken in all `languages` they exist in; automatic ones only where there
    are no manual ones. What is busy is tried again `retries` times, first after `retry_delay_s`,
    then after twice that each time.

    Raises:
        SourceError: the video does not exist, is private, protected, live, or several at once.
        TransientSourceError: the network or the server failed, or asks to wait (HTTP 429, a bot
            check), still after the last attempt.
    """
    place = folder / sha256_json([url, settings.format])[:16]
    for old in folder.iterdir() if folder.is_dir() else ():
        if old != place:
            shutil.rmtree(old)
    place.mkdir(parents=True, exist_ok=True)
    for attempt in range(settings.retries + 1):
        try:
            return _attempt(url, place, languages, settings, progress)
        except TransientSourceError as error:
            if attempt == settings.retries:
                raise
            delay_s = min(settings.retry_delay_s * 2**attempt, MAX_RETRY_DELAY_S)
            _log.warning("%s; next attempt in %.0f s", error, delay_s)
            time.sleep(delay_s)
    raise AssertionError("the last attempt returns or raises")


def _attempt(
    url: str,
    place: Path,
    languages: Sequence[str],
    settings: DownloadSettings,
    progress: Progress,
) -> Download:
    import yt_dlp

    with yt_dlp.YoutubeDL(_options(place, settings, progress)) as downloader:
        try:
            found = downloader.extract_info(url, download=False)
            _refuse_unsuited(url, found)
            kinds = _choose_subtitles(found, languages)
            downloader.params.update(
                writesubtitles="manual" in kinds.values(),
                writeautomaticsub="automatic" in kinds.values(),
                subtitleslangs=[re.escape(language) for language in kinds],
                subtitlesformat="/".join(SUBTITLE_FORMATS),
            )
            info = downloader.process_ie_result(found, download=True)
        except yt_dlp.utils.YoutubeDLError as error:
            raise explained(url, error) from error
    subtitles = info.get("requested_subtitles") or {}
    return Download(
        media=Path(info["requested_downloads"][0]["filepath"]),
        subtitles=tuple(
            Subtitle(language, kinds[language], Path(subtitles[language]["filepath"]))
            for language in kinds
        ),
        extractor=str(info.get("extractor_key") or ""),
        remote_id=str(info.get("id") or ""),
        title=str(info.get("title") or ""),
    )


class _QuietLogger:
    """yt-dlp's messages. Its errors are raised as well, so here they are details."""

    def debug(self, message: str) -> None:
        _log.debug("%s", message)

    def info(self, message: str) -> None:
        _log.debug("%s", message)

    def warning(self, message: str) -> None:
        _log.info("%s", message)

    def error(self, message: str) -> None:
        _log.debug("%s", message)


def _options(place: Path, settings: DownloadSettings, progress: Progress) -> dict[str, Any]:
    def tell(state: dict[str, Any]) -> None:
        total = state.get("total_bytes") or state.get("total_bytes_estimate")
        progress(state.get("downloaded_bytes") or 0, total, "bytes")

    return {
        "format": settings.format,
        "paths": {"home": str(place)},
        "outtmpl": {"default": "media.%(ext)s"},
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "continuedl": True,
        # The loop around this one waits and resumes; only fragments are retried in place.
        "retries": 0,
        "fragment_retries": settings.retries,
        "skip_unavailable_fragments": False,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "cookiefile": settings.cookies_file,
        "proxy": settings.proxy,
        # YouTube needs one of them; yt-dlp takes the first that is installed.
        "js_runtimes": {"deno": {}, "node": {}, "bun": {}},
        # PyAV decodes the file as it is: nothing here may need an ffmpeg program.
        "fixup": "never",
        "updatetime": False,
        "quiet": True,
        "noprogress": True,
        "logger": _QuietLogger(),
        "progress_hooks": [tell],
    }


def _refuse_unsuited(url: str, found: dict[str, Any]) -> None:
    if found.get("_type") in ("playlist", "multi_video"):
        raise SourceError(
            "The address holds several videos",
            where=url,
            remedy="Give each video its own row with its own address",
        )
    if found.get("live_status") in ("is_live", "is_upcoming"):
        raise SourceError(
            "The video is live or has not begun",
            where=url,
            remedy="Wait until it is over",
        )


def _choose_subtitles(found: dict[str, Any], languages: Sequence[str]) -> dict[str, SubtitleKind]:
    """Language as it came → kind."""
    sources: tuple[tuple[SubtitleKind, str], ...] = (
        ("manual", "subtitles"),
        ("automatic", "automatic_captions"),
    )
    wanted = {language.lower(): rank for rank, language in enumerate(languages)}
    for kind, field in sources:
        offered = [
            language
            for language, formats in (found.get(field) or {}).items()
            if str(language).lower() in wanted
            and any(entry.get("ext") in SUBTITLE_FORMATS for entry in formats)
        ]
        if offered:
            return dict.fromkeys(sorted(offered, key=lambda t: wanted[t.lower()]), kind)
    return {}


def explained(url: str, error: Exception) -> SourceError:
    """What an exception of yt-dlp means, as one of this project's."""
    from yt_dlp.networking.exceptions import (
        CertificateVerifyError,
        HTTPError,
        IncompleteRead,
        TransportError,
    )
    from yt_dlp.utils import ContentTooShortError, UnsupportedError

    causes = list(_causes(error))
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).removeprefix("ERROR: ").rstrip(". ")
    status = next((cause.status for cause in causes if isinstance(cause, HTTPError)), None)
    if _BUSY_TEXT.search(text) or status in _BUSY_STATUS:
        return TransientSourceError(
            f"The site asks to wait or suspects a bot: {text}",
            where=url,
            remedy="Try again later, or set download.cookies_file or download.proxy",
        )
    if status is not None and status >= 500:
        return TransientSourceError(
            f"The server failed: {text}", where=url, remedy="Try again later"
        )
    if status in _MISSING_STATUS:
        return SourceError(
            f"There is nothing at this address: {text}",
            where=url,
            remedy="Correct the row's source (or its subtitles, if it is them that are missing)",
        )
    if any(isinstance(cause, CertificateVerifyError) for cause in causes):
        return SourceError(f"The server's certificate is not valid: {text}", where=url)
    if _GAVE_UP_TEXT in text or any(
        isinstance(cause, TransportError | IncompleteRead | ContentTooShortError | OSError)
        for cause in causes
    ):
        return TransientSourceError(
            f"The network failed: {text}", where=url, remedy="Try again later"
        )
    if any(isinstance(cause, UnsupportedError) for cause in causes):
        return SourceError(
            "No video is found at this address",
            where=url,
            remedy="Give the address of the video itself, or download it and name the file",
        )
    return SourceError(
        text, where=url, remedy="See whether a browser plays it; update yt-dlp if so"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and everything it came from; yt-dlp keeps that in several places."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        info = getattr(found, "exc_info", None)
        cause = getattr(found, "cause", None)
        waiting += [found.__cause__, found.__context__, info[1] if info else None]
        waiting.append(cause if isinstance(cause, BaseException) else None)
