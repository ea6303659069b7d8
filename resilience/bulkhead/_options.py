"""The options of both bulkheads."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Flag, Options, Whole, option

__all__ = ("BulkheadOptions", "ThreadPoolOptions")


@dataclass(frozen=True, kw_only=True)
class BulkheadOptions(Options):
    """How many calls may be in flight, and who may wait; the names are those of resilience4j."""

    max_concurrent_calls: int = option(25, Whole(1, 100_000), "calls in flight at once")
    max_wait: float = option(0.0, Duration(usual=60), "longest wait for a free place; 0 refuses at once")
    max_waiting: int = option(1000, Whole(1, 1_000_000), "callers that may wait; one more is refused at once")
    shadow: bool = option(False, Flag(), "report calls that would be refused, refuse none and let no caller wait")


@dataclass(frozen=True, kw_only=True)
class ThreadPoolOptions(Options):
    """The threads of one dependency, and who may wait for them."""

    max_threads: int = option(10, Whole(1, 10_000), "calls in flight at once, each in a thread of its own")
    max_wait: float = option(1.0, Duration(usual=60), "longest wait for a free thread; 0 refuses at once")
    max_waiting: int = option(100, Whole(1, 1_000_000), "callers that may wait; one more is refused at once")
