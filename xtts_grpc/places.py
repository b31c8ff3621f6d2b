"""How many calls are answered at one time, and how many more wait for that."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from xtts_core.errors import OverloadedError

if TYPE_CHECKING:
    import grpc

_RECENT_CALLS = 32
_FIRST_CALL_S = 1.0
"""What a call is taken to last before one has ended."""


class CallEndedError(Exception):
    """The caller went away, or its deadline passed."""


class Places:
    """Gives places to calls in the order in which they come.

    Args:
        places: calls that are answered at one time.
        waiting: calls that may wait for a place.
    """

    def __init__(self, places: int, waiting: int) -> None:
        self._places = places
        self._most_waiting = waiting
        self._changing = threading.Lock()
        self._free = places
        self._queue: deque[Future[bool]] = deque()
        self._recent_s = deque([_FIRST_CALL_S], maxlen=_RECENT_CALLS)

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        return len(self._queue)

    @contextmanager
    def one(self, context: grpc.ServicerContext) -> Iterator[None]:
        """A place while the block runs; waits for it as long as the caller does.

        Raises:
            OverloadedError: as many calls wait already as may.
            CallEndedError: the call ended before it had a place.
        """
        self._take(context)
        started = monotonic()
        try:
            if not context.is_active():
                raise CallEndedError
            yield
        finally:
            self._give_back(monotonic() - started)

    def _take(self, context: grpc.ServicerContext) -> None:
        with self._changing:
            if self._free:
                self._free -= 1
                return
            if len(self._queue) >= self._most_waiting:
                raise self._overloaded()
            turn: Future[bool] = Future()
            self._queue.append(turn)
        if not context.add_callback(lambda: self._give_up(turn)):
            self._give_up(turn)
        if not turn.result():
            raise CallEndedError

    def _give_up(self, turn: Future[bool]) -> None:
        with self._changing:
            if turn in self._queue:
                self._queue.remove(turn)
                turn.set_result(False)

    def _give_back(self, held_s: float) -> None:
        with self._changing:
            self._recent_s.append(held_s)
            if self._queue:
                self._queue.popleft().set_result(True)
            else:
                self._free += 1

    def _overloaded(self) -> OverloadedError:
        mean_s = sum(self._recent_s) / len(self._recent_s)
        retry_after_s = mean_s * (len(self._queue) + 1) / self._places
        return OverloadedError(
            f"{self._places} calls are being answered and {len(self._queue)} wait already",
            remedy=f"Try again in {retry_after_s:.1f} s",
            retry_after_s=retry_after_s,
        )
