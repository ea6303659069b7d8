"""Generators and blocks that are dropped while they hold a permit (L2)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from resilience import Bulkhead, Pipeline


@pytest.fixture(params=[0, 1], ids=["refuses", "waits"])
def bulkhead(request: pytest.FixtureRequest) -> Bulkhead:
    return Bulkhead(1, request.param)


async def items() -> AsyncGenerator[int, None]:
    yield 1
    yield 2


async def begun(generator: AsyncGenerator[int, None]) -> AsyncGenerator[int, None]:
    assert await anext(generator) == 1
    return generator


async def entered(guard: Any) -> Any:
    await guard.__aenter__()
    return guard


def left_in(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run `coroutine` and drop its result."""
    loop.run_until_complete(coroutine)
    gc.collect()


@pytest.mark.parametrize("kind", ["generator", "block"])
def test_in_a_loop_that_runs_on(bulkhead: Bulkhead, kind: str) -> None:
    """An async generator or block that is dropped gives its place back when its loop runs again."""
    pipeline = Pipeline("p", bulkhead)
    loop = asyncio.new_event_loop()
    left_in(loop, begun(pipeline(items)()) if kind == "generator" else entered(pipeline.guard()))
    loop.run_until_complete(asyncio.sleep(0.01))
    assert bulkhead.concurrent_calls == 0
    loop.close()


@pytest.mark.parametrize("kind", ["generator", "block"])
def test_after_its_loop_was_closed(bulkhead: Bulkhead, kind: str) -> None:
    """An async generator or block gives its place back even if its loop was closed without its generators."""
    pipeline = Pipeline("p", bulkhead)
    loop = asyncio.new_event_loop()
    held = loop.run_until_complete(begun(pipeline(items)()) if kind == "generator" else entered(pipeline.guard()))
    loop.close()
    assert bulkhead.concurrent_calls == 1
    del held
    gc.collect()
    assert bulkhead.concurrent_calls == 0


def test_blocking_block(bulkhead: Bulkhead) -> None:
    """A block that was entered, and is dropped before it is left, gives its place back."""
    guard = Pipeline("p", bulkhead).guard()
    guard.__enter__()
    assert bulkhead.concurrent_calls == 1
    del guard
    gc.collect()
    assert bulkhead.concurrent_calls == 0


@pytest.mark.parametrize("end", ["finished", "failed", "closed"])
def test_places_are_given_back_once(bulkhead: Bulkhead, end: str) -> None:
    """An async generator that ended gives its place back once, not again when it is collected."""

    async def to_its_end() -> None:
        generator = Pipeline("p", bulkhead)(items)()
        assert await anext(generator) == 1
        if end == "finished":
            assert [item async for item in generator] == [2]
        elif end == "failed":
            with pytest.raises(OSError, match="here"):
                await generator.athrow(OSError("here"))
        else:
            await generator.aclose()
        assert bulkhead.concurrent_calls == 0

    asyncio.run(to_its_end())
    gc.collect()
    assert bulkhead.concurrent_calls == 0


class Holder:
    """Refers to itself, so that only the garbage collector takes it."""

    def __init__(self, generator: AsyncGenerator[int, None]) -> None:
        self.generator, self.me = generator, self


@pytest.mark.parametrize("thread", ["here", "elsewhere"])
async def test_places_are_given_back_once_if_generator_and_place_are_collected_together(
    bulkhead: Bulkhead, thread: str
) -> None:
    """The garbage collector finds the generator and the object that holds its place; only one of them gives it back."""
    for _ in range(5):
        Holder(await begun(Pipeline("p", bulkhead)(items)()))
        await (asyncio.to_thread(gc.collect) if thread == "elsewhere" else asyncio.sleep(0))
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        assert bulkhead.concurrent_calls == 0
