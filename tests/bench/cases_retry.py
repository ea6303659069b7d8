"""Retries: what a call costs that succeeds at its first attempt, which is nearly all of them."""

from __future__ import annotations

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
)
