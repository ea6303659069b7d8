"""Several policies around one call, every one of them letting it through."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import harness
import samples
from harness import Case, Contender, Sample, Session

from resilience import Bulkhead, CircuitBreaker, Pipeline, RateLimit, Retry, Timeout

__all__ = ("CASES",)

_PLENTY = "1000000000/second"
_HOW = "3 attempts; 50 % of 100 calls opens; a rate never reached; 20 calls at once"


def work(order: int) -> int:
    """Do as little as a function can."""
    return order


async def awork(order: int) -> int:
    """Do as little as a coroutine can."""
    return order


def _ours(*more: Any) -> Pipeline:
    return Pipeline(
        "bench",
        Retry(attempts=3, on=ConnectionError),
        CircuitBreaker(failure_rate_threshold=0.5, sliding_window=100, minimum_calls=20),
        RateLimit(_PLENTY),
        Bulkhead(max_concurrent_calls=20),
        *more,
    )


def _pyresilience(function: Callable[..., Any], **more: Any) -> Any:
    module = harness.peer("pyresilience")
    return module.resilient(
        retry=module.RetryConfig(max_attempts=3, delay=0.1, max_delay=5, retry_on=(ConnectionError,)),
        circuit_breaker=module.CircuitBreakerConfig(
            sliding_window_size=100, failure_rate_threshold=0.5, minimum_calls=20
        ),
        rate_limiter=module.RateLimiterConfig(max_calls=10**9, period=1),
        bulkhead=module.BulkheadConfig(max_concurrent=20),
        **more,
    )(function)


def _tenacity(function: Callable[..., Any]) -> Any:
    tenacity = harness.peer("tenacity")
    return tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5) + tenacity.wait_random(0, 1),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        reraise=True,
    )(function)


def _by_hand(_session: Session) -> Sample:
    """Compose what a team has today: tenacity around pybreaker around limits around a semaphore."""
    limits = harness.peer("limits")
    limiter = harness.peer("limits.strategies").FixedWindowRateLimiter(limits.storage.MemoryStorage())
    rate, places = limits.parse(_PLENTY), threading.BoundedSemaphore(20)
    breaker = harness.peer("pybreaker").CircuitBreaker(fail_max=5)

    def guarded(order: int) -> int:
        if not limiter.hit(rate, "client-7"):
            raise PermissionError
        if not places.acquire(blocking=False):
            raise BlockingIOError
        try:
            return work(order)
        finally:
            places.release()

    return samples.calls(_tenacity(breaker(guarded)), 1)


def _by_hand_aio(session: Session) -> Sample:
    circuitbreaker, limits = harness.peer("circuitbreaker"), harness.peer("limits.aio")
    loop = session.new_loop()
    storage = loop.run_until_complete(_inside_loop(limits.storage.MemoryStorage))
    limiter = harness.peer("limits.aio.strategies").FixedWindowRateLimiter(storage)
    rate, places = harness.peer("limits").parse(_PLENTY), asyncio.BoundedSemaphore(20)

    async def guarded(order: int) -> int:
        if not await limiter.hit(rate, "client-7"):
            raise PermissionError
        async with places, asyncio.timeout(0.8):
            return await awork(order)

    broken = circuitbreaker.circuit(failure_threshold=5, name="bench-by-hand")(guarded)
    return samples.awaits(session, _tenacity(broken), loop)


async def _inside_loop(build: Callable[[], Any]) -> Any:
    return build()


def _pyresilience_aio(session: Session) -> Sample:
    timed = functools.partial(harness.peer("pyresilience").TimeoutConfig, seconds=0.8)
    return samples.awaits(session, _pyresilience(awork, timeout=timed()))


CASES = (
    Case(
        "chain",
        "Retry, breaker, rate limit, bulkhead, blocking",
        Contender("bare call", lambda _session: samples.calls(work, 1)),
        (
            Contender("resilience", lambda _session: samples.calls(_ours()(work), 1), _HOW, 1500),
            Contender("pyresilience", lambda _session: samples.calls(_pyresilience(work), 1), _HOW),
            Contender(
                "tenacity + pybreaker + limits",
                _by_hand,
                "stacked decorators, fixed window, a threading.BoundedSemaphore; 5 failures in a row open",
            ),
        ),
    ),
    Case(
        "aio-chain",
        "The same and a timeout, awaiting",
        Contender("bare call", lambda session: samples.awaits(session, awork)),
        (
            Contender(
                "resilience",
                lambda session: samples.awaits(session, _ours(Timeout(0.8))(awork)),
                f"{_HOW}; 0.8 s",
                3500,
            ),
            Contender(
                "resilience, without the timeout",
                lambda session: samples.awaits(session, _ours()(awork)),
                _HOW,
            ),
            Contender("pyresilience", _pyresilience_aio, f"{_HOW}; 0.8 s"),
            Contender(
                "tenacity + circuitbreaker + limits",
                _by_hand_aio,
                "stacked decorators, limits.aio fixed window, asyncio.BoundedSemaphore, asyncio.timeout(0.8)",
            ),
        ),
    ),
)
