"""What trips a closed circuit, counted so that a success costs one atomic C call and needs no lock.

Outcomes are numbered by an `itertools.count`. A success only takes the next number; a failure (under the policy's lock)
takes one too and looks at the distance to earlier failures. Runs and windows are exact under any interleaving, because
the order of outcomes *is* the order of their numbers.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("ConsecutiveFailures", "FailureRate", "TripRule")


class TripRule(Protocol):
    """Judges the outcomes of one closed epoch. All but `succeeded` are called under the policy's lock."""

    reason: str

    @property
    def succeeded(self) -> Callable[[], object]:
        """Counts a success; atomic. An attribute, so that the hot path calls it without a frame of ours."""
        ...

    def failed(self) -> bool:
        """Count a failure; return whether the circuit must open."""
        ...

    def counts(self) -> tuple[int, int]:
        """Return (failures, calls) as the rule sees them now."""
        ...


class _Numbered:
    def __init__(self) -> None:
        self.succeeded: Callable[[], int] = itertools.count(1).__next__
        self._peeks = 0  # a counter can only be read by advancing it: these advances are not outcomes

    def _take(self) -> int:
        return self.succeeded() - self._peeks

    def _last(self) -> int:
        self._peeks += 1
        return self.succeeded() - self._peeks


class ConsecutiveFailures(_Numbered):
    """`limit` failures with no success between them (pybreaker's rule)."""

    reason = "consecutive failures"

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._run = 0
        self._at = 0

    def failed(self) -> bool:
        """Extend the run, or start a new one where a success came between."""
        number = self._take()
        self._run = self._run + 1 if number == self._at + 1 else 1
        self._at = number
        return self._run >= self.limit

    def counts(self) -> tuple[int, int]:
        """Return the length of the run still unbroken, twice: nothing older is remembered."""
        run = self._run if self._last() == self._at else 0
        return run, run


class FailureRate(_Numbered):
    """At least `rate` of the last `size` calls failed, judged from `minimum` calls on.

    Judged when a failure arrives: a success never opens the circuit.
    """

    reason = "failure rate"

    def __init__(self, rate: float, size: int, minimum: int) -> None:
        super().__init__()
        self._rate, self._size, self._minimum = rate, size, minimum
        self._failures: deque[int] = deque()

    def failed(self) -> bool:
        """Count the failure among the last `size` outcomes."""
        number = self._take()
        self._failures.append(number)
        failures, calls = self._within(number)
        return calls >= self._minimum and failures >= self._rate * calls

    def counts(self) -> tuple[int, int]:
        """Return (failures, calls) in the window."""
        return self._within(self._last())

    def _within(self, number: int) -> tuple[int, int]:
        while self._failures and self._failures[0] <= number - self._size:
            self._failures.popleft()
        return len(self._failures), min(number, self._size)
