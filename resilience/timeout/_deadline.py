"""A point in time by which a piece of work has to be done, visible to everything it calls."""

from __future__ import annotations

from contextvars import ContextVar, Token
from datetime import timedelta
from types import TracebackType

from resilience.clock import Clock, monotonic
from resilience.options import seconds as in_seconds

__all__ = ("Deadline",)

_current: ContextVar[Deadline | None] = ContextVar("resilience_deadline", default=None)


class Deadline:
    """When the caller stops waiting. Inside `with deadline:` it is `Deadline.current()`, for tasks started there too.

    The sooner one wins: entering a later deadline inside a sooner one leaves the sooner one in force.
    """

    __slots__ = ("_clock", "_tokens", "at")

    def __init__(self, at: float, *, clock: Clock = monotonic) -> None:
        self.at = at
        self._clock = clock
        self._tokens: list[Token[Deadline | None]] = []

    @classmethod
    def after(cls, seconds: float | str | timedelta, *, clock: Clock = monotonic) -> Deadline:
        """Return the deadline `seconds` from now (a number, a timedelta, or text such as "250ms")."""
        return cls(clock() + in_seconds(seconds, "Deadline.after"), clock=clock)

    @staticmethod
    def current() -> Deadline | None:
        """Return the deadline in force here, or None."""
        return _current.get()

    def remaining(self) -> float:
        """Return the seconds left, 0.0 once it has passed."""
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self.at

    def __enter__(self) -> Deadline:
        outer = _current.get()
        effective = self if outer is None or self.at <= outer.at else outer
        self._tokens.append(_current.set(effective))
        return effective

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f} s>"
