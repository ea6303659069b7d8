"""The options of a connection pool, in HikariCP's words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resilience._support.rules import exceeds
from resilience.errors import Problem
from resilience.options import Duration, Number, Options, Whole, option

__all__ = ("PoolOptions",)

_VALIDATION_TIMEOUT = 1.0
_LONGEST_TICK, _SHORTEST_TICK, _TICKS_PER_AGE = 30.0, 0.01, 5


@dataclass(frozen=True, kw_only=True)
class PoolOptions(Options):
    """How many connections a pool holds, how long a borrower waits for one, and how long a connection is used."""

    maximum_pool_size: int = option(10, Whole(1, 100_000), "connections at most, idle or in use")
    minimum_idle: int = option(0, Whole(0, 100_000), "idle connections that the pool keeps ready")
    connection_timeout: float = option(
        5.0, Duration(above=True, usual=60), "longest time for a borrow: queue, connect and validate"
    )
    connect_timeout: float = option(
        5.0, Duration(above=True, usual=60), "time after which an attempt to connect counts as failed"
    )
    validation_timeout: float | None = option(
        None,
        Duration(above=True, usual=60),
        "longest time for one check, reset or close",
        none="1s, or connection_timeout if that is shorter",
    )
    idle_timeout: float | None = option(
        600.0, Duration(above=True), "idle time after which a connection above minimum_idle is closed", none="never"
    )
    max_lifetime: float | None = option(
        1800.0, Duration(above=True), "age at which a connection is closed, but never while it is in use", none="no end"
    )
    max_lifetime_jitter: float = option(
        0.1, Number(0, 1), "up to this share of max_lifetime is subtracted at random for each connection"
    )
    keepalive_time: float | None = option(
        None, Duration(above=True), "idle time after which a connection is checked in the background", none="never"
    )
    leak_detection_threshold: float | None = option(
        None,
        Duration(above=True),
        "time in use after which the pool reports the stack of the borrower",
        none="not reported",
    )
    max_waiting: int = option(1000, Whole(1, 1_000_000), "borrowers that may wait; one more is refused at once")
    alive_bypass: float = option(0.5, Duration(usual=60), "a connection used within this time is lent without a check")
    max_creating: int = option(3, Whole(1, 1000), "attempts to connect at the same time")
    initialization_fail_timeout: float | None = option(
        None,
        Duration(usual=600),
        "time in which start() must get a first connection; 0 is one attempt",
        none="start() does not wait for a connection",
    )

    @property
    def longest_validation(self) -> float:
        """The longest time for one check, reset or close, in seconds."""
        if self.validation_timeout is not None:
            return self.validation_timeout
        return min(_VALIDATION_TIMEOUT, self.connection_timeout)

    @property
    def tick(self) -> float:
        """Seconds between two rounds of maintenance."""
        ages = (self.idle_timeout, self.max_lifetime, self.keepalive_time, self.leak_detection_threshold)
        shortest = min((age for age in ages if age is not None), default=_LONGEST_TICK)
        return max(_SHORTEST_TICK, min(_LONGEST_TICK, shortest / _TICKS_PER_AGE))

    def _together(self) -> Iterable[Problem]:
        if exceeds(self.minimum_idle, self.maximum_pool_size):
            yield Problem("minimum_idle", self.minimum_idle, f"at most maximum_pool_size ({self.maximum_pool_size})")
        if exceeds(self.validation_timeout, self.connection_timeout):
            expected = f"at most connection_timeout ({self.connection_timeout:g} s), which includes it"
            yield Problem("validation_timeout", self.validation_timeout, expected)
        if exceeds(self.keepalive_time, self.max_lifetime, or_equals=True):
            expected = f"below max_lifetime ({self.max_lifetime:g} s), or no connection would live long enough"
            yield Problem("keepalive_time", self.keepalive_time, expected)
