"""The places for calls, and the queue before them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest

from xtts_core.errors import OverloadedError
from xtts_grpc.places import CallEndedError, Places


class Call:
    """A call that a test ends; it says when it began to wait for its end."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self._active = True
        self._told: list[Callable[[], None]] = []

    def is_active(self) -> bool:
        return self._active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if not self._active:
            return False
        self._told.append(callback)
        self.waits.set()
        return True

    def end(self) -> None:
        self._active = False
        for callback in self._told:
            callback()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def begin(places: Places, threads: ThreadPoolExecutor, served: list[Call]) -> tuple[Call, Future]:
    """A call that waits in the queue; once it has a place it is noted as served."""
    call = Call()

    def work() -> None:
        with places.one(call):
            served.append(call)

    future = threads.submit(work)
    assert call.waits.wait(30)
    return call, future


def test_calls_are_answered_in_the_order_in_which_they_came(threads):
    places, served = Places(1, 5), []
    with places.one(Call()):
        waiting = [begin(places, threads, served) for _ in range(5)]
    for _, future in waiting:
        future.result(30)
    assert served == [call for call, _ in waiting]


def test_a_call_that_ends_while_it_waits_is_not_answered_and_gives_up_its_turn(threads):
    places, served = Places(1, 2), []
    with places.one(Call()):
        (gone, failed), (stays, answered) = (begin(places, threads, served) for _ in range(2))
        with pytest.raises(OverloadedError), places.one(Call()):
            pass
        gone.end()
        with pytest.raises(CallEndedError):
            failed.result(30)
        last, answered_last = begin(places, threads, served)
    answered.result(30)
    answered_last.result(30)
    assert served == [stays, last]


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_a_call_gives_up_its_turn_when_its_caller_does(how):
    places, reached, gave_up = Places(1, 1), threading.Event(), threading.Event()

    def speak(_: bytes, context: grpc.ServicerContext) -> bytes:
        reached.set()
        with contextlib.suppress(CallEndedError), places.one(context):
            return b"spoken"
        gave_up.set()
        return b""

    method = grpc.unary_unary_rpc_method_handler(speak)
    server = grpc.server(
        ThreadPoolExecutor(1),
        handlers=[grpc.method_handlers_generic_handler("test", {"Speak": method})],
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with places.one(Call()), grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/test/Speak").future(b"", timeout=1 if how == "late" else 60)
        assert reached.wait(30)
        if how == "cancelled":
            call.cancel()
        assert gave_up.wait(30), "the place was held all the time"
    server.stop(None).wait()


def test_a_call_that_has_ended_already_takes_no_place():
    places, ended = Places(1, 1), Call()
    ended.end()
    with pytest.raises(CallEndedError), places.one(ended):
        pass
    with places.one(Call()), pytest.raises(CallEndedError), places.one(ended):
        pass
    with places.one(Call()):
        pass


def test_a_call_that_fails_gives_its_place_back():
    places = Places(1, 0)
    with pytest.raises(ZeroDivisionError), places.one(Call()):
        raise ZeroDivisionError
    with places.one(Call()):
        pass


def test_the_hint_grows_with_the_queue_and_shrinks_with_the_places(threads):
    def hint(places: Places, waiting: int) -> float:
        served: list[Call] = []
        with places.one(Call()):
            calls = [begin(places, threads, served) for _ in range(waiting)]
            with pytest.raises(OverloadedError) as refused, places.one(Call()):
                pass
        for _, future in calls:
            future.result(30)
        return refused.value.retry_after_s

    assert hint(Places(1, 0), 0) == pytest.approx(1.0)
    assert hint(Places(1, 3), 3) == pytest.approx(4.0)
    two = Places(2, 0)
    with two.one(Call()):
        assert hint(two, 0) == pytest.approx(0.5)


def test_the_hint_follows_how_long_calls_last():
    places = Places(1, 0)
    for _ in range(32):
        with places.one(Call()):
            pass
    with (
        places.one(Call()),
        pytest.raises(OverloadedError) as refused,
        places.one(Call()),
    ):
        pass
    assert 0 < refused.value.retry_after_s < 1.0
