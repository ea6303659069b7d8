"""Cut-offs: calls that the deadline of their caller ended, as evidence about the dependency.

A single cut-off says nothing. The caller waited for less time than the service allows, and a healthy dependency cannot
prevent that. Many cut-offs in a row without a success between them are evidence, once they have lasted for as long as
the service allows one call (ten seconds are enough). But they are evidence only for callers who wait no longer than the
callers that were cut off.

So the circuit opens for impatient callers alone. A caller with clearly more patience passes as if the circuit were
closed. Its outcome counts, and the first success closes the circuit. An impatient client can therefore cause the
refusal of callers that are as impatient as itself, and of no others.

*Patience* is the time in seconds that a caller waits for its call; `math.inf` if it waits as long as the service
allows.
"""

from __future__ import annotations

import heapq
from typing import Generic, NamedTuple, TypeVar

__all__ = ("CutOff", "CutOffs", "is_more_patient")

E = TypeVar("E")
"""The type of a closed epoch: `Closed`, which has a row of cut-offs itself."""

_CLEARLY_MORE = 1.25
"""Patience varies with the work before the call: a caller is clearly more patient from 25 % on."""
_MAX_EVIDENCE_TIME = 10.0
"""Seconds without a success that are evidence, even if the service allows a single call more time."""
_MAX_SIZE = 100
"""The most cut-offs that are remembered, whatever the options say."""


def is_more_patient(patience: float, other: float) -> bool:
    """Return whether a caller with this patience waits clearly longer than one with the patience `other`."""
    return patience > other * _CLEARLY_MORE


class CutOff(NamedTuple):
    """One call, in seconds: the time it had, the patience of its caller, and the time that the service allows."""

    seconds: float
    patience: float
    allowed: float


class CutOffs(Generic[E]):
    """Cut-offs in a row since `since`.

    `epoch` is the closed epoch that they were counted in; None if they were trials. `successes_before` is the number of
    successes before the first one: as soon as there are more, the row is over.
    """

    __slots__ = ("_longest", "_size", "epoch", "since", "successes_before")

    def __init__(self, size: int, since: float, successes_before: int, epoch: E | None = None) -> None:
        self._size = min(size, _MAX_SIZE)
        self._longest: list[float] = []  # a heap of the longest patiences
        self.since = since
        self.successes_before = successes_before
        self.epoch = epoch

    def add(self, patience: float) -> None:
        """Add a call whose caller had this patience."""
        if len(self._longest) < self._size:
            heapq.heappush(self._longest, patience)
        else:
            heapq.heappushpop(self._longest, patience)

    @property
    def are_enough(self) -> bool:
        """Whether the row is as long as the options ask for."""
        return len(self._longest) == self._size

    def are_evidence(self, now: float, allowed: float) -> bool:
        """Return whether the row says something about the dependency if the service allows a call `allowed` seconds."""
        return self.are_enough and now - self.since >= min(allowed, _MAX_EVIDENCE_TIME)

    @property
    def patience(self) -> float:
        """The patience that enough callers had, and that was not enough for any of them; 0 for a short row."""
        return self._longest[0] if self.are_enough else 0.0

    def concern(self, patience: float) -> bool:
        """Return whether the row says something to a caller with this patience."""
        return not is_more_patient(patience, self.patience)
