"""Who waits for a call in flight, and who makes it next if its caller gives it up. Pure.

A *flight* is one call in flight. The caller that makes the call is its *leader*; the callers that wait for it are its
*followers*, in the order in which they came (the words of Go's `singleflight` and of leader election). A flight passes
through these states:

    in flight   the leader makes the call; callers may join.
    handed over the leader was interrupted, and the follower that waited longest becomes the leader.
    over        the call has ended, or it was given up and had no followers; no caller may join.

A follower leaves the flight exactly once: it gets the outcome, it becomes the leader, or it gives up by itself. Several
threads may try to take it out at the same moment; `leave` returns True to exactly one of them.

The epoch of a flight is the number of `SingleFlight.forget()` calls before it began. Callers of a later epoch must not
join it, because it may have read a value that has changed since.

No lock is needed, although many threads use one flight: every step that decides something is one atomic operation on
an ordered dictionary. A lock could be met again by a finalizer that makes calls, in the very thread that holds it.
Steps that an interrupt (a signal handler that raises) must not split are operators, after which CPython does not look
for signals. Two races remain, and both are closed by looking twice:

- A caller joins while the call ends: `join` looks at `is_over` after joining, and leaves again if it still can.
- A caller joins while `successor` finds the flight empty: `successor` marks the flight as over first and looks again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from resilience.timeout import LatestDeadline

__all__ = ("Flight",)

W = TypeVar("W")


class Flight(Generic[W]):
    """One call in flight and its followers of type W (hashable; each joins once), first come first served."""

    __slots__ = ("__weakref__", "_followers", "deadline", "epoch", "is_over", "leader", "ran_short")

    def __init__(self, epoch: int = 0, leader: object = None, deadline: LatestDeadline | None = None) -> None:
        self.epoch = epoch
        """Callers of a later epoch must not join."""
        self.leader = leader
        """The thread that makes the call, which must not wait for it; None if the call has a task of its own."""
        self.deadline = deadline
        """The latest deadline of the callers, None if one of the first had none."""
        self.ran_short = False
        """Whether the call may have ended because it began under a deadline that was too soon for later callers."""
        self.is_over = False
        self._followers: OrderedDict[W, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """The number of followers."""
        return len(self._followers)

    def join(self, follower: W) -> bool:
        """Wait for the outcome. Return False if there is nothing to wait for any more."""
        self._followers[follower] = None
        return not (
            self.is_over and self.leave(follower)
        )  # over just now: it gets the outcome, unless it can still leave

    def leave(self, follower: W) -> bool:
        """Wait no longer. Return False if the follower has left already, because it gets the outcome now."""
        try:
            del self._followers[follower]  # an operator: no interrupt comes between it and the answer
        except KeyError:
            return False
        return True

    def first(self) -> W | None:
        """Return the follower that has waited longest, or None."""
        return next(iter(self._followers), None)

    def finish(self) -> list[W]:
        """End the flight. Return its followers, which have left and must get the outcome."""
        self.is_over, followers = True, []
        while (follower := self._next()) is not None:
            followers.append(follower)
        return followers

    def successor(self) -> W | None:
        """Return the follower that makes the call, now that its leader is gone. Without one the flight is over."""
        follower = self.first()
        if follower is None:
            self.is_over = True
            follower = self.first()  # one that joined in between
            self.is_over = follower is None
        return follower

    def _next(self) -> W | None:
        try:
            return self._followers.popitem(last=False)[0]
        except KeyError:
            return None
