"""A point in time by which a piece of work has to be done, visible to everything it calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import TypeAlias

from resilience.clock import Clock, monotonic
from resilience.options import CLOCK, Opaque, checked
from resilience.options import seconds as in_seconds

__all__ = ("FRAME", "Deadline", "Enforced", "lift")

_MOMENT = Opaque(
    "a moment of the clock, in seconds",
    lambda at: isinstance(at, int | float) and not isinstance(at, bool) and at == at,  # noqa: PLR0124 - NaN differs
)

_Frame: TypeAlias = "tuple[Deadline | None, object, _Frame | None]"
"""The deadline in force, what was entered, and the frame before: a chain, so one object may be entered many times."""

FRAME: ContextVar[_Frame | None] = ContextVar("resilience_deadline", default=None)


class Deadline:
    """When the caller stops waiting. Inside `with deadline:` it is `Deadline.current()`, for tasks started there too.

    The sooner one wins: entering a later deadline inside a sooner one leaves the sooner one in force.
    """

    __slots__ = ("_clock", "at")

    def __init__(self, at: float, *, clock: Clock = monotonic) -> None:
        # One is made for every timed call: what a running clock gives passes without a call of ours.
        if type(at) is not float or at != at:  # noqa: PLR0124 - only NaN differs from itself
            at = checked(at, "at", _MOMENT)
        self.at = at
        self._clock = clock if clock is monotonic else checked(clock, "clock", CLOCK)

    @classmethod
    def after(cls, seconds: float | str | timedelta, *, clock: Clock = monotonic) -> Deadline:
        """Return the deadline `seconds` from now (a number, a timedelta, or text such as "250ms")."""
        return Deadline(clock() + in_seconds(seconds, "Deadline.after"), clock=clock)

    @staticmethod
    def current() -> Deadline | None:
        """Return the deadline in force here, or None."""
        frame = FRAME.get()
        return None if frame is None else frame[0]

    @staticmethod
    def shield(
        seconds: float | str | timedelta | None = None, *, clock: Clock = monotonic
    ) -> AbstractContextManager[Deadline | None]:
        """Do work that has to be done even when the time is up, such as cleaning: `with Deadline.shield("2s"):`.

        No outer deadline is in force inside, only one of `seconds` where that is given; outside nothing changes. An
        awaiting call whose `Timeout` runs out meanwhile is cancelled when the block has been left, not inside it; not
        so in another task than the one it times, such as those of a `Hedge` or `SingleFlight` in between. The caller of
        a blocking call is answered on time all the same: only the thread goes on.
        """
        allowance = None if seconds is None else in_seconds(seconds, "Deadline.shield")
        return _shielded(allowance, checked(clock, "clock", CLOCK))

    def remaining(self) -> float:
        """Return the seconds left, 0.0 once it has passed."""
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self.at

    def __enter__(self) -> Deadline:  # noqa: PYI034 - what is in force may be another, sooner one
        outer = FRAME.get()
        in_force = None if outer is None else outer[0]
        effective = self if in_force is None or self.at <= in_force.at else in_force
        FRAME.set((effective, self, outer))
        return effective

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lift(self)

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f} s>"


class Enforced(Deadline):
    """A deadline that something keeps: it can be told to hold back while its own task is shielded."""

    __slots__ = ()

    def hold(self) -> bool:
        """Keep the deadline only after `release`; False where that is not for this task to ask, or too late."""
        raise NotImplementedError

    def release(self) -> None:
        """End one `hold`."""
        raise NotImplementedError


def lift(entered: object) -> None:
    """Restore what was in force before `entered`."""
    frame = FRAME.get()
    while frame is not None and frame[1] is not entered:
        frame = frame[2]  # entered inside and never left: a generator that was abandoned half-way
    if frame is not None:
        FRAME.set(frame[2])


@contextmanager
def _shielded(allowance: float | None, clock: Clock) -> Iterator[Deadline | None]:
    entered, outer = object(), FRAME.get()
    own = None if allowance is None else Deadline(clock() + allowance, clock=clock)
    held = [deadline for deadline in _enforced(outer) if deadline.hold()]
    FRAME.set((own, entered, outer))
    try:
        yield own
    finally:
        lift(entered)
        for deadline in held:
            deadline.release()


def _enforced(frame: _Frame | None) -> Iterator[Enforced]:
    while frame is not None:
        if isinstance(frame[1], Enforced):
            yield frame[1]
        frame = frame[2]
