"""Numbers that threads take without a lock; the last number is a count.

`next` of an `itertools.count` is atomic in CPython. Such a counter can be read only by advancing it. `Numbers` counts
the advances that were reads, and subtracts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

__all__ = ("Numbers",)


class Numbers:
    """Hands out 1, 2, 3 ... `next` needs no lock. The other methods need one: let one thread in at a time."""

    __slots__ = ("_reads", "next")

    def __init__(self) -> None:
        self.next: Callable[[], int] = itertools.count(1).__next__
        """Take a number, atomically. The raw number includes the reads; `take` subtracts them."""
        self._reads = 0

    def take(self) -> int:
        """Return the next number."""
        return self.next() - self._reads

    def last(self) -> int:
        """Return the number that was taken last, 0 if there is none."""
        self._reads += 1
        return self.next() - self._reads
