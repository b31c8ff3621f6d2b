"""Loading models in a process that answers calls: what the calls would else notice of it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any, TypeVar

from torch.overrides import TorchFunctionMode

Made = TypeVar("Made")

_NICENESS = 5
_PAUSE_S = 5e-5


def run(work: Callable[[], Made], *, calls: bool) -> Made:
    """What `work` returns, in a thread that gives way.

    A thread of its own, which ends with the work, gives its memory back too: what ten releases of
    `tiny` left behind fell from 7 % to 2 % (benchmarks/service/reload.py).

    Args:
        calls: whether calls may be answered meanwhile.
    """

    def paced() -> Made:
        with _Pauses() if calls else contextlib.nullcontext():
            return work()

    with ThreadPoolExecutor(1, "load", initializer=_be_nice) as aside:
        return aside.submit(paced).result()


def give_back_memory() -> None:
    """Return what is no longer used to the system.

    Models refer to themselves, and glibc keeps what was freed between pieces that are not: a
    service grew by some 25 MB with each release of `tiny`.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@functools.cache
def spare_libraries() -> None:
    """Keep the libraries' half a million objects out of later garbage collections: one took 0.3 s,
    in which no call went on, after every release."""
    importlib.import_module("TTS.tts.models.xtts")
    gc.collect()
    gc.freeze()


def _be_nice() -> None:
    """Let the threads that answer calls go before this one and those that it starts."""
    if sys.platform == "linux":
        niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
        # Where the system does not allow it, a load is worth more than its place in the order.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


class _Pauses(TorchFunctionMode):
    """Offers the interpreter to other threads between operations of torch.

    Modules are built in Python for a third of a second. A thread that speaks gives the interpreter
    up in each of its own operations, and would get it back only after 5 ms each time (CPython's
    switch interval): it stood still for as long.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sleep(_PAUSE_S)
        return func(*args, **(kwargs or {}))
