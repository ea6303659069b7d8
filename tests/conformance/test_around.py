"""The laws of policies that own the call, in both colours."""

import asyncio
from collections.abc import Callable
from typing import Any

import example_modules
import pytest

from resilience import Cache, Fallback, Pipeline, SingleFlight, Timeout

MAKES: dict[str, Callable[[], Any]] = {
    "cache": Cache,
    "cache, stale on error": lambda: Cache(stale_on_error=60),
    "fallback": lambda: Fallback(0, on=KeyError, on_result=lambda result: result == "unwanted"),
    "single flight": SingleFlight,
    "timeout": lambda: Timeout(60),
}
plugin = example_modules.load("plugin_steps")
THIRD_PARTY: dict[str, Callable[[], Any]] = {"last answer": plugin.LastAnswer, "one thread": plugin.OneThread}
builtin = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
around = pytest.mark.parametrize("make", [*MAKES.values(), *THIRD_PARTY.values()], ids=[*MAKES, *THIRD_PARTY])


class BoomError(Exception):
    """What a guarded function raises."""


def act(outcome: Any) -> Any:
    """Raise or return `outcome`."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


async def aact(outcome: Any) -> Any:
    """Raise or return `outcome`, later."""
    await asyncio.sleep(0)
    return act(outcome)


def ended(call: Callable[..., Any], *args: Any) -> Any:
    """Return what came out of `call`, raised or returned."""
    try:
        return call(*args)
    except BaseException as error:  # noqa: BLE001 - whatever came out is asked for
        return error


async def aended(call: Callable[..., Any], *args: Any) -> Any:
    """Return what came out of awaiting `call`, raised or returned."""
    try:
        return await call(*args)
    except BaseException as error:  # noqa: BLE001 - whatever came out is asked for
        return error


@around
async def test_outcomes_pass_through_as_they_are(make: Callable[[], Any]) -> None:
    """A result, an error and an interrupt reach the caller as the very object, alone and inside another policy."""
    for policies in ((make,), (lambda: Timeout(60, name="outer"), make), (make, lambda: Timeout(60, name="inner"))):
        for outcome in (None, object(), BoomError(), KeyboardInterrupt(), asyncio.CancelledError()):
            pipeline = Pipeline("p", *(each() for each in policies))
            assert ended(pipeline(act), outcome) is outcome
            assert ended(pipeline.call, act, outcome) is outcome
            if not isinstance(outcome, KeyboardInterrupt):  # it would end the loop
                assert await aended(pipeline(aact), outcome) is outcome
                assert await aended(pipeline.acall, aact, outcome) is outcome


@around
async def test_a_cancelled_caller_is_cancelled(make: Callable[[], Any]) -> None:
    """Cancelling the caller cancels the call, and the caller hears of it when the call has ended."""
    log: list[str] = []

    async def hang() -> None:
        try:
            log.append("began")
            await asyncio.sleep(60)
        finally:
            log.append("ended")

    task = asyncio.ensure_future(Pipeline("p", make())(hang)())
    while not log:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["began", "ended"]


@builtin
def test_says_what_it_is(make: Callable[[], Any]) -> None:
    """It has a kind and a name, describes itself as plain data, and shows how it is without changing anything."""
    pipeline = Pipeline("p", make())
    (told,) = pipeline.describe()["policies"]
    assert told["name"] == f"p.{told['kind']}"
    assert pipeline.snapshot() == pipeline.snapshot()
    assert repr(told["name"]) in repr(pipeline)
