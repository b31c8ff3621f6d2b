"""One computation at a time, in the order of asking.

Several torch programs at once on the cores of one machine take longer together than one after
another, and a lock of Python's own may let one thread wait for ever.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

_LOOK_UP_S = 0.05
"""How often a waiting thread looks whether it is still wanted."""


class Turns:
    """A fair lock whose waiting threads can be called off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def pass_on(self, check: Callable[[], None]) -> None:
        """Within one's turn: let the others that wait go first.

        Args:
            check: called now and then while waiting; what it raises ends the wait.
        """
        with self._lock:
            mine = self._waiting[0]
            if len(self._waiting) == 1:
                return
            mine.clear()
            self._waiting.rotate(-1)
            self._waiting[0].set()
        while not mine.wait(_LOOK_UP_S):
            check()

    @contextlib.contextmanager
    def take(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for the turn and keep it in the block.

        Args:
            check: called now and then while waiting; what it raises ends the wait.
        """
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            if self._waiting[0] is mine:
                mine.set()
        try:
            while not mine.wait(_LOOK_UP_S):
                check()
            yield
        finally:
            with self._lock:
                self._waiting.remove(mine)
                if self._waiting:
                    self._waiting[0].set()
