"""Caches and single flights: the cost of a hit, and of an unshared call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import harness
import samples
from harness import Case, Contender, Sample, Session

from resilience import Cache, Pipeline, SingleFlight

__all__ = ("CASES",)

_HOW = "1,024 results for 60 s, by the arguments"


def work(order: int) -> int:
    """Do as little as a function can."""
    return order


async def awork(order: int) -> int:
    """Do as little as a coroutine can."""
    return order


def _cache(function: Callable[..., Any]) -> Any:
    return Pipeline("bench", Cache(60))(function)


def _single(function: Callable[..., Any]) -> Any:
    return Pipeline("bench", SingleFlight())(function)


def _cachetools(function: Callable[..., Any]) -> Any:
    cachetools = harness.peer("cachetools")
    return cachetools.cached(cachetools.TTLCache(1024, 60), lock=threading.Lock())(function)


def _pyresilience(function: Callable[..., Any]) -> Any:
    module = harness.peer("pyresilience")
    return module.resilient(cache=module.CacheConfig(max_size=1024, ttl=60))(function)


def _sync(wrap: Callable[[Callable[..., Any]], Any]) -> Callable[[Session], Sample]:
    return lambda _session: samples.calls(wrap(work), 1)


def _aio(wrap: Callable[[Callable[..., Any]], Any]) -> Callable[[Session], Sample]:
    return lambda session: samples.awaits(session, wrap(awork))


CASES = (
    Case(
        "cache",
        "A hit, blocking",
        Contender("bare call", lambda _session: samples.calls(work, 1)),
        (
            Contender("resilience", _sync(_cache), _HOW),
            Contender("cachetools", _sync(_cachetools), f"{_HOW}; `cached(TTLCache(...), lock=Lock())`"),
            Contender("pyresilience", _sync(_pyresilience), _HOW),
        ),
    ),
    Case(
        "aio-cache",
        "A hit, awaiting",
        Contender("bare call", lambda session: samples.awaits(session, awork)),
        (
            Contender("resilience", _aio(_cache), _HOW),
            Contender("pyresilience", _aio(_pyresilience), _HOW),
        ),
    ),
    Case(
        "single-flight",
        "An unshared call, blocking",
        Contender("bare call", lambda _session: samples.calls(work, 1)),
        (Contender("resilience", _sync(_single), "by the arguments"),),
    ),
    Case(
        "aio-single-flight",
        "An unshared call, awaiting",
        Contender("bare call", lambda session: samples.awaits(session, awork)),
        (Contender("resilience", _aio(_single), "by the arguments; the call has its own task"),),
    ),
)
