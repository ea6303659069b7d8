"""Waiting until a deadline: in a thread, or by a timer of an event loop, while the deadline may move.

The timers take the event loop as an argument, so this module does not import asyncio.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from resilience.timeout._deadline import Deadline

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Handle

__all__ = ("DeadlineTimer", "DeadlineWait", "TimerQueue")


class DeadlineWait:
    """How long to wait for a deadline, and how much longer if it has moved meanwhile.

    Args:
        deadline: The deadline to wait for, None for one that never comes.
        max_seconds: The longest wait in seconds, None for no limit beside the deadline.
    """

    __slots__ = ("_at", "_deadline", "seconds")

    def __init__(self, deadline: Deadline | None, max_seconds: float | None = None) -> None:
        seconds = math.inf if deadline is None else deadline.remaining()
        if max_seconds is not None:
            if deadline is not None:
                cap = Deadline.after(max_seconds, clock=deadline._clock)  # noqa: SLF001 - a deadline's clock is its own
                deadline = deadline.sooner(cap)
            seconds = min(seconds, max_seconds)
        self._deadline, self._at = deadline, math.inf if deadline is None else deadline.at
        self.seconds = None if seconds == math.inf else seconds
        """The seconds to wait in all, None for ever."""

    def extension(self) -> float:
        """Return by how many seconds the deadline has moved since the last look, 0.0 if it has not."""
        if self._deadline is None or self.seconds is None or self._deadline.at <= self._at:
            return 0.0
        before, self._at = self._at, self._deadline.at
        self.seconds += self._at - before
        return self._at - before

    def run(self, wait: Callable[[float], bool]) -> bool:
        """Call `wait` with the seconds left, then with the seconds added; return whether it returned true.

        The argument is -1 to wait for ever.
        """
        seconds = -1.0 if self.seconds is None else self.seconds
        while not wait(seconds):
            seconds = self.extension()
            if not seconds:
                return False
        return True


class DeadlineTimer:
    """A timer of an event loop that calls `on_expired` once, at the end of `wait`, unless it is cancelled before.

    Args:
        loop: The running event loop.
        wait: The time to wait. If its deadline moves meanwhile, the timer goes on.
        on_expired: The function to call.
    """

    __slots__ = ("_handle", "_loop", "_on_expired", "_wait")

    def __init__(self, loop: AbstractEventLoop, wait: DeadlineWait, on_expired: Callable[[], None]) -> None:
        self._loop, self._wait, self._on_expired = loop, wait, on_expired
        self._handle: Handle | None = None
        if wait.seconds is not None:
            self._schedule(wait.seconds)

    def cancel(self) -> None:
        """Do not call `on_expired` any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _schedule(self, seconds: float) -> None:
        if seconds < math.inf:
            self._handle = self._loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        if more := self._wait.extension():
            self._schedule(more)
        else:
            self._on_expired()


class _Expiring(Protocol):
    """A call with a time of its own."""

    def remaining(self) -> float:
        """Return the seconds left, 0.0 if none are."""
        ...

    def expire(self) -> None:
        """End the call: its time is up."""
        ...


C = TypeVar("C", bound=_Expiring)


class TimerQueue(Generic[C]):
    """The calls of one event loop that have the same time, oldest first: one timer serves all of them.

    A timer for each call would be most of the cost of a timeout (a heap of handles, compared in Python), and nearly
    every timer is cancelled. Calls with equal times expire in the order in which they began, so the timer only has to
    watch the oldest.
    """

    __slots__ = ("_loop", "calls", "is_watched")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self.calls: dict[C, None] = {}
        self.is_watched = False
        """Whether the timer is set."""

    def watch(self, seconds: float) -> None:
        """Set the timer."""
        self.is_watched = True
        # In an empty context: that of the call which happens to come first must not outlive the call.
        self._loop.call_later(seconds, self._fire, context=Context())

    def _fire(self) -> None:
        self.is_watched, late = False, []
        for call in self.calls:
            remaining = call.remaining()
            if remaining > 0:
                self.watch(remaining)
                break
            late.append(call)
        for call in late:
            del self.calls[call]
            call.expire()
