"""Generators that say they are under way before they have an item."""

from collections.abc import AsyncGenerator, Generator

import pytest

from resilience import Bulkhead, Pipeline, Retry
from resilience.policy import STARTED


def test_a_generator_under_way_may_be_started_again() -> None:
    """`STARTED` is no item: a retry starts anew what failed after it, and nothing after a real item."""
    log: list[str] = []

    def answers() -> Generator[object, None, None]:
        log.append("begin")
        yield STARTED
        if len(log) < 3:
            raise ConnectionError
        yield 1
        raise ConnectionError

    generator = Pipeline("p", Retry(attempts=9, wait_initial=0, wait_max=0))(answers)()
    assert [next(generator) for _ in range(4)] == [STARTED, STARTED, STARTED, 1]
    with pytest.raises(ConnectionError):
        next(generator)
    assert len(log) == 3


async def test_an_async_generator_under_way_may_be_started_again() -> None:
    """The same for async generators."""
    log: list[str] = []

    async def answers() -> AsyncGenerator[object, None]:
        log.append("begin")
        yield STARTED
        if len(log) < 3:
            raise ConnectionError
        yield 1
        raise ConnectionError

    generator = Pipeline("p", Retry(attempts=9, wait_initial=0, wait_max=0))(answers)()
    assert [await anext(generator) for _ in range(4)] == [STARTED, STARTED, STARTED, 1]
    with pytest.raises(ConnectionError):
        await anext(generator)
    assert len(log) == 3


def test_being_under_way_holds_the_permit() -> None:
    """From `STARTED` on a place is taken; a generator dropped right after gives it back."""
    bulkhead = Bulkhead(1)

    def answers() -> Generator[object, None, None]:
        yield STARTED

    generator = Pipeline("p", bulkhead)(answers)()
    assert next(generator) is STARTED
    assert bulkhead.concurrent_calls == 1
    generator.close()
    assert bulkhead.concurrent_calls == 0
    assert repr(STARTED) == "STARTED"
