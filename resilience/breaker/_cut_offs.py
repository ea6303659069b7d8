"""Calls that their callers cut off, and what many of them in a row show about the dependency. Pure.

One cut-off shows nothing: the caller waited for less than the service allows, and a healthy dependency cannot prevent
that. Many in a row without one answer in between are evidence, after as long as the service allows a single call (ten
seconds suffice) - but only for callers who wait no longer than those did. So the circuit opens for them alone. A caller
with clearly more patience passes as if the circuit were closed, its outcome counts, and the first answer closes the
circuit. An impatient client can therefore have callers refused that are as impatient as itself, and no others.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from resilience.breaker._epochs import Closed

__all__ = ("CutOff", "CutOffs", "is_more")

_MORE = 1.25
"""Patience varies by what came before the call: clearly more is a quarter more."""
_LONG_ENOUGH = 10.0
"""Seconds after which no answer is evidence, even if the service allows a single call more than that."""
_MOST = 100
"""Calls in a row that are remembered at most, whatever the options ask for."""


def is_more(patience: float, known: float) -> bool:
    """Whether a caller who waits for `patience` seconds waits clearly longer than `known` seconds."""
    return patience > known * _MORE


class CutOff(NamedTuple):
    """One call, in seconds: what it had, how long its caller waited for it in all, and what the service allows."""

    seconds: float
    patience: float
    allowed: float


class CutOffs:
    """Cut-offs in a row since `since`; `epoch` is the closed circuit that they were counted in, if it was closed.

    `answers` is how many answers had come before: once there are more, the row is over.
    """

    __slots__ = ("_longest", "_size", "answers", "epoch", "since")

    def __init__(self, size: int, since: float, answers: int, epoch: Closed | None = None) -> None:
        self._size = min(size, _MOST)
        self._longest: list[float] = []  # a heap of the most patient ones
        self.since = since
        self.answers = answers
        self.epoch = epoch

    def add(self, patience: float) -> None:
        """Add a call whose caller waited for `patience` seconds."""
        if len(self._longest) < self._size:
            heapq.heappush(self._longest, patience)
        else:
            heapq.heappushpop(self._longest, patience)

    @property
    def are_enough(self) -> bool:
        """Whether there are as many as it takes."""
        return len(self._longest) == self._size

    def show_something(self, now: float, allowed: float) -> bool:
        """Whether they are evidence by now, if the service allows a call `allowed` seconds."""
        return self.are_enough and now - self.since >= min(allowed, _LONG_ENOUGH)

    @property
    def patience(self) -> float:
        """Seconds for which as many callers as it takes have waited in vain, each of them."""
        return self._longest[0] if self.are_enough else 0.0

    def concern(self, patience: float) -> bool:
        """Whether they say anything to a caller who waits for `patience` seconds."""
        return not is_more(patience, self.patience)
