"""Retries: the cost of a call that succeeds at its first attempt, as nearly all do, or at its second attempt."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import harness
import samples
from harness import Case, Contender, Sample, Session

from resilience import Pipeline, Retry

__all__ = ("CASES",)

_HOW = "3 attempts on ConnectionError, exponential waits from 0.1 s to 5 s with jitter"


def work(order: int) -> int:
    """Do as little as a function can."""
    return order


async def awork(order: int) -> int:
    """Do as little as a coroutine can."""
    return order


def _failing_every_other_time() -> tuple[Callable[[int], int], Callable[[int], Any]]:
    """Return a function of which every other call fails, in both colours."""
    calls = itertools.count()

    def fail(order: int) -> int:
        if next(calls) % 2 == 0:
            raise ConnectionError
        return order

    async def afail(order: int) -> int:
        return fail(order)

    return fail, afail


_FAIL, _AFAIL = _failing_every_other_time()


def _twice(order: int) -> int:
    """Call a function that fails, and then once more, as the shortest code by hand."""
    try:
        return _FAIL(order)
    except ConnectionError:
        return _FAIL(order)


async def _atwice(order: int) -> Any:
    try:
        return await _AFAIL(order)
    except ConnectionError:
        return await _AFAIL(order)


def _ours(function: Callable[..., Any], **more: Any) -> Any:
    return Pipeline("bench", Retry(attempts=3, on=ConnectionError, **more))(function)


def _tenacity(function: Callable[..., Any]) -> Any:
    tenacity = harness.peer("tenacity")
    return tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5) + tenacity.wait_random(0, 1),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        reraise=True,
    )(function)


def _stamina(function: Callable[..., Any]) -> Any:
    return harness.peer("stamina").retry(on=ConnectionError, attempts=3, timeout=None)(function)


def _pyresilience(function: Callable[..., Any]) -> Any:
    module = harness.peer("pyresilience")
    config = module.RetryConfig(max_attempts=3, delay=0.1, max_delay=5, retry_on=(ConnectionError,))
    return module.resilient(retry=config)(function)


def _sync(wrap: Callable[[Callable[..., Any]], Any]) -> Callable[[Session], Sample]:
    return lambda _session: samples.calls(wrap(work), 1)


def _aio(wrap: Callable[[Callable[..., Any]], Any]) -> Callable[[Session], Sample]:
    return lambda session: samples.awaits(session, wrap(awork))


def _again(function: Callable[..., Any]) -> Any:
    return Pipeline("bench", Retry(attempts=3, on=ConnectionError, wait_initial=0, wait_jitter=0))(function)


def _tenacity_again(function: Callable[..., Any]) -> Any:
    tenacity = harness.peer("tenacity")
    return tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_none(),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        reraise=True,
    )(function)


def _contenders(colour: Callable[[Any], Callable[[Session], Sample]], budget: float) -> tuple[Contender, ...]:
    return (
        Contender("resilience", colour(_ours), _HOW, budget),
        Contender(
            "resilience, timeout=30", colour(lambda fn: _ours(fn, timeout=30)), f"{_HOW}, and at most 30 s in all"
        ),
        Contender("pyresilience", colour(_pyresilience), _HOW),
        Contender("stamina", colour(_stamina), _HOW),
        Contender("tenacity", colour(_tenacity), f"{_HOW}; reraise=True"),
    )


CASES = (
    Case(
        "retry",
        "First attempt succeeds, blocking",
        Contender("bare call", lambda _session: samples.calls(work, 1)),
        _contenders(_sync, 150),
    ),
    Case(
        "aio-retry",
        "First attempt succeeds, awaiting",
        Contender("bare call", lambda session: samples.awaits(session, awork)),
        _contenders(_aio, 230),
    ),
    Case(
        "retry-again",
        "First attempt fails, the second succeeds without a wait, blocking",
        Contender("try and call again by hand", lambda _session: samples.calls(_twice, 1)),
        (
            Contender(
                "resilience",
                lambda _session: samples.calls(_again(_failing_every_other_time()[0]), 1),
                "3 attempts on ConnectionError, no wait",
                3_000,
            ),
            Contender(
                "tenacity",
                lambda _session: samples.calls(_tenacity_again(_failing_every_other_time()[0]), 1),
                "the same; reraise=True",
            ),
        ),
    ),
    Case(
        "aio-retry-again",
        "First attempt fails, the second succeeds without a wait, awaiting",
        Contender("try and await again by hand", lambda session: samples.awaits(session, _atwice)),
        (
            Contender(
                "resilience",
                lambda session: samples.awaits(session, _again(_failing_every_other_time()[1])),
                "3 attempts on ConnectionError, no wait",
                3_500,
            ),
            Contender(
                "tenacity",
                lambda session: samples.awaits(session, _tenacity_again(_failing_every_other_time()[1])),
                "the same; reraise=True",
            ),
        ),
    ),
)
