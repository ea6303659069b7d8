"""Objects and partials are guarded as what their calls make: an awaitable, a generator, or a result."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, ConfigurationError, Pipeline


class Client:
    """What a client library's callable object may look like."""

    async def __call__(self, value: int) -> int:
        await asyncio.sleep(0)
        return value


class Rows:
    """A callable object whose calls make generators."""

    def __call__(self, count: int) -> Generator[int, None, None]:
        yield from range(count)


class Feed:
    """The same, of async generators."""

    async def __call__(self, count: int) -> AsyncGenerator[int, None]:
        for number in range(count):
            yield number


def rows(count: int) -> Generator[int, None, None]:
    yield from range(count)


@pytest.mark.parametrize("client", [Client(), functools.partial(Client()), Client().__call__])
async def test_callable_objects_wait_for_their_turn_without_holding_up_the_loop(client: Any) -> None:
    """`call` of an object with an async `__call__` awaits its admission, as of any coroutine function."""
    pipeline = Pipeline("p", Bulkhead(1, max_wait=0.5))

    async def ask(number: int) -> Any:
        return await pipeline.call(client, number)

    assert await asyncio.gather(*(ask(number) for number in range(3))) == [0, 1, 2]


ROWS: list[Callable[[int], Generator[int, None, None]]] = [Rows(), functools.partial(Rows()), functools.partial(rows)]


@pytest.mark.parametrize("make", ROWS)
def test_generators_of_callable_objects_are_guarded(make: Callable[[int], Generator[int, None, None]]) -> None:
    """What an object or a partial makes to be iterated holds its place from the first item to the end."""
    pipeline = Pipeline("p", Bulkhead(1))
    running = pipeline.call(make, 2)
    assert next(running) == 0
    with pytest.raises(BulkheadFullError):
        next(pipeline.call(make, 2))
    assert list(running) == [1]
    assert list(pipeline.call(make, 2)) == [0, 1]


async def test_async_generators_of_callable_objects_are_guarded() -> None:
    """The same for async generators."""
    pipeline = Pipeline("p", Bulkhead(1))
    running = pipeline.call(Feed(), 2)
    assert await anext(running) == 0
    with pytest.raises(BulkheadFullError):
        await anext(pipeline.call(Feed(), 2))
    assert [item async for item in running] == [1]


@pytest.mark.parametrize("make", ROWS)
def test_a_breaker_judges_generators_of_callable_objects(make: Callable[[int], Generator[int, None, None]]) -> None:
    """A breaker's own `call` scores such a generator at its end."""
    breaker = CircuitBreaker(1)
    running = breaker.call(make, 2)
    next(running)
    with pytest.raises(ConnectionError):
        running.throw(ConnectionError())
    assert breaker.current_state == "open"


@pytest.mark.parametrize("make", [*ROWS, Feed(), functools.partial(Feed())])
def test_acall_refuses_what_is_iterated(make: Any) -> None:
    """`acall` of an object or a partial that makes generators is refused, as of a generator function."""
    with pytest.raises(ConfigurationError, match=r"p\.acall=.*`call` guards generators"):
        _ = Pipeline("p").acall(make, 3)
