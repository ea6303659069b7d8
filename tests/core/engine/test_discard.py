"""What a failed attempt holds is released before the next one is waited for."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest

from resilience import Pipeline, Retry
from resilience.policy import PolicyBase, Replace


class HoldingError(OSError):
    """An error that holds a resource."""

    log: list[str]

    def discard(self) -> None:
        self.log.append("discarded")


def holding(log: list[str]) -> HoldingError:
    error = HoldingError("failed")
    error.log = log
    return error


class Sleeper:
    """Notes when a call waits."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def sleep(self, _seconds: float) -> None:
        self._log.append("waits")

    async def asleep(self, _seconds: float) -> None:
        self._log.append("waits")


Made = Callable[[Pipeline, Callable[[], None]], Any]


def plainly(pipeline: Pipeline, work: Callable[[], None]) -> None:
    pipeline.call(work)


def awaiting(pipeline: Pipeline, work: Callable[[], None]) -> None:
    async def call() -> None:
        work()

    asyncio.run(pipeline.acall(call))


def generating(pipeline: Pipeline, work: Callable[[], None]) -> None:
    def items() -> Generator[int, None, None]:
        work()
        yield 1

    list(pipeline(items)())


def generating_async(pipeline: Pipeline, work: Callable[[], None]) -> None:
    async def items() -> AsyncGenerator[int, None]:
        work()
        yield 1

    async def all_of() -> None:
        assert [item async for item in pipeline(items)()]

    asyncio.run(all_of())


EVERY = pytest.mark.parametrize("made", [plainly, awaiting, generating, generating_async])


@EVERY
def test_failed_attempts_are_discarded_before_the_wait(made: Made) -> None:
    """An error after which another attempt is made is discarded before the wait; the last one is the caller's."""
    log: list[str] = []

    def fail() -> None:
        log.append("fails")
        raise holding(log)

    with pytest.raises(HoldingError):
        made(Pipeline("p", Retry(2, on=OSError), sleeper=Sleeper(log)), fail)
    assert log == ["fails", "discarded", "waits", "fails"]


@pytest.mark.parametrize("made", [plainly, awaiting])
def test_replaced_errors_are_kept(made: Made) -> None:
    """An error that a policy replaces may be part of the replacement: it is not discarded."""
    log: list[str] = []

    class Instead(PolicyBase):
        def on_failure(self, _permit: Any, error: Exception, /) -> Replace:
            return Replace(error)

    def fail() -> None:
        raise holding(log)

    made(Pipeline("p", Instead()), fail)
    assert log == []


@EVERY
def test_an_interrupt_while_discarding_abandons_the_call(made: Made) -> None:
    """A call that is interrupted while it discards an error gives back the permit of the attempt that does not come."""
    retry = Retry(2, on=OSError, budget=None)

    class StuckError(HoldingError):
        def discard(self) -> None:
            raise KeyboardInterrupt

    def fail() -> None:
        raise StuckError

    with pytest.raises(KeyboardInterrupt):
        made(Pipeline("p", retry), fail)
    assert retry.snapshot()["succeeded_with_retry"] == 0


@pytest.mark.parametrize("made", ["plainly", "awaiting"])
def test_unwanted_results_are_dropped_before_the_wait(made: str) -> None:
    """A result after which another attempt is made is not referred to during the wait."""

    class Result:
        """Something that can be watched."""

    made_results: list[weakref.ref[Result]] = []
    seen: list[int] = []

    class Looking:
        def sleep(self, _seconds: float) -> None:
            gc.collect()
            seen.append(sum(result() is not None for result in made_results))

        async def asleep(self, seconds: float) -> None:
            self.sleep(seconds)

    def work() -> Result:
        result = Result()
        made_results.append(weakref.ref(result))
        return result

    async def work_later() -> Result:
        return work()

    pipeline = Pipeline("p", Retry(3, on_result=lambda _result: True), sleeper=Looking())
    if made == "plainly":
        pipeline.call(work)
    else:
        asyncio.run(pipeline.acall(work_later))
    assert seen == [0, 0]
