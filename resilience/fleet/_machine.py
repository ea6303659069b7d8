"""When an instance makes its next round, and how many instances the fleet has.

The machine is pure: the caller passes in the time and the jitter. One thread uses it, so it needs no lock.

States. Redis is *found* (the last round was answered) or *lost* (it was not). The first round of an instance is due at
once.

    found  A round is due one `BEAT` after the last one, 10 % earlier or later. A nudge makes it due at once, but not
           sooner than `GAP` after the last one: the nudges of a thousand breakers that trip together share a round.
    lost   A round is due after a backoff that doubles with each failure, with full jitter: a fleet of thousands does
           not come back in the same moment. A nudge changes nothing, because each thread of the process may send one.

The count. Each answer has the number of instances that are alive on the server's clock. A limiter divides its limit by
the count, and a breaker needs a share of it as votes. A count that is too low does harm: after a FLUSHALL the first
instances that come back count 1, 2, 3, until all have come back within a beat. So a higher count is believed at once,
and a lower one after `HOLD` seconds in which no higher one came. If Redis is lost, the last count stands.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ("BEAT", "LIFETIME", "Beat")

BEAT: Final = 1.0
"""Seconds between two rounds of an instance."""
LIFETIME: Final = 5.0
"""Seconds after its last beat in which an instance counts as alive."""
HOLD: Final = 2.5
"""Seconds after which a lower count of instances is believed: two beats, with their jitter."""
GAP: Final = 0.01
"""Seconds between two rounds at least."""
FIRST_BACKOFF: Final = 0.5
MAX_BACKOFF: Final = 4.0
"""Seconds. Less than `LIFETIME`, so that an instance that missed a few rounds is not counted as dead."""
_JITTER: Final = 0.1


class Beat:
    """The rounds of one instance.

    Args:
        now: The time in seconds, at which the first round is due.
    """

    __slots__ = ("_backoff", "_counts", "_made_at", "due_at", "instances", "is_lost")

    def __init__(self, now: float) -> None:
        self.due_at = now
        self.instances = 1
        self.is_lost = False
        self._made_at = now - GAP
        self._backoff = 0.0
        self._counts: deque[tuple[float, int]] = deque()

    def nudge(self, now: float) -> None:
        """Make a round due now, unless Redis is lost."""
        if not self.is_lost:
            self.due_at = min(self.due_at, max(now, self._made_at + GAP))

    def postpone(self) -> None:
        """Make the first round due in one beat."""
        self.due_at += BEAT

    def wait(self, now: float) -> float:
        """Return the seconds until the next round; 0 if it is due."""
        return max(0.0, self.due_at - now)

    def answered(self, now: float, jitter: float, count: int) -> bool:
        """Record a round that Redis answered; return whether it was lost before.

        Args:
            now: The time in seconds.
            jitter: 0 to 1; moves the next round.
            count: How many instances were alive, this one included.
        """
        was_lost, self.is_lost, self._backoff = self.is_lost, False, 0.0
        if (
            was_lost
        ):  # the last count is as good as new: the others come back within a beat, and not all before this one
            self._counts = deque([(now, self.instances)])
        self._made_at, self.due_at = now, now + BEAT * (1 + _JITTER * (2 * jitter - 1))
        self._believe(now, max(1, count))
        return was_lost

    def _believe(self, now: float, count: int) -> None:
        """Keep the counts of the last `HOLD` seconds that no later count exceeds: the first of them is the highest."""
        counts = self._counts
        while counts and counts[-1][1] <= count:
            counts.pop()
        counts.append((now, count))
        while counts[0][0] + HOLD <= now:
            counts.popleft()
        self.instances = counts[0][1]

    def failed(self, now: float, jitter: float) -> bool:
        """Record a round that Redis did not answer; return whether Redis was not lost before.

        Args:
            now: The time in seconds.
            jitter: 0 to 1; the share of the backoff to wait.
        """
        was_lost, self.is_lost = self.is_lost, True
        self._backoff = min(MAX_BACKOFF, 2 * self._backoff or FIRST_BACKOFF)
        self._made_at, self.due_at = now, now + max(GAP, self._backoff * jitter)
        return not was_lost
