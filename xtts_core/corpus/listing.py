"""What a source stands for: one recording, the videos of a playlist or channel, or the media files
of a folder."""

from __future__ import annotations

import mimetypes
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xtts_core.corpus.containers import PLAYLISTS
from xtts_core.corpus.download import opened, patiently, refuse_live
from xtts_core.corpus.ljspeech_source import is_ljspeech
from xtts_core.corpus.sources import (
    LeftOut,
    is_youtube,
    local_path,
    relative_source,
    youtube_id,
)
from xtts_core.corpus.videos import sidecars
from xtts_core.errors import CatalogueError, SourceError, TransientSourceError
from xtts_core.settings import DownloadSettings
from xtts_core.stage import Progress, silent
from xtts_core.store import sha256_file

MAX_DEPTH = 3
"""A channel holds tabs, a tab playlists, a playlist videos."""
MAX_HOPS = 10

_HIDDEN_TITLES = {"[Private video]": "private", "[Deleted video]": "deleted"}
"""How YouTube lists what cannot be watched."""
_CLOSED = ("private", "needs_auth", "premium_only", "subscriber_only")
"""yt-dlp's names of what needs an account."""
_FORMULA = "=+-@"


@dataclass(frozen=True)
class Item:
    """A recording, as a row may name it; `title` may be empty."""

    source: str
    title: str = ""


@dataclass(frozen=True)
class Listing:
    """The recordings of a source, and what was left out. `several` says that the source was a
    playlist, channel or folder, however many recordings it holds."""

    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...] = ()
    several: bool = False


def list_source(
    csv_path: Path, source: str, settings: DownloadSettings, progress: Progress = silent
) -> Listing:
    """What `source` stands for. A YouTube video and a file are taken as they are; other URLs are
    looked at; a folder (found like a file: from the catalogue's folder, or else from the working
    directory) is searched.

    Raises:
        CatalogueError: the source is not allowed.
        SettingsError: the cookies file cannot be used.
        SourceError: there is nothing at the address (TransientSourceError: not this time).
    """
    try:
        path = local_path(csv_path, source)
    except ValueError as error:
        raise CatalogueError(
            f"Nothing can be added: {error}", where=str(csv_path), remedy="Correct the source"
        ) from None
    if path is None:
        if youtube_id(source):
            return Listing((Item(source),))
        return patiently(lambda: _list_url(source, settings, progress), settings, progress)
    folder = next((place for place in (path, Path(source)) if place.is_dir()), None)
    if folder is None:
        return Listing((Item(source),))
    if is_ljspeech(folder):
        raise CatalogueError(
            "The folder has the LJSpeech layout: added file by file its texts would be lost",
            where=str(folder),
            remedy="Use xtts videos import",
        )
    if Path(source).is_absolute() or source.lower().startswith("file:"):
        return _list_folder(folder, str, progress)
    return _list_folder(folder, lambda file: relative_source(csv_path, file), progress)


# --- URLs -------------------------------------------------------------------------------------


def _list_url(url: str, settings: DownloadSettings, progress: Progress) -> Listing:
    with opened(url, settings) as downloader:
        found = _resolved(downloader, url, None)
        if not _is_list(found):
            refuse_live(url, found)
            return Listing((Item(url, _title(found)),))
        items: dict[str, Item] = {}
        left_out: list[LeftOut] = []
        for entry in _entries(downloader, found, {url}, MAX_DEPTH):
            if isinstance(entry, LeftOut):
                left_out.append(entry)
                continue
            address = _address(entry, found)
            reason = _unsuited(address, entry, settings)
            if reason:
                left_out.append(LeftOut(address or _title(entry) or "an entry", reason))
            else:
                items.setdefault(address, Item(address, _title(entry)))
                progress(len(items), None, "videos found")
    return Listing(tuple(items.values()), tuple(left_out), several=True)


def _resolved(downloader: Any, url: str, extractor: str | None) -> dict[str, Any]:
    """What an address gives in the end, unprocessed: a video, or a list of entries."""
    for _ in range(MAX_HOPS):
        found = downloader.extract_info(url, download=False, process=False, ie_key=extractor)
        if not found:
            raise SourceError("Nothing came from this address", where=url)
        if found.get("_type") not in ("url", "url_transparent"):
            return dict(found)
        url, extractor = found["url"], found.get("ie_key")
    raise SourceError(f"The address leads on and on ({MAX_HOPS} times)", where=url)


def _entries(
    downloader: Any, found: Mapping[str, Any], seen: set[str], depth: int
) -> Iterator[dict[str, Any] | LeftOut]:
    """The videos of a list and of the lists in it. A list that fails for good is left out; what
    fails for the moment ends everything, since a part would be taken for the whole."""
    for entry in _each(found.get("entries")):
        if not entry:
            yield LeftOut(_title(found) or "the list", "it has an entry that is not available")
        elif _is_list(entry):
            yield from _entries(downloader, entry, seen, depth)
        elif not _points_to_list(downloader, entry):
            yield entry
        elif entry["url"] not in seen:
            seen.add(entry["url"])
            if depth == 0:
                yield LeftOut(entry["url"], "it is a list in a list in a list")
                continue
            try:
                inner = _inner(downloader, entry)
            except TransientSourceError:
                raise
            except SourceError as error:
                yield LeftOut(entry["url"], error.what)
                continue
            if _is_list(inner):
                yield from _entries(downloader, inner, seen, depth - 1)
            else:
                yield inner


def _inner(downloader: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    import yt_dlp

    from xtts_core.corpus.download import explained

    try:
        return _resolved(downloader, entry["url"], entry.get("ie_key"))
    except yt_dlp.utils.YoutubeDLError as error:
        raise explained(entry["url"], error, downloader.refusal) from error


def _each(entries: Any) -> Iterator[Any]:
    """The entries of yt-dlp's several kinds of lists; some come page by page."""
    if hasattr(entries, "getslice"):
        yield from entries.getslice()
    elif entries is not None:
        yield from entries


def _is_list(found: Mapping[str, Any]) -> bool:
    return found.get("_type") in ("playlist", "multi_video")


def _points_to_list(downloader: Any, entry: Mapping[str, Any]) -> bool:
    """By the address for YouTube (whose tabs hold videos and lists), else by what yt-dlp knows of
    the extractor; what nobody knows is taken for a video."""
    if entry.get("_type") not in ("url", "url_transparent"):
        return False
    url = str(entry.get("url"))
    if is_youtube(url):
        return youtube_id(url) is None
    if not entry.get("ie_key"):
        return False
    extractor = downloader.get_info_extractor(entry["ie_key"])
    return bool(extractor.is_single_video(url) is False)


def _address(entry: Mapping[str, Any], page: Mapping[str, Any]) -> str:
    """The address of an entry's own. One that is embedded in the page of the list has only that of
    its media: of the last format, which is the best one."""
    import yt_dlp

    if entry.get("_type") not in ("url", "url_transparent"):
        own = entry.get("webpage_url")
        if own and own != page.get("webpage_url"):
            return str(own)
    formats = entry.get("formats") or [{}]
    address = entry.get("url") or formats[-1].get("url") or ""
    return str(yt_dlp.utils.unsmuggle_url(address)[0])


def _unsuited(address: str, entry: Mapping[str, Any], settings: DownloadSettings) -> str:
    """Why an entry gets no row, or nothing."""
    try:
        parts = urlsplit(address)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            return "its address is neither http nor https"
    except ValueError as error:
        return f"its address is no URL: {error}"
    if entry.get("title") in _HIDDEN_TITLES:
        return f"it is {_HIDDEN_TITLES[entry['title']]}"
    if entry.get("availability") in _CLOSED and settings.cookies_file is None:
        needs = str(entry["availability"]).replace("_", " ")
        return f"it is not public ({needs}): set download.cookies_file to the cookies of an account"
    if entry.get("live_status") in ("is_live", "is_upcoming"):
        return "it is live or has not begun"
    return ""


def _title(found: Mapping[str, Any]) -> str:
    """In one line, and such that no spreadsheet takes it for a formula."""
    title = str(found.get("title") or "").encode("utf-8", "replace").decode()
    return " ".join(title.split()).lstrip(_FORMULA)


# --- folders ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Media:
    """A media file with sound: how long it says it is (None: it does not)."""

    duration_s: float | None


def probe(path: Path) -> Media | str | None:
    """Open a file as FFmpeg does: what it is; or why it cannot be used, where it is media or its
    name says so; or None where it is something else."""
    import av

    kind = mimetypes.guess_type(path.name)[0] or ""
    named_media = kind.startswith(("audio/", "video/"))
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if container.format.name in PLAYLISTS:
                return "it is a playlist"
            if not container.streams.audio:
                return "it has no sound" if named_media else None
            if next(container.decode(audio=0), None) is None:
                return "it has no sound that can be decoded" if named_media else None
            duration = container.duration
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"it cannot be read as media: {reason}" if named_media else None
    return Media(None if duration is None else duration / 1_000_000)


def _list_folder(folder: Path, named: Callable[[Path], str], progress: Progress) -> Listing:
    media: list[Path] = []
    left_out: list[LeftOut] = []
    for path in _files(folder.resolve(), left_out):
        found = probe(path)
        if isinstance(found, str):
            left_out.append(LeftOut(str(path), found))
        elif found is not None:
            media.append(path)
            progress(len(media), None, "media files found")
    copies = _copies(media)
    items = []
    for path in media:
        if path in copies:
            left_out.append(LeftOut(str(path), f"it is a copy of {named(copies[path])}"))
        else:
            items.append(Item(named(path), path.stem.lstrip(_FORMULA)))
    return Listing(tuple(items), tuple(left_out), several=True)


def _copies(files: list[Path]) -> dict[Path, Path]:
    """The files whose content another one has, with that other one: of each content the file with
    subtitles beside it is taken, or else the one with the shortest name (`a` before `a (1)`). One
    that cannot be read is named when its row is made."""
    by_size = defaultdict(list)
    alike = defaultdict(list)
    for path in files:
        with suppress(OSError):
            by_size[path.stat().st_size].append(path)
    for paths in by_size.values():
        for path in paths if len(paths) > 1 else ():
            with suppress(OSError):
                alike[sha256_file(path)].append(path)
    copies = {}
    for twins in alike.values():
        best = min(twins, key=lambda path: (not sidecars(path), len(path.name), path))
        copies.update({path: best for path in twins if path != best})
    return copies


def _files(folder: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """The files below a folder, sorted, without those that are hidden or in a hidden folder."""

    def name_unreadable(error: OSError) -> None:
        left_out.append(LeftOut(str(error.filename), f"it cannot be read: {error.strerror}"))

    for place, folders, names in os.walk(folder, onerror=name_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place) / name
            if not name.startswith(".") and path.is_file():
                yield path
