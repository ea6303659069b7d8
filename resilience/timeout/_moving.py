"""Deadlines that move: a call which several callers share runs until the latest of their deadlines.

A caller with more time may join while the call is under way, so the deadline in force inside the call is an object
whose moment is asked for again. Code that waits for a number of seconds, computed from such a deadline, waits on where
the deadline has moved meanwhile (`Patience`). A number that was given away (a socket's timeout, a header of a request)
cannot be changed any more: the single flight makes another call where that ended the first one too early.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from resilience.clock import Clock
from resilience.timeout._deadline import Deadline

__all__ = ("CappedDeadline", "DeadlineSnapshot", "LatestDeadline", "MovingDeadline", "Patience")


class MovingDeadline(Deadline):
    """A deadline whose moment may become a later one, never a sooner one."""

    __slots__ = ()

    @property
    def span(self) -> float | None:
        """None: what began when depends on the caller."""
        return None

    def sooner(self, other: Deadline) -> Deadline:
        """Return the sooner of this deadline and `other`, also after this one has moved."""
        return CappedDeadline(self, other)

    def follows(self, other: Deadline) -> bool:
        """Return whether this deadline is `other`, or moves with it."""
        raise NotImplementedError


class LatestDeadline(MovingDeadline):
    """The latest of several deadlines, which never moves back."""

    __slots__ = ("_latest", "began", "length")

    def __init__(self, first: Deadline) -> None:
        self._latest = first
        self.begin()

    def begin(self) -> None:
        """Note what the call has from its start."""
        self.began = self._latest.at
        """The moment that was in force when the call began."""
        self.length = self._latest.remaining()
        """The seconds that were left then."""

    def extend(self, deadline: Deadline | None) -> bool:
        """Move to `deadline`, None for one that never comes, if that is later; return whether it was."""
        # No lock, for finalizers may make calls. Of two callers that extend at the same instant the later one may be
        # lost; its call is then made again, as for all that cannot be extended.
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
        """Whether the call had, from its start, all the time that `deadline` allows."""
        return self.began == math.inf if deadline is None else deadline.at <= self.began

    def left_at_start(self) -> float:
        """Return the seconds left until the moment that was in force when the call began, below 0 after it."""
        return self.began - self._clock()

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
    """The sooner of a deadline that may move, less a margin, and one that may not."""

    __slots__ = ("_cap", "_margin", "_outer")

    def __init__(self, outer: Deadline, cap: Deadline, margin: float = 0.0) -> None:
        self._outer, self._cap = outer, cap
        self._margin = margin

    def follows(self, other: Deadline) -> bool:
        """Return whether this deadline is `other`, or moves with it."""
        return self is other or _follows(self._outer, other) or _follows(self._cap, other)

    @property
    def at(self) -> float:  # type: ignore[override]  # read-only: it is the moment of other deadlines
        """The moment of the sooner one."""
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
    """What was left of a deadline when it was given away as a number, which cannot follow the deadline any more."""

    __slots__ = ("_at", "_deadline")

    def __init__(self, deadline: Deadline | None) -> None:
        self._deadline = deadline
        self._at = math.inf if deadline is None else deadline.at

    @property
    def left(self) -> float:
        """The seconds until the moment that was given away, below 0 after it."""
        return math.inf if self._deadline is None else self._at - self._deadline._clock()  # noqa: SLF001 - see above

    @property
    def moved(self) -> float:
        """By how many seconds the deadline has moved since."""
        return 0.0 if self._deadline is None or self._deadline.at <= self._at else self._deadline.at - self._at


class Patience:
    """How long to wait for a deadline, and how much longer if it has moved meanwhile."""

    __slots__ = ("_at", "_deadline", "seconds")

    def __init__(self, deadline: Deadline | None, longest: float | None = None) -> None:
        """Wait until `deadline`, None for one that never comes, and no more than `longest` seconds."""
        seconds = math.inf if deadline is None else deadline.remaining()
        if longest is not None:
            if deadline is not None:
                deadline = deadline.sooner(Deadline.after(longest, clock=deadline._clock))  # noqa: SLF001 - see above
            seconds = min(seconds, longest)
        self._deadline, self._at = deadline, math.inf if deadline is None else deadline.at
        self.seconds = None if seconds == math.inf else seconds
        """The seconds to wait in all, None for ever."""

    def more(self) -> float:
        """Return by how many seconds the deadline has moved since it was last asked for, 0.0 if it has not."""
        if self._deadline is None or self.seconds is None or self._deadline.at <= self._at:
            return 0.0
        before, self._at = self._at, self._deadline.at
        self.seconds += self._at - before
        return self._at - before

    def outlast(self, wait: Callable[[float], bool]) -> bool:
        """Call `wait` with the seconds there are, then with those that were added; return whether one call was true.

        It is called with -1 to wait for ever.
        """
        seconds = -1.0 if self.seconds is None else self.seconds
        while not wait(seconds):
            seconds = self.more()
            if not seconds:
                return False
        return True
