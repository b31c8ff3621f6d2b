"""Media and subtitles from a URL, by yt-dlp's Python API.

Nothing here starts a shell or a program that a web page could choose: transfers are yt-dlp's own,
over HTTP(S), and ffmpeg is never called. The one program that may run is a JavaScript runtime,
which yt-dlp gives YouTube's player script, in a sandbox of its own.
"""

from __future__ import annotations

import email.utils
import functools
import io
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from xtts_core.corpus.sources import is_youtube
from xtts_core.errors import SettingsError, SourceError, TransientSourceError
from xtts_core.settings import DownloadSettings
from xtts_core.stage import Progress, silent
from xtts_core.store import project_root, sha256_json

T = TypeVar("T")
SubtitleKind = Literal["manual", "automatic"]

SUBTITLE_FORMATS = ("vtt", "srt")
"""What can be read, best first."""
SOCKET_TIMEOUT_S = 30.0
SHOWN_CHARACTERS = 100
"""Of an error, where the progress of a wait is shown. Brackets would be markup there."""
GAINED_BYTES = 1 << 20
"""An attempt that got so much further starts the count of attempts anew."""

_URL_SCHEMES = ("http", "https")
_REQUEST_SCHEMES = (*_URL_SCHEMES, "data")
_PROTOCOLS = frozenset(
    {
        *_URL_SCHEMES,
        *("m3u8", "m3u8_native"),
        *("http_dash_segments", "http_dash_segments_generator"),
    }
)
"""yt-dlp's names of the transfers that it does itself; others call rtmpdump, mplayer or ffmpeg."""
_NO_PROGRAM = "/dev/null"
"""Given as the place of ffmpeg: one that is installed would open whatever a playlist names, local
files included, and would make results depend on the machine."""

_BUSY_STATUS = (408, 425, 429)
_BUSY_TEXT = re.compile(r"not a bot|rate.?limit|too many requests|try again later", re.IGNORECASE)
_STATUS_TEXT = re.compile(r"HTTP Error (\d{3})")
_MISSING_STATUS = (404, 410)
_GAVE_UP_TEXT = "Got error: "
"""How yt-dlp reports a transfer that it would have tried again; its cause is lost by then."""
_FOREIGN_TEXT = re.compile(
    r"no connection adapters|unsupported url scheme|not an allowed scheme",
    re.IGNORECASE,
)
_REMEDIES = (
    (
        re.compile(r"sign in|log ?in|cookies|members|private|premium", re.IGNORECASE),
        "Set download.cookies_file to the cookies of an account that may watch it",
    ),
    (
        re.compile(r"in your (country|location|region)|geo.?restrict", re.IGNORECASE),
        "Set download.proxy to one in a country where it may be watched",
    ),
)
_NEEDS_PROGRAM_TEXT = "ffmpeg could not be found"

_log = logging.getLogger(__name__)


class BusySourceError(TransientSourceError):
    """A site that asks to wait: HTTP 429, a bot check. `retry_after_s` is what the server said."""

    def __init__(
        self, what: str, *, where: str, remedy: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.retry_after_s = retry_after_s


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
    are no manual ones. What failed for the moment is tried again as `patiently` says.

    Raises:
        SettingsError: the cookies file cannot be used.
        SourceError: the video does not exist, is private, protected, live, or several at once,
            or leads to something else than http or https.
        TransientSourceError: the network or the server failed, or asks to wait (HTTP 429, a bot
            check), still after the last attempt.
    """
    _refuse_scheme(url)
    if is_youtube(url):
        _warn_without_runtime()
    place = folder / sha256_json([url, settings.format])[:16]
    for old in folder.iterdir() if folder.is_dir() else ():
        if old != place and old.is_dir():
            shutil.rmtree(old)
    place.mkdir(parents=True, exist_ok=True)
    return patiently(
        lambda: _attempt(url, place, languages, settings, progress),
        settings,
        progress,
        fetched_bytes=lambda: sum(file.stat().st_size for file in place.iterdir()),
    )


def patiently(
    attempt: Callable[[], T],
    settings: DownloadSettings,
    progress: Progress = silent,
    fetched_bytes: Callable[[], int] = lambda: 0,
) -> T:
    """Try `attempt` again while it raises `TransientSourceError`, up to `settings.retries` times.

    The wait is what the server asked for with Retry-After; else `busy_delay_s` where the site
    asks to wait and `retry_delay_s` otherwise, doubled each time, at most `max_delay_s`. It is
    logged, and its seconds are told to `progress`. A server that asks for a longer wait is not
    waited for. Attempts between which a `GAINED_BYTES` more were fetched are not counted.
    """
    tries = 0
    while True:
        before = fetched_bytes()
        try:
            return attempt()
        except TransientSourceError as error:
            if fetched_bytes() - before >= GAINED_BYTES:
                tries = 0
            delay_s = _delay_s(error, tries, settings)
            if tries >= settings.retries or delay_s > settings.max_delay_s:
                raise
            tries += 1
            _log.warning(
                "%s. Attempt %d of %d follows in %.0f s",
                *(error, tries + 1, settings.retries + 1, delay_s),
            )
            _wait(delay_s, error.what, progress)


def javascript_runtime() -> tuple[str | None, str]:
    """The JavaScript runtime that yt-dlp would give YouTube's player script, as name and version,
    and a sentence on it: what it is, or what is missing and what to do.

    Names and least versions are yt-dlp's own (yt_dlp/utils/_jsruntime.py).
    """
    import yt_dlp

    runtimes = yt_dlp.globals.supported_js_runtimes.value
    found = [info for kind in runtimes.values() if (info := kind().info) is not None]
    for info in found:
        if info.supported:
            name = f"{info.name} {info.version}"
            return name, f"YouTube's player script is run by {name}"
    wanted = ", ".join(
        f"{name} {'.'.join(map(str, kind.MIN_SUPPORTED_VERSION))}"
        for name, kind in runtimes.items()
    )
    old = "".join(f" ({info.name} {info.version} is too old)" for info in found)
    return None, (
        f"No JavaScript runtime that yt-dlp can use is installed{old}, and without one YouTube "
        f"gives few formats or none: install one of {wanted}, or newer"
    )


def read_cookies(settings: DownloadSettings) -> io.StringIO | None:
    """The cookies of `settings.cookies_file`, relative to the project. yt-dlp writes its cookies
    back when it ends: into this copy, so that the file may be a read-only secret.

    Raises:
        SettingsError: there is no such file, or it is not in Netscape's format.
    """
    from yt_dlp.cookies import YoutubeDLCookieJar

    if settings.cookies_file is None:
        return None
    path = project_root() / Path(settings.cookies_file).expanduser()
    remedy = (
        "Export the cookies of a browser in Netscape's format, "
        "or set download.cookies_file to null in config/dataset.yaml"
    )
    try:
        text = path.read_text(encoding="utf-8")
        YoutubeDLCookieJar(io.StringIO(text)).load()
    except OSError as error:  # http.cookiejar.LoadError too
        raise SettingsError(
            f"The cookies file cannot be read: {error.strerror or error}",
            where=str(path),
            remedy=remedy,
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"The cookies file is no text: {error}", where=str(path), remedy=remedy
        ) from None
    return io.StringIO(text)


@contextmanager
def opened(
    url: str, settings: DownloadSettings, options: dict[str, Any] | None = None
) -> Iterator[Any]:
    """A `yt_dlp.YoutubeDL` with this project's options (and `options` over them), whose errors
    come out as this project's. It refuses requests to schemes other than http and https.

    Raises:
        SettingsError: the cookies file cannot be used.
        SourceError: what yt-dlp raised (see `explained`).
    """
    import yt_dlp
    from yt_dlp.networking.exceptions import HTTPError, RequestError

    class Guarded(yt_dlp.YoutubeDL):  # type: ignore[misc]
        refusal: HTTPError | None = None

        def urlopen(self, request: Any) -> Any:
            asked = request if isinstance(request, str) else request.url
            if urlsplit(asked).scheme.lower() not in _REQUEST_SCHEMES:
                raise RequestError(f"{asked!r} has not an allowed scheme")
            try:
                return super().urlopen(request)
            except HTTPError as error:
                self.refusal = error
                raise

    with Guarded({**_options(settings), **(options or {})}) as downloader:
        try:
            yield downloader
        except yt_dlp.utils.YoutubeDLError as error:
            raise explained(url, error, downloader.refusal) from error


def refuse_live(url: str, found: dict[str, Any]) -> None:
    """Raises SourceError for what has no end yet."""
    if found.get("live_status") in ("is_live", "is_upcoming"):
        raise SourceError(
            "The video is live or has not begun",
            where=url,
            remedy="Wait until it is over",
        )


def _delay_s(error: TransientSourceError, tries: int, settings: DownloadSettings) -> float:
    if isinstance(error, BusySourceError):
        if error.retry_after_s is not None:
            return error.retry_after_s
        return min(settings.busy_delay_s * 2.0**tries, settings.max_delay_s)
    return min(settings.retry_delay_s * 2.0**tries, settings.max_delay_s)


def _wait(delay_s: float, why: str, progress: Progress) -> None:
    unit = f"s of a wait: {re.sub(r'[][]', '', why)[:SHOWN_CHARACTERS]}"
    until = time.monotonic() + delay_s
    while (left_s := until - time.monotonic()) > 0:
        progress(round(delay_s - left_s), round(delay_s), unit)
        time.sleep(min(left_s, 1.0))


def _attempt(
    url: str,
    place: Path,
    languages: Sequence[str],
    settings: DownloadSettings,
    progress: Progress,
) -> Download:
    def tell(state: dict[str, Any]) -> None:
        total = state.get("total_bytes") or state.get("total_bytes_estimate")
        progress(state.get("downloaded_bytes") or 0, total, "bytes")

    options = {
        "paths": {"home": str(place)},
        "outtmpl": {"default": "media.%(ext)s"},
        "progress_hooks": [tell],
    }
    with opened(url, settings, options) as downloader:
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


def _options(settings: DownloadSettings) -> dict[str, Any]:
    import yt_dlp

    return {
        "format": settings.format,
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "continuedl": True,
        # `patiently` waits and resumes; only fragments are retried in place.
        "retries": 0,
        "fragment_retries": settings.retries,
        "retry_sleep_functions": {
            "fragment": lambda n: min(settings.retry_delay_s * 2.0**n, settings.max_delay_s)
        },
        "skip_unavailable_fragments": False,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "cookiefile": read_cookies(settings),
        "proxy": settings.proxy,
        # YouTube needs one of them; yt-dlp takes the first that it can use.
        "js_runtimes": {name: {} for name in yt_dlp.globals.supported_js_runtimes.value},
        "hls_prefer_native": True,
        "external_downloader": {"default": "native"},
        "ffmpeg_location": _NO_PROGRAM,
        # PyAV decodes the file as it is.
        "fixup": "never",
        "updatetime": False,
        "quiet": True,
        "noprogress": True,
        "logger": _QuietLogger(),
    }


@functools.cache
def _warn_without_runtime() -> None:
    """Once in a process."""
    name, sentence = javascript_runtime()
    if name is None:
        _log.warning("%s", sentence)


def _refuse_scheme(url: str) -> None:
    if urlsplit(url).scheme.lower() not in _URL_SCHEMES:
        raise SourceError(
            "The address is neither http nor https",
            where=url,
            remedy="Correct the row's source",
        )


def _refuse_unsuited(url: str, found: dict[str, Any]) -> None:
    if found.get("_type") in ("playlist", "multi_video"):
        raise SourceError(
            "The address holds several videos",
            where=url,
            remedy=f"Give each video its own row: `xtts videos add '{url}'` does, and "
            "`xtts videos remove` takes this one out",
        )
    refuse_live(url, found)
    for part in found.get("requested_formats") or [found]:
        if part.get("protocol") not in _PROTOCOLS:
            raise SourceError(
                f"The video is sent by {part.get('protocol')!r}, which is not allowed",
                where=url,
                remedy="Download it by other means and name the file",
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


def explained(url: str, error: Exception, refusal: Any = None) -> SourceError:
    """What an exception of yt-dlp means, as one of this project's.

    `refusal` is the last HTTP error that was seen: some transfers lose theirs on the way.
    """
    from yt_dlp.networking.exceptions import (
        CertificateVerifyError,
        HTTPError,
        IncompleteRead,
        TransportError,
    )
    from yt_dlp.utils import ContentTooShortError, UnsupportedError

    causes = list(_causes(error))
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().removeprefix("ERROR: ").rstrip(". ")
    refused = [cause for cause in causes if isinstance(cause, HTTPError)]
    named = _STATUS_TEXT.search(text)
    status = refused[0].status if refused else int(named[1]) if named else None
    if refusal is not None and not refused and refusal.status == status:
        refused = [refusal]
    if _BUSY_TEXT.search(text) or status in _BUSY_STATUS:
        return _busy(url, text, _retry_after_s(refused))
    if status is not None and status >= 500:
        return _failed_server(url, text, _retry_after_s(refused))
    if status in _MISSING_STATUS:
        return SourceError(
            f"There is nothing at this address: {text}",
            where=url,
            remedy="Correct the row's source (or its subtitles, if it is them that are missing)",
        )
    if any(isinstance(cause, CertificateVerifyError) for cause in causes):
        return SourceError(f"The server's certificate is not valid: {text}", where=url)
    if any(_FOREIGN_TEXT.search(str(cause)) for cause in causes):
        return SourceError(
            f"The address leads to something else than http or https: {text}",
            where=url,
            remedy="Give the address of the video itself",
        )
    if _NEEDS_PROGRAM_TEXT in text:
        return SourceError(
            "The video is live, or encrypted in a way that is not supported",
            where=url,
            remedy="Download it by other means and name the file",
        )
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
    remedy = "See whether a browser plays it; update yt-dlp if so"
    remedy = next((known for pattern, known in _REMEDIES if pattern.search(text)), remedy)
    return SourceError(text, where=url, remedy=_with_runtime(url, remedy))


def _busy(url: str, text: str, retry_after_s: float | None) -> BusySourceError:
    asked = "" if retry_after_s is None else f" (a wait of {retry_after_s:.0f} s)"
    return BusySourceError(
        f"The site asks to wait{asked} or suspects a bot: {text}",
        where=url,
        remedy=_with_runtime(
            url, "Try again later, or set download.cookies_file or download.proxy"
        ),
        retry_after_s=retry_after_s,
    )


def _failed_server(url: str, text: str, retry_after_s: float | None) -> TransientSourceError:
    what = f"The server failed: {text}"
    if retry_after_s is None:
        return TransientSourceError(what, where=url, remedy="Try again later")
    return BusySourceError(
        f"{what} (it asks for a wait of {retry_after_s:.0f} s)",
        where=url,
        remedy="Try again later",
        retry_after_s=retry_after_s,
    )


def _with_runtime(url: str, remedy: str) -> str:
    if not is_youtube(url):
        return remedy
    name, sentence = javascript_runtime()
    return remedy if name else f"{remedy}. {sentence}"


def _retry_after_s(refused: Sequence[Any]) -> float | None:
    """The header Retry-After in seconds from now (RFC 9110, 10.2.3: seconds or a date)."""
    text = refused[0].response.headers.get("Retry-After") if refused else None
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


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
