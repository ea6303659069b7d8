"""Blocking calls that go on although their callers have stopped waiting.

A thread cannot be stopped, so a late call keeps its thread until it ends. A client that waits for a millisecond could
therefore fill all threads from a few connections, and callers that have time would be refused. Half of the threads are
out of its reach: while late calls hold the other half, a call gets no thread if its own caller may cut it off.
"""

from __future__ import annotations

import functools
import math

from resilience._support.executor import Work
from resilience._support.fork import renew_after_fork
from resilience.errors import RunningWork
from resilience.timeout._origin import neutral_remaining

__all__ = ("LateWork",)


class LateWork:
    """The late calls of one policy."""

    __slots__ = ("__weakref__", "_calls")

    def __init__(self) -> None:
        self._calls: dict[Work, None] = {}
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's calls: their threads do not exist here."""
        self._calls.clear()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, work: Work) -> RunningWork:
        """Record a call whose caller gets its error now; return the work to name in that error."""
        forget = functools.partial(self._calls.pop, work, None)
        try:
            self._calls[work] = None
            work.add_done_callback(forget)
        except BaseException:  # an interrupt: without its callback the call would count as late for ever
            forget()
            raise
        return RunningWork(work.add_done_callback)

    def reserves_threads(self, threads: int) -> bool:
        """Return whether a call that begins now is refused one of the `threads`.

        That is so if late calls hold half of the threads, and the caller of this call may not wait for its end.
        """
        return 2 * len(self._calls) >= threads and neutral_remaining() < math.inf
