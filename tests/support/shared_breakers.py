"""Shared breakers of several instances in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from breaker_instance import eventually

from resilience import CircuitBreaker, Pipeline
from resilience.fleet import Fleet
from resilience.redis import RedisConnection

__all__ = ("known_instances", "sharing", "trip")


@contextlib.contextmanager
def sharing(url: str, count: int = 1, **options: Any) -> Iterator[list[CircuitBreaker]]:
    """Yield breakers of instances in this process, after their first answer."""
    connections = [RedisConnection.from_url(url) for _ in range(count)]
    options = {"fail_max": 3, "reset_timeout": 30, "quorum": 0.5} | options
    breakers = [CircuitBreaker(shared=connection, **options) for connection in connections]
    for breaker in breakers:
        Pipeline("payments", breaker).call(str)
    try:
        eventually(lambda: all(known_instances(each) >= count for each in breakers))
        yield breakers
    finally:
        for connection in connections:
            Fleet.of(connection).close()
            connection.close()


def known_instances(breaker: CircuitBreaker) -> int:
    """Return how many instances the breaker counts."""
    found: int = breaker.snapshot()["fleet"]["instances"]
    return found


def trip(breaker: CircuitBreaker) -> None:
    """Let three calls fail."""
    for _ in range(3):
        with contextlib.suppress(ConnectionError), breaker.calling():
            raise ConnectionError
