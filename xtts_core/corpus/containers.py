"""What a media file says of itself, where FFmpeg does not tell: that its end is missing, that it
is protected, that it is a playlist.

That an end is missing can be proved where a header states the length (Matroska, MP4, FLAC, WAV,
AIFF, AU, TTA, MP3 with a Xing or Info header) or where the last unit is visibly cut (Ogg). It
cannot for fragmented MP4, MPEG-TS, ADTS, AVI, MP3 without that header, and any Ogg file that was
cut between two pages: these are taken for whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PLAYLISTS = frozenset({"concat", "dash", "hls", "sdp"})
"""FFmpeg formats that only point to other files."""

_STATES_DURATION = ("matroska", "mov", "flac", "aiff", "au", "tta")
_CLOCK = re.compile(r"(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")
_WAV_UNKNOWN_BYTES = 0x7FFF_0000
"""Programs that write WAV into a pipe state a length from here up to 0xFFFFFFFF, or none."""
_OGG_PAGE_BYTES = 65_307
_PROTECTED_TAGS = frozenset({"enca", "drms", "aavd"})
"""MP4 sample entries of Common Encryption, FairPlay and Audible."""
_MATROSKA_CLUSTER = b"\x1f\x43\xb6\x75"
_MATROSKA_ENCRYPTION = b"\x50\x33\x81\x01"
"""ContentEncodingType 1: without the key, Opus packets decode into noise and no error."""
_HEADER_BYTES = 1 << 20


def stated_duration_s(source: Path, container: Any, stream: Any) -> float | None:
    """How long the file states its audio track to be, in seconds; None where it does not, or
    where FFmpeg would only derive it from the size of the file."""
    name = container.format.name
    if name == "wav":
        return _wav_duration_s(source)
    if name == "mp3":
        return _mp3_duration_s(source, stream.codec_context.sample_rate)
    if not name.startswith(_STATES_DURATION):
        return None
    # Before the stream's own duration, which FFmpeg copies from the whole file's in Matroska.
    clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if clock is not None:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if len(container.streams) == 1 and container.duration is not None:
        return float(container.duration) / 1_000_000
    return None


def ends_inside_a_page(source: Path) -> bool:
    """Whether the last page of an Ogg file is longer than what is there of it (RFC 3533, 6)."""
    tail = _tail(source, 2 * _OGG_PAGE_BYTES)
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < 27:
        return True
    segments = page[27 : 27 + page[26]]
    return len(segments) < page[26] or len(page) < 27 + page[26] + sum(segments)


def is_protected(source: Path, container: Any, stream: Any) -> bool:
    """Whether the header says that the track is encrypted (MP4 sample entry, Matroska)."""
    if stream.codec_tag in _PROTECTED_TAGS:
        return True
    if not container.format.name.startswith("matroska"):
        return False
    return _MATROSKA_ENCRYPTION in _head(source, _HEADER_BYTES).split(_MATROSKA_CLUSTER)[0]


def _wav_duration_s(source: Path) -> float | None:
    """By the bytes per second of `fmt ` and the size that `data` states. RF64 states none here."""
    with source.open("rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        bytes_per_s = 0
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                known = bytes_per_s > 0 and 0 < size < _WAV_UNKNOWN_BYTES
                return size / bytes_per_s if known else None
            if header[:4] == b"fmt ":
                bytes_per_s = int.from_bytes(file.read(size)[8:12], "little")
                file.seek(-size, 1)
            file.seek(size + size % 2, 1)
    return None


def _mp3_duration_s(source: Path, rate_hz: int) -> float | None:
    """By the count of frames in the Xing or Info header of the first frame."""
    with source.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            size = 0
            for byte in head[6:]:
                size = size << 7 | byte & 0x7F
            file.seek(10 + size)
        else:
            file.seek(0)
        first = file.read(256)
    found = re.search(rb"(?:Xing|Info)(.{4})(.{4})", first, re.DOTALL)
    if found is None or not found[1][3] & 1:
        return None
    samples_per_frame = 1_152 if rate_hz >= 32_000 else 576
    return int.from_bytes(found[2], "big") * samples_per_frame / rate_hz


def _head(source: Path, count: int) -> bytes:
    with source.open("rb") as file:
        return file.read(count)


def _tail(source: Path, count: int) -> bytes:
    with source.open("rb") as file:
        file.seek(max(0, source.stat().st_size - count))
        return file.read()
