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

__all__ = ("BEAT", "LIFETIME", "Beat", "HeldCount")

BEAT: Final = 0.9
"""Seconds between two rounds of an instance: with its jitter, the next one comes within a second."""
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


class HeldCount:
    """A count of instances, believed at once if it is higher, and after `HOLD` seconds if it is lower."""

    __slots__ = ("_counts", "value")

    def __init__(self) -> None:
        self.value = 1
        self._counts: deque[tuple[float, int]] = deque()

    def restart(self, now: float) -> None:
        """Take the present value as counted now, after a time without counts.

        It is as good as new: the other instances come back within a beat, and not all before this one.
        """
        self._counts = deque([(now, self.value)])

    def take(self, now: float, count: int) -> None:
        """Take a new count, of one at least.

        Of the last `HOLD` seconds those counts are kept that no later one exceeds: the first of them is the highest.
        """
        counts, count = self._counts, max(1, count)
        while counts and counts[-1][1] <= count:
            counts.pop()
        counts.append((now, count))
        while counts[0][0] + HOLD <= now:
            counts.popleft()
        self.value = counts[0][1]


class Beat:
    """The rounds of one instance.

    Args:
        now: The time in seconds, at which the first round is due.
    """

    __slots__ = ("_backoff", "_count", "_made_at", "due_at", "is_lost")

    def __init__(self, now: float) -> None:
        self.due_at = now
        self.is_lost = False
        self._made_at = now - GAP
        self._backoff = 0.0
        self._count = HeldCount()

    @property
    def instances(self) -> int:
        """How many instances are alive, as far as this one believes."""
        return self._count.value

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
        if was_lost:
            self._count.restart(now)
        self._made_at, self.due_at = now, now + BEAT * (1 + _JITTER * (2 * jitter - 1))
        self._count.take(now, count)
        return was_lost

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
