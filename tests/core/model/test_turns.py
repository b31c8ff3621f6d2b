"""Who computes next."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from xtts_core.model.turns import Turns


class LeftError(Exception):
    """Nobody waits for the work any more."""


def unwatched() -> None:
    """Who may wait for ever."""


def in_line(turns: Turns, pool: ThreadPoolExecutor, name: str, order: list[str]) -> Future[None]:
    """Ask for the turn in another thread, and come back once it stands in line."""
    stands = threading.Event()

    def work() -> None:
        with turns.take(stands.set):
            order.append(name)

    asked = pool.submit(work)
    assert stands.wait(30)
    return asked


def test_the_turn_goes_to_who_asked_first() -> None:
    turns, order = Turns(), list[str]()
    with ThreadPoolExecutor(4) as pool:
        with turns.take(unwatched):
            asked = [in_line(turns, pool, name, order) for name in "abcd"]
        for each in asked:
            each.result(30)
    assert order == list("abcd")


def test_who_waits_no_longer_leaves_the_line_as_it_was() -> None:
    turns, order = Turns(), list[str]()
    looks = 0

    def leave() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise LeftError

    def impatient() -> None:
        with turns.take(leave):
            order.append("impatient")

    with ThreadPoolExecutor(3) as pool:
        with turns.take(unwatched):
            first = in_line(turns, pool, "a", order)
            left = pool.submit(impatient)
            last = in_line(turns, pool, "b", order)
            with pytest.raises(LeftError):
                left.result(30)
        first.result(30)
        last.result(30)
    assert order == ["a", "b"]


def test_within_a_turn_those_who_wait_may_go_first() -> None:
    turns, order = Turns(), list[str]()
    with ThreadPoolExecutor(2) as pool, turns.take(unwatched):
        turns.pass_on(unwatched)
        order.append("alone")
        asked = [in_line(turns, pool, name, order) for name in "ab"]
        turns.pass_on(unwatched)
        order.append("back")
        for each in asked:
            each.result(30)
    assert order == ["alone", "a", "b", "back"]


def test_a_turn_that_was_passed_on_can_be_given_up() -> None:
    turns = Turns()
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with turns.take(taken.set):
            assert over.wait(30)

    def leave() -> None:
        raise LeftError

    def give_up() -> None:
        with turns.take(unwatched):
            asked.append(pool.submit(hold))
            assert taken.wait(30)
            turns.pass_on(leave)

    asked: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(LeftError):
            give_up()
        over.set()
        asked[0].result(30)
    with turns.take(leave):
        pass
