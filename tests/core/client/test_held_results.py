"""A place that is held while the answer is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, Keyed, Pipeline
from resilience.client import while_open


class Answer:
    """Settles what it is told to when it is closed; one that is complete needs no closing."""

    def __init__(self, *, is_complete: bool = False) -> None:
        self.is_complete = is_complete
        self.settles: list[Callable[[], None]] = []

    def close(self) -> None:
        while self.settles:
            self.settles.pop()()


def when_closed(answer: Any, settle: Callable[[], None]) -> bool:
    if not isinstance(answer, Answer) or answer.is_complete:
        return False
    answer.settles.append(settle)
    return True


def test_place_is_held_until_closed() -> None:
    """A successful call keeps its place until its result is closed; then it is free, once."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline("p", while_open(bulkhead, when_closed))
    answer = pipeline.call(Answer)
    assert (bulkhead.is_idle, pipeline.policies[0].name) == (False, "p.bulkhead")
    with pytest.raises(BulkheadFullError):
        pipeline.call(Answer)
    answer.close()
    answer.close()
    assert bulkhead.is_idle
    pipeline.call(Answer, is_complete=True)
    assert bulkhead.is_idle


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, asyncio.CancelledError])
def test_failed_calls_hold_nothing(error: type[BaseException]) -> None:
    """A call that fails, or is interrupted, gives its place back at once."""
    bulkhead = Bulkhead(1)

    def fail() -> None:
        raise error

    with pytest.raises(error):
        Pipeline("p", while_open(bulkhead, when_closed)).call(fail)
    assert bulkhead.is_idle


async def test_waiting_for_a_place() -> None:
    """Who waits for a place gets it when an answer is closed, in both colours."""
    pipeline = Pipeline("p", while_open(Bulkhead(1, max_wait=5), when_closed))

    async def answer() -> Answer:
        return Answer()

    first = await pipeline.acall(answer)
    waiting = asyncio.create_task(pipeline.acall(answer))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.close()
    second = await asyncio.wait_for(waiting, 5)
    blocked = asyncio.create_task(asyncio.to_thread(pipeline.call, Answer))
    await asyncio.sleep(0.02)
    assert not blocked.done()
    second.close()
    (await asyncio.wait_for(blocked, 5)).close()


def test_each_key_holds_its_own() -> None:
    """Bulkheads by key are held each for itself, and a busy key is not forgotten."""
    keyed = Keyed(lambda _key: Bulkhead(1), key=lambda key: key, max_keys=1)
    pipeline = Pipeline("p", while_open(keyed, when_closed))

    def ask(_key: str) -> Answer:
        return Answer()

    first, second = pipeline.call(ask, "a"), pipeline.call(ask, "b")
    with pytest.raises(BulkheadFullError):
        pipeline(ask)("a")
    first.close()
    pipeline(ask)("a").close()
    second.close()
    assert set(pipeline.snapshot()["policies"][0]["each"]) == {"a", "b"}


def test_it_is_the_policy_it_was_given() -> None:
    """Name, kind, figures and events are the policy's own, and other policies are left as they are."""
    bulkhead, breaker = Bulkhead(3, name="places"), CircuitBreaker()
    held: Any = while_open(bulkhead, when_closed)
    assert (held.name, held.kind, held.events) == ("places", "bulkhead", bulkhead.events)
    assert (held.describe(), held.snapshot()) == (bulkhead.describe(), bulkhead.snapshot())
    bulkhead.name = "other"
    assert held.name == "other"
    assert "Bulkhead" in repr(held)
    assert while_open(breaker, when_closed) is breaker
    by_key = Keyed(lambda _key: CircuitBreaker(), key=lambda key: key)
    assert while_open(by_key, when_closed) is by_key
