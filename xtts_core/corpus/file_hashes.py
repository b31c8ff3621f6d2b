"""SHA-256 of the local files that a catalogue names, so that ids can be derived from contents."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from xtts_core.store import read_json, sha256_file, write_json

_SAVE_HASHES_EVERY_S = 5.0

_log = logging.getLogger(__name__)


@contextmanager
def file_hashes(csv_path: Path) -> Iterator[FileHashes]:
    """The hashes beside one catalogue; what was added is saved at the end."""
    hashes = FileHashes(csv_path)
    try:
        yield hashes
    finally:
        hashes.save()


class FileHashes:
    """SHA-256 of local files, kept in a hidden file beside the catalogue: every look at it asks
    for every row's id, in many processes, and a file is read again only when its size or time
    changes. What is done is saved on the way, so that a look that is cut short helps the next."""

    def __init__(self, csv_path: Path) -> None:
        self._path = csv_path.parent / f".{csv_path.name}.hashes.json"
        self._changed = False
        self._saved_at = time.monotonic()

    @cached_property
    def _known(self) -> dict[str, list[Any]]:
        try:
            known = read_json(self._path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _log.info("%s is made anew: %s", self._path, error)
            return {}
        return known if isinstance(known, dict) else {}

    def of(self, source: str, path: Path) -> str:
        """Raises OSError where the file cannot be read."""
        stat = path.stat()
        known = self._known.get(source)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            known = [stat.st_size, stat.st_mtime_ns, _sha256(path, stat.st_size, stat.st_mtime_ns)]
            self._known[source] = known
            self._changed = True
            if time.monotonic() - self._saved_at > _SAVE_HASHES_EVERY_S:
                self.save()
        return str(known[2])

    def save(self) -> None:
        self._saved_at = time.monotonic()
        if not self._changed:
            return
        try:
            write_json(self._path, self._known)
        except OSError as error:
            _log.info("The hashes of local files are not kept: %s", error)
        self._changed = False


@lru_cache(maxsize=65_536)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """For folders that cannot be written to: read once a process."""
    return sha256_file(path)
