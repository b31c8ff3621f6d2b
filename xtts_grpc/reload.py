"""Following `serving.json`: the store serves the release that it names.

A release that cannot be served is reported, and tried again ever more rarely.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from xtts_core.errors import ReleaseError, XttsError
from xtts_core.model.engine import nobody_left
from xtts_core.store import read_json
from xtts_grpc.model_store import LOOK_UP_S, Checkpoint

if TYPE_CHECKING:
    from xtts_grpc.model_store import ModelStore

_MAX_RETRY_S = 300.0
_MOST_DOUBLINGS = 20
"""Of the time between two polls, before it is certainly above `_MAX_RETRY_S`."""


class ReleaseFollower:
    """Keeps a store at the release that `serving.json` names.

    A release that cannot be served is tried again ever more rarely (its files may still be on
    their way), and at once when serving.json changes or `check(now=True)` asks for it.
    """

    def __init__(self, store: ModelStore, serving: Path, poll_s: float) -> None:
        self._store = store
        self._serving = serving
        self._poll_s = poll_s
        self._checking = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="reload", daemon=True)
        self._forced = 0
        self._forced_refusal: XttsError | None = None
        self._refused: Checkpoint | None = None
        self._refusals = 0
        self._retry_at = 0.0

    def start(self) -> None:
        """Look for a release now and every `poll_s` seconds from now on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no load any more."""
        self._stopped.set()

    def join(self) -> None:
        """Wait for a load that was under way when it was stopped."""
        self._thread.join()

    def check(self, *, now: bool = False, wanted: Callable[[], None] = nobody_left) -> None:
        """Serve the release that serving.json names.

        Args:
            now: a release that was refused is tried again at once. Calls that come while one is
                tried share one more attempt.
            wanted: called while another check is waited for; what it raises ends the wait.

        Raises:
            ReleaseError: it cannot be served, or there is none.
        """
        begun = self._forced
        while not self._checking.acquire(timeout=LOOK_UP_S):
            wanted()
        try:
            if not now:
                refusal = self._refusal(now=False)
            elif self._forced == begun:
                self._forced += 1
                refusal = self._forced_refusal = self._refusal(now=True)
            else:
                refusal = self._forced_refusal
        finally:
            self._checking.release()
        if refusal:
            raise refusal

    def _refusal(self, *, now: bool) -> XttsError | None:
        """Why the release that serving.json names does not serve, once that was tried.

        The store has kept and logged it for whoever asks.
        """
        try:
            self._serve_what_is_named(now=now)
        except XttsError as error:
            return error
        except Exception as error:
            unexpected = _unexpected(self._serving, error)
            self._store.report(unexpected)
            return unexpected
        return None

    def _serve_what_is_named(self, *, now: bool) -> None:
        try:
            checkpoint = read_serving(self._serving)
        except XttsError as error:
            self._refused = None
            self._store.report(error)
            raise
        if self._store.checkpoint == checkpoint:
            self._refused = None
            self._store.settle()
        elif now or checkpoint != self._refused or monotonic() >= self._retry_at:
            self._install(checkpoint)

    def _install(self, checkpoint: Checkpoint) -> None:
        try:
            self._store.install(checkpoint)
        except XttsError:
            self._refusals = self._refusals + 1 if checkpoint == self._refused else 1
            self._refused = checkpoint
            wait_s = min(self._poll_s * 2 ** min(self._refusals, _MOST_DOUBLINGS), _MAX_RETRY_S)
            self._retry_at = monotonic() + max(wait_s, self._store.rest_s)
            raise
        self._refused = None

    def _poll(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(XttsError):
                self.check()
            self._store.give_back_memory()
            self._stopped.wait(self._poll_s)


def read_serving(path: Path) -> Checkpoint:
    """The release that a serving.json names.

    Raises:
        ReleaseError: there is no serving.json, it is damaged, or its path leads out of its folder.
    """
    try:
        pointer = read_json(path)
        release, relative = _release_number(pointer["release"]), str(pointer["path"])
        manifest_sha256 = str(pointer["manifest_sha256"])
        root = path.parent.resolve()
        directory = (root / relative).resolve()
    except FileNotFoundError:
        raise ReleaseError(
            "There is no release",
            where=str(path),
            remedy="Train a checkpoint and publish it (xtts train)",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise ReleaseError(
            f"The file does not name a release ({error!r})",
            where=str(path),
            remedy="Publish a release again",
        ) from error
    if not directory.is_relative_to(root) or directory == root:
        raise ReleaseError(
            f"The release {relative!r} lies outside {root}",
            where=str(path),
            remedy="Publish a release below the folder of serving.json",
        )
    return Checkpoint(directory, "release", release, manifest_sha256)


def _release_number(value: object) -> int:
    if type(value) is not int or not 1 <= value < 2**63:
        raise ValueError(f"release is {value!r}, and no number from 1 on")
    return value


def _unexpected(serving: Path, error: Exception) -> ReleaseError:
    """Whatever a file of strangers brings about, the next one is looked at."""
    wrapped = ReleaseError(
        f"Looking for a release failed: {error!r}",
        where=str(serving),
        remedy="The service goes on looking; its log says where it failed",
    )
    wrapped.__cause__ = error
    return wrapped
