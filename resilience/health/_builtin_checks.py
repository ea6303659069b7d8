"""Checks of the parts of a process: circuits, pools, threads, the event loop and Redis.

Each is a warning by default. Add it with `failure="fail"` to take an instance out of service.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from resilience.errors import ConfigurationError, Problem, one_line, span
from resilience.health._check import CheckFailedError
from resilience.health._options import PoolCheckOptions
from resilience.options import Duration, checked
from resilience.running import running_loop

__all__ = ("breaker_check", "loop_lag_check", "pool_check", "redis_check", "threads_check")

Figures: TypeAlias = Mapping[str, Any]
"""A snapshot."""
_NOT_CLOSED = frozenset({"open", "half-open", "half_open"})
_CLOSED_POOL = frozenset({"closed", "stopped"})
_MAX_NAMES, _LONGEST_NAME = 5, 80
_SAMPLE = 0.01
_SAMPLES = 3


class WarningCheck:
    """A check whose failure is a warning, unless `Health.add(..., failure="fail")` says otherwise."""

    def __init__(self, find_reason: Callable[[], str], failure: str = "warn") -> None:
        self._find_reason, self.failure = find_reason, failure

    def __call__(self) -> None:
        """Raise `CheckFailedError` if there is a reason."""
        reason = self._find_reason()
        if reason:
            raise CheckFailedError(reason)


def breaker_check(breaker: Any) -> WarningCheck:
    """Return a check that warns while a circuit of `breaker` is not closed, and names it.

    It does not fail readiness by default: all instances see the same dependency fail, and taking all of them out of
    service would not help.

    Args:
        breaker: A `CircuitBreaker`, of this library or of pybreaker; a `Keyed` of breakers; or a pipeline, whose
            breakers are all checked. The pipeline of a toolkit includes the circuits of its clients, by host. The
            reason names at most five circuits and the number of the others.

    Raises:
        ConfigurationError: `breaker` is none of these.

    Example:
        >>> from resilience import CircuitBreaker
        >>> breaker_check(CircuitBreaker())()  # raises nothing: the circuit is closed
    """
    if hasattr(breaker, "current_state"):
        return WarningCheck(lambda: _reason_of_breaker(breaker))
    if getattr(breaker, "kind", "") == "breaker" and hasattr(breaker, "template"):
        return WarningCheck(lambda: _reason_of_circuits(_not_closed({"kind": "breaker", **breaker.snapshot()})))
    if hasattr(breaker, "policies") and callable(getattr(breaker, "snapshot", None)):
        return WarningCheck(lambda: _reason_of_circuits(_circuits_of_pipeline(breaker.snapshot())))
    raise ConfigurationError([Problem("breaker", breaker, "a CircuitBreaker, a Keyed of breakers, or a pipeline")])


def _circuits_of_pipeline(snapshot: Figures) -> Iterator[str]:
    for policy in (*snapshot["policies"], *snapshot.get("clients", ())):
        yield from _not_closed(policy)


def _not_closed(policy: Figures) -> Iterator[str]:
    """Yield the circuits of a policy that are not closed: the keys, or the name of a policy without keys."""
    if policy["kind"] != "breaker":
        return
    for name, figures in policy["each"].items() if "each" in policy else ((policy["name"], policy),):
        if str(figures.get("state", "")) in _NOT_CLOSED:
            yield f"{one_line(name, _LONGEST_NAME)} is {figures['state']}"


def _reason_of_circuits(found: Iterable[str]) -> str:
    names = list(found)
    more = f" and {len(names) - _MAX_NAMES} more circuits" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _reason_of_breaker(breaker: Any) -> str:
    state = str(breaker.current_state)
    if state not in _NOT_CLOSED:
        return ""
    left = getattr(breaker, "retry_after", None)
    return f"the circuit is {state}" + (f" for {left:.3g} s" if isinstance(left, float | int) else "")


class _Usage(NamedTuple):
    in_use: float
    limit: float
    waiting: float
    is_closed: bool = False

    def reason(self, unit: str) -> str:
        """Return why this is a failure, empty if it is none."""
        if self.is_closed:
            return "it is closed"
        if self.in_use >= self.limit and self.waiting > 0:
            return f"all {self.limit:g} {unit} are in use, {self.waiting:g} wait"
        return ""


def pool_check(pool: Any, exhausted_for: Any = "10s", failure: str = "warn") -> WarningCheck:
    """Return a check that warns while `pool` is closed, cannot connect, or has been exhausted for too long.

    A `Pool` cannot connect if it has no connection and its last attempt failed. It is exhausted while borrowers wait.
    It goes on with attempts even if no borrower comes, so an instance that left the service comes back. Of a pool that
    does not say for how long it has been exhausted, the check warns while it is full and callers wait.

    It does not fail readiness by default: all instances see the same server fail, and taking all of them out of service
    would not help.

    Args:
        pool: An object with `snapshot()`: a `Pool`, an `AsyncPool`, a `Bulkhead`, a `ThreadPoolBulkhead`.
        exhausted_for: The time for which borrowers may wait without a break: seconds, a `timedelta` or text.
        failure: `warn`, or `fail` to take the instance out of service.

    Raises:
        ConfigurationError: `pool` has no `snapshot()`, or an option is wrong.

    Example:
        >>> from resilience import Pool
        >>> pool = Pool(object)
        >>> pool_check(pool)()  # raises nothing
        >>> pool.close()
        >>> pool_check(pool)()
        Traceback (most recent call last):
        resilience.health._check.CheckFailedError: it is closed
    """
    if not callable(getattr(pool, "snapshot", None)):
        raise ConfigurationError([Problem("pool", pool, "something with a snapshot()")])
    options = PoolCheckOptions(exhausted_for=exhausted_for, failure=failure)
    return WarningCheck(lambda: _reason_of_pool(pool.snapshot(), options.exhausted_for), options.failure)


def _reason_of_pool(snapshot: Figures, exhausted_for: float) -> str:
    usage = _usage_of_snapshot(snapshot)
    if "exhausted_for" not in snapshot or usage.is_closed:
        return usage.reason("connections")
    if not snapshot["total"] and snapshot["last_error"]:
        return f"it has no connection, and cannot connect: {snapshot['last_error']}"
    waited = snapshot["exhausted_for"]
    if waited is None or waited <= exhausted_for:
        return ""
    used = f"{usage.in_use:g} of {usage.limit:g} connections are in use, {usage.waiting:g} borrowers wait"
    return f"borrowers have waited for {span(waited)}, longer than {span(exhausted_for)}: {used}"


def threads_check(source: Any) -> WarningCheck:
    """Return a check that warns while all threads are busy and work waits for a thread.

    Args:
        source: An AnyIO `CapacityLimiter`, a `ThreadPoolExecutor`, or an object with `snapshot()`.

    Raises:
        ConfigurationError: `source` is none of these.
    """
    usage_of = next((usage_of for attribute, usage_of in _SOURCES.items() if hasattr(source, attribute)), None)
    if usage_of is not None:
        return WarningCheck(lambda: usage_of(source).reason("threads"))
    raise ConfigurationError([Problem("source", source, "a CapacityLimiter, a ThreadPoolExecutor, or a snapshot()")])


def _usage_of_snapshot(snapshot: Figures) -> _Usage:
    return _Usage(
        _number(snapshot, 0.0, "in_use", "concurrent", "busy"),
        _number(snapshot, math.inf, "limit", "maximum_pool_size", "maximum"),
        _number(snapshot, 0.0, "waiting"),
        bool(snapshot.get("is_closed", snapshot.get("closed", False))) or snapshot.get("state") in _CLOSED_POOL,
    )


def _number(snapshot: Figures, default: float, *names: str) -> float:
    found = next((snapshot[name] for name in names if name in snapshot), default)
    return float(found) if isinstance(found, int | float) else default


def _usage_of_limiter(limiter: Any) -> _Usage:
    return _Usage(limiter.borrowed_tokens, limiter.total_tokens, limiter.statistics().tasks_waiting)


def _usage_of_executor(executor: Any) -> _Usage:
    """Read private attributes: no public one says how many calls wait."""
    find = operator.attrgetter("_threads", "_max_workers", "_work_queue", "_shutdown")
    threads, limit, queue, is_closed = find(executor)
    return _Usage(len(threads), limit, queue.qsize(), is_closed)


_SOURCES: dict[str, Callable[[Any], _Usage]] = {
    "borrowed_tokens": _usage_of_limiter,
    "_work_queue": _usage_of_executor,
    "snapshot": lambda source: _usage_of_snapshot(source.snapshot()),
}
"""By the attribute that identifies the kind of source."""


def loop_lag_check(limit: Any = "500ms") -> Callable[[], Any]:
    """Return an async check that warns while the event loop is late by more than `limit`.

    The check measures the loop that runs it. Add it to a service that calls `areport`, or that uses an async adapter.

    Args:
        limit: A duration above 0.

    Raises:
        ConfigurationError: `limit` is not a duration.
    """
    return _LoopLag(checked(limit, "limit", Duration(above=True)))


class _LoopLag:
    """Sleeps for a moment, several times, and measures how much longer that took."""

    failure = "warn"

    def __init__(self, limit: float) -> None:
        self._limit = limit

    async def __call__(self) -> None:
        import asyncio  # noqa: PLC0415 - it costs 40 ms; the code that awaits this has imported it already

        loop = running_loop("LoopLag")
        worst = 0.0
        for _ in range(_SAMPLES):
            began = loop.time()
            await asyncio.sleep(_SAMPLE)
            worst = max(worst, loop.time() - began - _SAMPLE)
        if worst > self._limit:
            raise CheckFailedError(f"the event loop is {worst:.3g} s late, allowed {self._limit:g} s")


def redis_check(connection: Any) -> Callable[[], Any]:
    """Return a check that warns while Redis cannot serve limiters, for `health.add("redis", ...)`.

    The check runs a script with the commands of a limiter on a key of its own, `{<prefix>:ratelimit:.probe:}`. So it
    finds a read-only replica, a full server, missing rights and a node of a cluster, all of which answer PING.
    An outage of Redis fails no call (L11), so by default it takes no instance out of service either.

    Args:
        connection: The toolkit's `RedisConnection`. Any other client with a blocking `ping()` is pinged.
    """
    return _RedisCheck(connection)


class _RedisCheck:
    failure = "warn"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __call__(self) -> bool:
        from resilience.redis import RedisConnection  # noqa: PLC0415 - only services with a Redis pay

        if not isinstance(self._connection, RedisConnection):
            return bool(self._connection.ping())
        reason = self._connection.diagnose()
        if reason is not None:
            raise CheckFailedError(reason)
        return True
