"""What the source of a row may be: a file of this machine, or an http(s) address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Also what stands for the bytes of a file name that is no UTF-8."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_YOUTUBE_HOSTS = ("youtube.com", "youtube-nocookie.com", "youtu.be")
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_YOUTUBE_FOLDERS = ("shorts", "embed", "live", "v", "e")


@dataclass(frozen=True)
class LeftOut:
    """Something that got no row, and why."""

    source: str
    reason: str


def local_path(csv_path: Path, source: str) -> Path | None:
    """The file that a source names, or None for a URL. It need not be there.

    Raises:
        ValueError: the source is not allowed.
    """
    if not source:
        raise ValueError("source is empty")
    if source.startswith("-"):
        raise ValueError(
            f"source {source!r} starts with '-' and could be taken for an option; "
            f"write './{source}' for a file"
        )
    if CONTROL.search(source):
        raise ValueError(f"source {source!r} holds a control character or is no UTF-8 text")
    scheme = _SCHEME.match(source)
    if scheme is None:
        return csv_path.parent / source
    name = scheme[1].lower()
    if name not in ("http", "https", "file"):
        raise ValueError(
            f"source {source!r} has the scheme {name!r}; allowed are http, https and files "
            f"(write './{source}' for a file of that name)"
        )
    try:
        url = urlsplit(source)
    except ValueError as error:
        raise ValueError(f"source {source!r} is no URL: {error}") from None
    if name == "file":
        if url.netloc not in ("", "localhost") or not url.path.startswith("/"):
            raise ValueError(f"source {source!r} does not name a file of this machine")
        return Path(unquote(url.path))
    if not url.hostname:
        raise ValueError(f"source {source!r} has no host name")
    return None


def is_youtube(url: str) -> bool:
    """Whether an address is YouTube's; what is no URL is not."""
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return any(host == known or host.endswith("." + known) for known in _YOUTUBE_HOSTS)


def youtube_id(url: str) -> str | None:
    """The eleven-character id in any of the forms of a YouTube address, or None."""
    if not is_youtube(url):
        return None
    parts = urlsplit(url)
    path = [part for part in parts.path.split("/") if part]
    candidate = ""
    if (parts.hostname or "").lower().endswith("youtu.be"):
        candidate = path[0] if path else ""
    elif len(path) >= 2 and path[0] in _YOUTUBE_FOLDERS:
        candidate = path[1]
    elif path == ["watch"]:
        candidate = parse_qs(parts.query).get("v", [""])[0]
    return candidate if _YOUTUBE_ID.fullmatch(candidate) else None


def relative_source(csv_path: Path, path: Path) -> str:
    """How a row names a file: relative to the folder of the catalogue, with a `./` in front where
    the name alone would be taken for an option or a URL."""
    source = Path(os.path.relpath(path, csv_path.parent.resolve())).as_posix()
    plain = not source.startswith(("-", " ")) and _SCHEME.match(source) is None
    return source if plain else f"./{source}"
