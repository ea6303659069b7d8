"""Deadlines that move: a call that several callers share runs until the latest of their deadlines.

A caller with more time may join while the call is in flight. The deadline in force inside the call is therefore an
object whose moment is read again, and it never becomes a sooner one. Code that waits for a number of seconds, computed
from such a deadline, goes on to wait if the deadline has moved meanwhile (`DeadlineWait`). A number that was handed
out, as the timeout of a socket or in the header of a request, cannot change any more (`DeadlineSnapshot`): if it ends
the call too early for the later callers, the single flight makes another call.
"""

from __future__ import annotations

import math

from resilience.clock import Clock
from resilience.timeout._deadline import Deadline

__all__ = ("CappedDeadline", "DeadlineSnapshot", "LatestDeadline", "MovingDeadline")


class MovingDeadline(Deadline):
    """A deadline whose moment may become a later one, never a sooner one."""

    __slots__ = ()

    @property
    def span(self) -> float | None:
        """None: the beginning differs from caller to caller."""
        return None

    def sooner(self, other: Deadline) -> Deadline:
        """Return the sooner of this deadline and `other`, also after this one has moved."""
        return CappedDeadline(self, other)

    def follows(self, other: Deadline) -> bool:
        """Return whether this deadline is `other`, or moves with it."""
        raise NotImplementedError


class LatestDeadline(MovingDeadline):
    """The latest of several deadlines, which never moves back."""

    __slots__ = ("_latest", "length", "start_at")

    def __init__(self, first: Deadline) -> None:
        self._latest = first
        self.start()

    def start(self) -> None:
        """Record the deadline with which the call begins."""
        self.start_at = self._latest.at
        """The moment that was in force when the call began."""
        self.length = self._latest.remaining()
        """The seconds that were left then."""

    def extend(self, deadline: Deadline | None) -> bool:
        """Move to `deadline`, None for one that never comes, if that is later; return whether it was."""
        # No lock, for finalizers may make calls. If two callers extend at the same instant, the later deadline may be
        # lost; the call is then made again for its caller, as for any deadline that cannot be extended.
        if deadline is None:
            deadline = Deadline(math.inf)
        left = self._latest.remaining()  # first: time goes on, and an equal deadline must not seem later
        if deadline.remaining() <= left or _follows(deadline, self):
            return False
        self._latest = deadline
        return True

    def follows(self, other: Deadline) -> bool:
        """Return whether this deadline is `other`, or moves with it."""
        return self is other or _follows(self._latest, other)

    def covers(self, deadline: Deadline | None) -> bool:
        """Return whether the call had, from its start, all the time that `deadline` allows."""
        return self.start_at == math.inf if deadline is None else deadline.at <= self.start_at

    def left_at_start(self) -> float:
        """Return the seconds left until the moment that was in force when the call began, below 0 after it."""
        return self.start_at - self._clock()

    @property
    def at(self) -> float:  # type: ignore[override]  # read-only: it is the moment of another deadline
        """The moment of the latest deadline."""
        return self._latest.at

    @property
    def limit(self) -> float:
        """The moment until which the service itself would let the call go on for the caller who waits longest."""
        return self._latest.limit

    @property
    def span(self) -> float | None:
        """The seconds of the whole time of the caller who waits longest."""
        return self._latest.span

    @property
    def _clock(self) -> Clock:  # type: ignore[override]  # read-only, see above
        return self._latest._clock  # noqa: SLF001 - of the class this one extends


class CappedDeadline(MovingDeadline):
    """The sooner of two deadlines: one that may move, less a margin, and one that may not."""

    __slots__ = ("_cap", "_margin", "_outer")

    def __init__(self, outer: Deadline, cap: Deadline, margin: float = 0.0) -> None:
        self._outer, self._cap = outer, cap
        self._margin = margin

    def follows(self, other: Deadline) -> bool:
        """Return whether this deadline is `other`, or moves with it."""
        return self is other or _follows(self._outer, other) or _follows(self._cap, other)

    @property
    def at(self) -> float:  # type: ignore[override]  # read-only: it is the moment of other deadlines
        """The moment of the sooner deadline."""
        return min(self._cap.at, self._outer.at - self._margin)

    @property
    def limit(self) -> float:
        """The moment until which the service itself would let the work go on."""
        return min(self._cap.limit, self._outer.limit - self._margin)

    @property
    def _clock(self) -> Clock:  # type: ignore[override]  # read-only, see above
        return self._outer._clock  # noqa: SLF001 - of the class this one extends


def _follows(deadline: Deadline, other: Deadline) -> bool:
    return isinstance(deadline, MovingDeadline) and deadline.follows(other)


class DeadlineSnapshot:
    """The moment of a deadline when its time was handed out as a number, which cannot follow the deadline any more.

    Args:
        deadline: The deadline, None if there is none.
    """

    __slots__ = ("_at", "_deadline")

    def __init__(self, deadline: Deadline | None) -> None:
        self._deadline = deadline
        self._at = math.inf if deadline is None else deadline.at

    @property
    def left(self) -> float:
        """The seconds until the moment that was handed out, below 0 after it."""
        return math.inf if self._deadline is None else self._at - self._deadline._clock()  # noqa: SLF001 - see above

    @property
    def moved(self) -> float:
        """The seconds by which the deadline has moved since."""
        return 0.0 if self._deadline is None or self._deadline.at <= self._at else self._deadline.at - self._at
