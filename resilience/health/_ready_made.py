"""Checks of what this process is made of: its circuits, its pools and its threads."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from resilience.errors import ConfigurationError, Problem
from resilience.health._verdict import CheckFailedError
from resilience.options import Duration, checked

__all__ = ("breaker_check", "loop_lag_check", "pool_check", "threads_check")

_OPEN = frozenset({"open", "half-open", "half_open"})
_CLOSED = frozenset({"closed", "stopped"})


class _Tolerated:
    """A check whose failure is a warning, unless `add(..., failure="fail")` says otherwise."""

    failure = "warn"

    def __init__(self, look: Callable[[], str]) -> None:
        self._look = look

    def __call__(self) -> None:
        reason = self._look()
        if reason:
            raise CheckFailedError(reason)


def breaker_check(breaker: Any) -> _Tolerated:
    """Return a check that warns while the circuit of `breaker`, ours or pybreaker's, is open.

    It never fails readiness unless asked to: every instance sees the same dependency fail, and all of them taken out of
    service at once would help nobody.
    """
    if not hasattr(breaker, "current_state"):
        raise ConfigurationError([Problem("breaker", breaker, "a CircuitBreaker")])
    return _Tolerated(lambda: _circuit(breaker))


def _circuit(breaker: Any) -> str:
    state = str(breaker.current_state)
    if state not in _OPEN:
        return ""
    left = getattr(breaker, "retry_after", None)
    return f"the circuit is {state}" + (f" for {left:.3g} s" if isinstance(left, float | int) else "")


class _Use(NamedTuple):
    in_use: float
    limit: float
    waiting: float
    is_closed: bool = False


def pool_check(pool: Any) -> _Tolerated:
    """Return a check that warns while `pool` is closed, or full with callers waiting.

    `pool` is anything whose `snapshot()` says how it is: a pool, a `Bulkhead`, a `ThreadPoolBulkhead`.
    """
    if not callable(getattr(pool, "snapshot", None)):
        raise ConfigurationError([Problem("pool", pool, "something with a snapshot()")])
    return _Tolerated(lambda: _fullness(_told(pool.snapshot()), "connections"))


def threads_check(source: Any) -> _Tolerated:
    """Return a check that warns while all threads are busy and work waits for one.

    `source` is an AnyIO `CapacityLimiter`, a `ThreadPoolExecutor`, or anything with a `snapshot()`.
    """
    look = next((look for attribute, look in _LOOKS.items() if hasattr(source, attribute)), None)
    if look is not None:
        return _Tolerated(lambda: _fullness(look(source), "threads"))
    raise ConfigurationError([Problem("source", source, "a CapacityLimiter, a ThreadPoolExecutor, or a snapshot()")])


def _fullness(use: _Use, what: str) -> str:
    if use.is_closed:
        return "it is closed"
    if use.in_use >= use.limit and use.waiting > 0:
        return f"all {use.limit:g} {what} are in use, {use.waiting:g} wait"
    return ""


def _told(snapshot: Mapping[str, Any]) -> _Use:
    return _Use(
        _figure(snapshot, 0.0, "in_use", "concurrent", "busy"),
        _figure(snapshot, math.inf, "limit", "maximum_pool_size", "maximum"),
        _figure(snapshot, 0.0, "waiting"),
        bool(snapshot.get("is_closed", snapshot.get("closed", False))) or snapshot.get("state") in _CLOSED,
    )


def _figure(snapshot: Mapping[str, Any], default: float, *names: str) -> float:
    found = next((snapshot[name] for name in names if name in snapshot), default)
    return float(found) if isinstance(found, int | float) else default


def _of_limiter(limiter: Any) -> _Use:
    return _Use(limiter.borrowed_tokens, limiter.total_tokens, limiter.statistics().tasks_waiting)


def _of_executor(executor: Any) -> _Use:
    """Look inside: nothing public says it."""
    find = operator.attrgetter("_threads", "_max_workers", "_work_queue", "_shutdown")
    threads, limit, queue, is_closed = find(executor)
    return _Use(len(threads), limit, queue.qsize(), is_closed)


_LOOKS: dict[str, Callable[[Any], _Use]] = {
    "borrowed_tokens": _of_limiter,
    "_work_queue": _of_executor,
    "snapshot": lambda source: _told(source.snapshot()),
}


def loop_lag_check(limit: Any = "500ms") -> Callable[[], Any]:
    """Return an async check that warns while the event loop is late by more than `limit` (a duration).

    The loop that asks is the one that is measured: add it to a service that is asked by `areport` or an async adapter.
    """
    from resilience.health._lag_aio import LoopLag  # noqa: PLC0415 - asyncio costs 40 ms; WSGI needs none of it

    return LoopLag(checked(limit, "limit", Duration(above=True)))
