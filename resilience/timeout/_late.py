"""Blocking calls that go on although their callers have stopped waiting.

A thread cannot be stopped, so such a call keeps its thread until it ends. A client that waits for a millisecond could
therefore fill all threads from a few connections, and callers with time would be refused. Half of the threads are
out of its reach: while late calls hold the other half, a caller gets none whose deadline may cut its call off.
"""

from __future__ import annotations

import functools
import math

from resilience._support.executor import Work
from resilience.errors import RunningWork
from resilience.timeout._deadline import neutral_remaining

__all__ = ("LateWork",)


class LateWork:
    """The late calls of one policy."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[Work, None] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, work: Work) -> RunningWork:
        """Take note of a call whose caller is about to be answered; return what an error says of it."""
        forget = functools.partial(self._calls.pop, work, None)
        try:
            self._calls[work] = None
            work.add_done_callback(forget)
        except BaseException:  # an interrupt: the call would be late for ever
            forget()
            raise
        return RunningWork(work.add_done_callback)

    def keep_out(self, threads: int) -> bool:
        """Whether a call that begins now gets none of the `threads`, because its caller may not wait for its end."""
        return 2 * len(self._calls) >= threads and neutral_remaining() < math.inf
