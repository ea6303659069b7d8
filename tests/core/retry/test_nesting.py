"""Uses of a retry that work and are most likely mistakes: a retry in a retry, and a blocking retry on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience import Pipeline, Retry, Timeout
from resilience._support import usage
from resilience.errors import UsageWarning


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a process does that has given no warning."""
    monkeypatch.setattr(usage, "_known", set())


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """Collect the texts of our warnings."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
        texts += [str(each.message) for each in caught if each.category is UsageWarning]


def retrying(name: str, attempts: int | None = 3, *more: Any) -> Pipeline:
    return Pipeline(name, Retry(attempts=attempts, wait_initial=0), *more)


def fail() -> None:
    raise ConnectionError


async def fail_awaited() -> None:
    raise ConnectionError


def call(outer: Pipeline, inner: Pipeline, colour: str) -> None:
    with contextlib.suppress(ConnectionError):
        if colour == "blocking":
            outer.call(inner(fail))
        else:
            asyncio.run(outer.acall(inner(fail_awaited)))


COLOURS = pytest.mark.parametrize("colour", ["blocking", "awaiting"])


@COLOURS
@pytest.mark.parametrize("attempts", [2, 3, 5])
def test_a_retry_in_a_retry_is_said_once(colour: str, attempts: int) -> None:
    """Retries at two levels multiply: one warning names both, the number of calls, and how to stop it."""
    outer, inner = retrying("checkout", attempts), retrying("bank", attempts)
    with said() as texts:
        call(outer, inner, colour)
        call(outer, inner, colour)
    (text,) = texts
    assert text.startswith("the retry 'bank.retry' runs inside the attempts of the retry 'checkout.retry'")
    assert f"up to {attempts**2} calls for one. Retry at one level" in text


def test_a_retry_around_itself_is_said() -> None:
    """One pipeline twice above a function is a retry in a retry."""
    pipeline = retrying("bank")
    with said() as texts:
        call(pipeline, pipeline, "blocking")
    assert len(texts) == 1


def test_a_thread_of_a_timeout_is_inside() -> None:
    """The attempt of the outer retry may run in a thread of its timeout."""
    with said() as texts:
        call(retrying("checkout", 3, Timeout(10)), retrying("bank"), "blocking")
    assert len(texts) == 1


@COLOURS
def test_retries_one_after_the_other_are_fine(colour: str) -> None:
    """A retry after another one, even while the error of the first is handled, is no retry in a retry."""
    first, second, single = retrying("first"), retrying("second"), retrying("single", 1)

    async def awaited() -> None:
        for pipeline in (first, second):
            with contextlib.suppress(ConnectionError):
                await pipeline.acall(fail_awaited)
        try:
            await first.acall(fail_awaited)
        except ConnectionError:
            with contextlib.suppress(ConnectionError):
                await second.acall(fail_awaited)

    with said() as texts:
        if colour == "awaiting":
            asyncio.run(awaited())
        else:
            try:
                first.call(fail)
            except ConnectionError:
                with contextlib.suppress(ConnectionError):
                    second.call(fail)
        call(single, second, colour)
        call(second, single, colour)
    assert texts == []


def test_a_call_that_succeeded_leaves_no_mark() -> None:
    """After a call that succeeded at its last attempt, another retry is not inside of it."""
    outcomes: Iterator[Callable[[], None]] = iter([fail, fail, lambda: None])

    def outcome() -> None:
        next(outcomes)()

    with said() as texts:
        retrying("first").call(outcome)
        with contextlib.suppress(ConnectionError):
            retrying("second").call(fail)
    assert texts == []


def test_an_error_that_lives_on_keeps_no_mark_alive() -> None:
    """An error in a cycle of references keeps the record of a call that succeeded: the call is over nevertheless."""
    kept: list[ConnectionError] = []

    def twice() -> None:
        if len(kept) < 2:
            kept.append(ConnectionError())
            raise kept[-1]

    with said() as texts:
        retrying("first").call(twice)
        with contextlib.suppress(ConnectionError):
            retrying("second").call(fail)
    assert len(kept) == 2
    assert texts == []


def blocks_once() -> None:
    with contextlib.suppress(ConnectionError):
        Pipeline("bank", Retry(attempts=2, wait_initial="1ms", wait_jitter="none")).call(fail)


async def test_a_blocking_wait_on_an_event_loop_is_said_once() -> None:
    """A blocking retry in a coroutine stops the loop while it waits: one warning says so, and what to write."""
    with said() as texts:
        blocks_once()
        blocks_once()
    (text,) = texts
    assert text.startswith("bank.retry blocks a running event loop with time.sleep for 0.001 s")
    assert "await asyncio.to_thread(function, ...)" in text


async def test_a_blocking_wait_in_a_thread_is_fine() -> None:
    """A blocking retry in a thread beside the loop, or without a wait, stops nothing."""
    with said() as texts:
        await asyncio.to_thread(blocks_once)
        with contextlib.suppress(ConnectionError):
            retrying("bank").call(fail)
    assert texts == []


async def test_a_warning_that_is_an_error_gives_the_permit_back() -> None:
    """If warnings are errors, the call ends with the warning, and counts as abandoned."""
    pipeline = Pipeline("bank", Retry(attempts=2, wait_initial="1ms", wait_jitter="none"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UsageWarning)
        with pytest.raises(UsageWarning):
            pipeline.call(fail)
    assert pipeline.snapshot()["policies"][0]["retries"] == 1
