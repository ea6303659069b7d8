"""Which answers are closed, and by whom."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from resilience.testing import ManualClock
from resilience.timeout import Deadline
from resilience_http._exchange import ClientExchange, StepTimeouts, retry_after_of


class Answer:
    headers: dict[str, str] = {"Retry-After": "3"}  # noqa: RUF012 - never changed


def test_failed_answers_end_with_the_next_attempt() -> None:
    """What failed is closed once another attempt begins, and not again at the end."""
    exchange: ClientExchange[Answer] = ClientExchange(repeats=True)
    first, second = Answer(), Answer()
    assert list(exchange.add(first)) == []
    exchange.add_failed(first)
    assert list(exchange.take_failed()) == [first]
    assert list(exchange.take_failed()) == []
    assert list(exchange.add(second)) == []
    assert list(exchange.finish(second)) == []


def test_all_but_the_callers_are_closed() -> None:
    """At the end every answer is closed but the one the caller gets; what comes later is closed at once."""
    exchange: ClientExchange[Answer] = ClientExchange(repeats=True)
    loser, winner, late = Answer(), Answer(), Answer()
    for answer in (loser, winner):
        assert list(exchange.add(answer)) == []
    assert list(exchange.finish(winner)) == [loser]
    assert list(exchange.add(late)) == [late]


def test_an_interrupted_end_is_the_end_of_all() -> None:
    """Where the end is interrupted the caller gets no answer: what is left is closed then, and that one with it."""
    exchange: ClientExchange[Answer] = ClientExchange(repeats=True)
    losers, winner = [Answer(), Answer()], Answer()
    for answer in (*losers, winner):
        assert list(exchange.add(answer)) == []
    assert next(exchange.finish(winner)) is losers[0]
    assert list(exchange.finish(None)) == [losers[1], winner]
    assert list(exchange.finish(None)) == []


def test_the_callers_answer_is_not_useless() -> None:
    """A failed answer that became the caller's stays open, whatever attempt is late to begin."""
    exchange: ClientExchange[Answer] = ClientExchange(repeats=True)
    answer = Answer()
    assert list(exchange.add(answer)) == []
    exchange.add_failed(answer)
    assert list(exchange.finish(answer)) == []
    assert list(exchange.take_failed()) == []


def test_each_answer_is_closed_once_among_threads() -> None:
    """However the threads of one call fall out, each answer is closed once, and the caller's never."""
    with ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            exchange: ClientExchange[Answer] = ClientExchange(repeats=True)
            winner, others = Answer(), [Answer() for _ in range(3)]
            assert list(exchange.add(winner)) == []
            barrier = Barrier(4)

            def arrive(
                answer: Answer, exchange: ClientExchange[Answer] = exchange, barrier: Barrier = barrier
            ) -> list[Answer]:
                barrier.wait(5)
                return list(exchange.add(answer))

            attempts = [pool.submit(arrive, answer) for answer in others]
            barrier.wait(5)
            closed = list(exchange.finish(winner))
            for attempt in attempts:
                closed += attempt.result(5)
            assert sorted(map(id, closed)) == sorted(map(id, others))


@pytest.mark.parametrize(("status", "wait"), [(429, 3.0), (503, 3.0), (500, 3.0), (501, -1.0), (511, -1.0)])
def test_waits(status: int, wait: float) -> None:
    """A failure that may pass is tried again when the server says; one that will not is not."""
    assert retry_after_of(Answer(), status) == wait


def test_steps_share_one_deadline() -> None:
    """Each step gets what the steps before it have left, and a shorter timeout of its own stays."""
    clock = ManualClock()
    steps = StepTimeouts({"connect": 5, "read": 0.2, "pool": None}, Deadline(clock() + 1, clock=clock), 0.1)
    assert (steps.get("connect"), steps.get("read"), steps["pool"], steps.get("write")) == (
        pytest.approx(0.9), 0.2, pytest.approx(0.9), pytest.approx(0.9),
    )  # fmt: skip
    clock.advance(0.8)
    assert (steps["connect"], steps["read"]) == (pytest.approx(0.1), pytest.approx(0.1))
    before = steps.is_spent
    clock.advance(0.5)
    assert (before, steps.is_spent) == (False, True)
    assert steps["connect"] == 0.001
    with pytest.raises(KeyError):
        _ = steps["write"]


def test_steps_without_a_deadline() -> None:
    """Without a deadline the client's own timeouts are all there is."""
    steps = StepTimeouts({"connect": 5}, None, 0.1)
    assert (steps["connect"], steps.get("read"), steps.is_spent) == (5, None, False)
