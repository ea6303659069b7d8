"""Callers who wait for less than a service takes, beside users who wait for as long as it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

__all__ = ("HEADER", "PATIENCE", "Losses", "attack", "until_answer_is", "until_open")

PATIENCE = 0.02
"""Seconds for which an impatient caller waits: less than the half of what the upstreams of these tests take."""
HEADER = {"X-Request-Timeout": f"{PATIENCE}"}
_CONNECTIONS, _USERS = 5, 4
T = TypeVar("T")


class Losses(NamedTuple):
    """How many requests of others were made, how many of them failed, and how many impatient ones were made."""

    asked: int
    lost: int
    impatient: int


def attack(ask: Callable[[bool], bool], requests: int = 12) -> Losses:
    """Ask on five impatient connections, while four users who have time make `requests` each; count their losses.

    `ask` makes one request, impatient or not, and returns whether it was answered.
    """
    over = threading.Event()

    def impatient() -> int:
        asked = 0
        while not over.is_set():
            ask(True)
            asked += 1
        return asked

    def user() -> list[bool]:
        answers: list[bool] = []
        for _ in range(requests):
            answers.append(ask(False))
            time.sleep(0.01)
        return answers

    with ThreadPoolExecutor(_CONNECTIONS + _USERS) as threads:
        clients = [threads.submit(impatient) for _ in range(_CONNECTIONS)]
        try:
            time.sleep(0.3)
            users = [threads.submit(user) for _ in range(_USERS)]
            answers = [answer for each in users for answer in each.result()]
        finally:
            over.set()
        return Losses(len(answers), answers.count(False), sum(each.result() for each in clients))


def until_open(ask: Callable[[bool], bool], state: Callable[[], str], within: float = 20.0) -> bool:
    """Have impatient callers alone ask, five at a time, until the circuit is open; return whether it is, in time."""
    end = time.monotonic() + within

    def impatient() -> None:
        while time.monotonic() < end and state() != "open":
            ask(True)

    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        for client in [threads.submit(impatient) for _ in range(_CONNECTIONS)]:
            client.result()
    return state() == "open"


def until_answer_is(expected: T, ask: Callable[[], T], tries: int = 50) -> T:
    """Have one impatient caller ask until it gets the expected answer; return the last answer.

    A busy machine can use up the caller's 20 ms before the circuit is asked at all.
    """
    answer = ask()
    for _ in range(tries):
        if answer == expected:
            break
        answer = ask()
    return answer
