"""A point in time by which a piece of work has to be done, visible to everything it calls."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import TypeAlias

from resilience.clock import Clock, monotonic
from resilience.options import CLOCK, Opaque, checked
from resilience.options import seconds as in_seconds

__all__ = ("Deadline",)

_MOMENT = Opaque(
    "a moment of the clock, in seconds",
    lambda at: isinstance(at, int | float) and not isinstance(at, bool) and at == at,  # noqa: PLR0124 - NaN differs
)

_Frame: TypeAlias = "tuple[Deadline, Deadline, _Frame | None]"
"""The deadline in force, the one entered, and the frame before: a chain, so one object may be entered many times."""

_current: ContextVar[_Frame | None] = ContextVar("resilience_deadline", default=None)


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
        return cls(clock() + in_seconds(seconds, "Deadline.after"), clock=clock)

    @staticmethod
    def current() -> Deadline | None:
        """Return the deadline in force here, or None."""
        frame = _current.get()
        return None if frame is None else frame[0]

    def remaining(self) -> float:
        """Return the seconds left, 0.0 once it has passed."""
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self.at

    def __enter__(self) -> Deadline:  # noqa: PYI034 - what is in force may be another, sooner one
        outer = _current.get()
        effective = self if outer is None or self.at <= outer[0].at else outer[0]
        _current.set((effective, self, outer))
        return effective

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        frame = _current.get()
        while frame is not None and frame[1] is not self:
            frame = frame[2]  # entered inside and never left: a generator that was abandoned half-way
        if frame is not None:
            _current.set(frame[2])

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f} s>"
