"""A point in time by which a piece of work has to be done, visible to everything it calls."""

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

__all__ = ("FRAME", "Deadline", "Enforced", "allowed_by_service", "caller_remaining", "lift", "neutral_remaining")

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

    A deadline knows its origin. It is the service's own, unless `limit` is later than `at`: then the caller stops
    waiting at `at`, although the service itself would work until `limit`. A call that such a deadline cuts off says
    nothing about the dependency (`DeadlineExceededError.is_callers`): breakers, retries and hedges are neutral.

    Args:
        at: The moment at which the time is up, in seconds of `clock`.
        limit: The moment until which the service itself would let the work go on; `math.inf` if it sets no limit.
            None (the default) for a deadline of the service itself. A moment before `at` counts as `at`.
        began: The moment from which the time runs; None if it is not known. With it, a call that starts when less than
            half of the time is left counts as cut off by the caller, who may have used the rest (by a slow body).
        clock: The clock that `at` and `limit` refer to.

    Raises:
        ConfigurationError: `at`, `limit` or `clock` has the wrong type.

    Example:
        >>> patience = Deadline.after("20ms", limit="2s")  # what the caller asked for, what the service allows
        >>> patience.is_callers
        True
    """

    __slots__ = ("_began", "_clock", "_limit", "at")

    def __init__(
        self, at: float, *, limit: float | None = None, began: float | None = None, clock: Clock = monotonic
    ) -> None:
        # One is made for every timed call: what a running clock gives passes without a call of ours.
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
        """Return the deadline `seconds` from now (a number, a timedelta, or text such as "250ms").

        `limit` is a duration from now as well; see `Deadline` for its meaning.
        """
        now = clock()
        latest = limit if limit is None else math.inf if limit == math.inf else now + in_seconds(limit, "limit")
        return Deadline(now + in_seconds(seconds, "Deadline.after"), limit=latest, began=now, clock=clock)

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

    @property
    def limit(self) -> float:
        """The moment until which the service itself would let the work go on; `at` for a deadline of its own."""
        return self.at if self._limit is None or self._limit < self.at else self._limit

    @property
    def span(self) -> float | None:
        """Seconds of the whole time, None if it is not known when that began."""
        return None if self._began is None else self.at - self._began

    @property
    def is_callers(self) -> bool:
        """Whether the caller stops waiting before the service itself would stop the work."""
        return self.at < self.limit

    def remaining(self) -> float:
        """Return the seconds left, 0.0 once it has passed."""
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self.at

    def sooner(self, other: Deadline) -> Deadline:
        """Return the sooner of this deadline and `other`."""
        return other if other.at <= self.at else self

    def __enter__(self) -> Deadline:  # noqa: PYI034 - what is in force may be another, sooner one
        outer = FRAME.get()
        in_force = None if outer is None else outer[0]
        effective = self if in_force is None or self.at <= in_force.at else in_force.sooner(self)
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


def allowed_by_service(seconds: float, own: float | None = None, moved: float = 0.0) -> float | None:
    """Return the seconds that the service allows a call whose caller cut it off after `seconds`.

    `own` is the limit of the policy that ended the call, None if it has none. `moved` is the time by which the deadline
    in force was extended after `seconds` were given away, because callers with more time share the call.

    Returns None if the service itself ended the call: by `own`, or by a deadline of its own that is in force, if the
    call had at least half of that. Returns `math.inf` if the service sets no limit.
    """
    if own is not None and seconds >= own:
        return None
    frame = FRAME.get()
    grace = _grace(frame) + moved
    if grace > 0:
        return seconds + grace if own is None else min(own, seconds + grace)
    span = None if frame is None or frame[0] is None else frame[0].span
    if span is None:
        return None
    least = span * _LEAST_SHARE
    if seconds >= (least if own is None else min(own, least)):
        return None
    return span if own is None else min(own, span)


_LEAST_SHARE = 0.5
"""The share of the service's own deadline that a call must have had, for its end to say something of the dependency.

A client can use up the rest (it sends its body, or reads an answer, as slowly as it likes). A healthy dependency that
takes less than this share is therefore out of its reach.
"""


def caller_remaining() -> float:
    """Return for how many seconds the caller still waits, if that is less than the service allows; else `math.inf`."""
    frame = FRAME.get()
    if frame is None or frame[0] is None or _grace(frame) <= 0:
        return math.inf
    return frame[0].remaining()


def neutral_remaining() -> float:
    """Return `caller_remaining()`; the time left, too, if that is less than half of the service's own deadline.

    A call that begins now and is cut off at the deadline says nothing about the dependency, if this is not `math.inf`.
    """
    frame = FRAME.get()
    if frame is None or (in_force := frame[0]) is None:
        return math.inf
    left, span = in_force.remaining(), in_force.span
    return left if _grace(frame) > 0 or (span is not None and left < span * _LEAST_SHARE) else math.inf


def _grace(frame: _Frame | None) -> float:
    """Return for how many seconds after the deadline in force the service itself would let the work go on."""
    in_force = None if frame is None else frame[0]
    if in_force is None or in_force.at == math.inf:
        return 0.0
    limit = in_force.limit
    while frame is not None and isinstance(frame[1], Deadline):  # a shield hides all that was entered outside of it
        limit = min(limit, frame[1].limit)
        frame = frame[2]
    return limit - in_force.at


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
