"""A point in time by which a piece of work has to be done, visible to everything that the work calls.

The deadline in force is kept in one context variable, as a chain of frames: each frame holds the deadline that is in
force, the object that was entered, and the frame outside. A chain, not a stack that is stored in the object, because
one object may be entered many times and in many tasks. To leave is to go back to the frame outside the one that the
object entered; frames inside that were never left, by a generator that was abandoned half-way, are dropped on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import TypeAlias

from resilience.clock import Clock, monotonic
from resilience.options import CLOCK, Opaque, checked
from resilience.options import seconds as in_seconds

__all__ = ("CURRENT_FRAME", "Deadline", "EnforcedDeadline", "Frame", "leave_frame")

_MOMENT = Opaque(
    "a moment of the clock, in seconds",
    lambda at: isinstance(at, int | float) and not isinstance(at, bool) and at == at,  # noqa: PLR0124 - NaN differs
)

Frame: TypeAlias = "tuple[Deadline | None, object, Frame | None]"
"""The deadline in force, the object that was entered, and the frame outside."""

CURRENT_FRAME: ContextVar[Frame | None] = ContextVar("resilience_deadline", default=None)


def leave_frame(entered: object) -> None:
    """Restore the deadline that was in force before `entered`."""
    frame = CURRENT_FRAME.get()
    while frame is not None and frame[1] is not entered:
        frame = frame[2]  # entered inside and never left, by a generator that was abandoned half-way
    if frame is not None:
        CURRENT_FRAME.set(frame[2])


class Deadline:
    """The moment at which the caller stops waiting.

    Inside `with deadline:` it is `Deadline.current()`, for tasks that are started there too. The sooner deadline wins:
    if you enter a later deadline inside a sooner one, the sooner one stays in force. A deadline by itself ends nothing.
    Retries, bulkheads and the clients of this library do not wait past it; a `Timeout` cancels the call at that moment.

    A deadline knows its origin. It is the service's own, unless `limit` is later than `at`: then the caller stops
    waiting at `at`, although the service itself would work until `limit`. A call that such a deadline cuts off says
    nothing about the dependency (`DeadlineExceededError.is_callers`): breakers, retries and hedges are neutral.

    Args:
        at: The moment at which the time is up, in seconds of `clock`.
        limit: The moment until which the service itself would let the work go on; `math.inf` if it sets no limit.
            None (the default) for a deadline of the service itself. A moment before `at` counts as `at`.
        began: The moment from which the time runs; None if it is not known. With it, a call that starts when less than
            half of the time is left counts as cut off by the caller, who may have used the rest (by a slow body).
        clock: The clock that `at`, `limit` and `began` refer to.

    Raises:
        ConfigurationError: An argument has the wrong type.

    Example:
        >>> from resilience import Deadline
        >>> patience = Deadline.after("20ms", limit="2s")  # asked for by the caller, allowed by the service
        >>> patience.is_callers
        True
        >>> with Deadline.after(60) as outer, Deadline.after("5m"):
        ...     Deadline.current() is outer  # the sooner one is in force
        True
    """

    __slots__ = ("_began", "_clock", "_limit", "at")

    def __init__(
        self, at: float, *, limit: float | None = None, began: float | None = None, clock: Clock = monotonic
    ) -> None:
        # One is made for every timed call: the values of a running clock pass without a call of ours.
        if type(at) is not float or at != at:  # noqa: PLR0124 - only NaN differs from itself
            at = checked(at, "at", _MOMENT)
        self.at = at
        self._limit = limit if limit is None or type(limit) is float else checked(limit, "limit", _MOMENT)
        self._began = began if began is None or type(began) is float else checked(began, "began", _MOMENT)
        self._clock = clock if clock is monotonic else checked(clock, "clock", CLOCK)

    @classmethod
    def after(
        cls,
        seconds: float | str | timedelta,
        *,
        limit: float | str | timedelta | None = None,
        clock: Clock = monotonic,
    ) -> Deadline:
        """Return the deadline `seconds` from now.

        Args:
            seconds: The time that the work has: seconds, a `timedelta`, or text such as `"250ms"`. 0 or more.
            limit: The time, also from now, that the service itself allows; `math.inf` if it sets no limit. None (the
                default) for a deadline of the service itself.
            clock: The clock that measures the time.

        Raises:
            ConfigurationError: `seconds` or `limit` is not a duration.

        Example:
            >>> from resilience import Deadline
            >>> from resilience.testing import ManualClock
            >>> clock = ManualClock()
            >>> deadline = Deadline.after("250ms", clock=clock)
            >>> clock.advance(0.2)
            >>> round(deadline.remaining(), 3)
            0.05
        """
        now = clock()
        latest = limit if limit is None else math.inf if limit == math.inf else now + in_seconds(limit, "limit")
        return Deadline(now + in_seconds(seconds, "Deadline.after"), limit=latest, began=now, clock=clock)

    @staticmethod
    def current() -> Deadline | None:
        """Return the deadline in force here, or None."""
        frame = CURRENT_FRAME.get()
        return None if frame is None else frame[0]

    @staticmethod
    def shield(
        seconds: float | str | timedelta | None = None, *, clock: Clock = monotonic
    ) -> AbstractContextManager[Deadline | None]:
        """Run a block that has to be finished even if the time is up: `with Deadline.shield("2s"):`.

        Use it for a rollback, say. No outer deadline is in force in the block. If a `Timeout` of the same task runs
        out meanwhile, it cancels the task after the block, not inside. A `Timeout` of another task is not held back: a
        `Hedge` and a `SingleFlight` make their calls in tasks, so a `Timeout` outside of them still cancels the block.
        The caller of a blocking call gets its error in time all the same; only the thread goes on.

        Args:
            seconds: The time of the block itself, as a deadline in force inside it: seconds, a `timedelta`, or text
                such as `"2s"`. None (the default) for no deadline.
            clock: The clock that measures `seconds`.

        Raises:
            ConfigurationError: `seconds` is not a duration.

        Example:
            >>> from resilience import Deadline
            >>> with Deadline.after("1ms"), Deadline.shield("2s") as own:
            ...     f"{own.remaining():.0f} s for the rollback"
            '2 s for the rollback'
        """
        allowance = None if seconds is None else in_seconds(seconds, "Deadline.shield")
        return _shielded(allowance, checked(clock, "clock", CLOCK))

    @property
    def limit(self) -> float:
        """The moment until which the service itself would let the work go on; `at` for a deadline of its own."""
        return self.at if self._limit is None else max(self.at, self._limit)

    @property
    def span(self) -> float | None:
        """Seconds from the beginning to the deadline, None if the beginning is not known."""
        return None if self._began is None else self.at - self._began

    @property
    def is_callers(self) -> bool:
        """Whether the caller stops waiting before the service itself would stop the work."""
        return self.at < self.limit

    def remaining(self) -> float:
        """Return the seconds left, 0.0 once the deadline has passed."""
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self.at

    def sooner(self, other: Deadline) -> Deadline:
        """Return the sooner of this deadline and `other`."""
        return other if other.at <= self.at else self

    def __enter__(self) -> Deadline:  # noqa: PYI034 - another, sooner deadline may be in force
        outer = CURRENT_FRAME.get()
        in_force = None if outer is None else outer[0]
        effective = self if in_force is None or self.at <= in_force.at else in_force.sooner(self)
        CURRENT_FRAME.set((effective, self, outer))
        return effective

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave_frame(self)

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f} s>"


class EnforcedDeadline(Deadline):
    """A deadline at which a timer cancels the task, unless the task is shielded at that moment."""

    __slots__ = ()

    def suspend(self) -> bool:
        """Do not cancel the task until `resume`. Return False, without effect, in another task or if it is too late."""
        raise NotImplementedError

    def resume(self) -> None:
        """End one `suspend`; if the time is up, cancel the task soon."""
        raise NotImplementedError


@contextmanager
def _shielded(allowance: float | None, clock: Clock) -> Iterator[Deadline | None]:
    entered, outer = object(), CURRENT_FRAME.get()
    own = None if allowance is None else Deadline(clock() + allowance, clock=clock)
    suspended = [deadline for deadline in _enforced(outer) if deadline.suspend()]
    CURRENT_FRAME.set((own, entered, outer))
    try:
        yield own
    finally:
        leave_frame(entered)
        for deadline in suspended:
            deadline.resume()


def _enforced(frame: Frame | None) -> Iterator[EnforcedDeadline]:
    while frame is not None:
        if isinstance(frame[1], EnforcedDeadline):
            yield frame[1]
        frame = frame[2]
