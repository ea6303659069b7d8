"""What the customers saw: every answer, by phase and side. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ("GUARDED", "OUTCOMES", "PLAIN", "PRICES", "Answer", "Record", "Tally", "outcome_of")

GUARDED, PLAIN, PRICES = "guarded", "plain", "prices"
OUTCOMES = ("ok", "error", "rejected")

_OK = range(200, 300)
_REJECTED = frozenset({"CIRCUIT_OPEN", "RATE_LIMITED", "BULKHEAD_FULL"})


class Answer(NamedTuple):
    """One request and what became of it; `began` is seconds since the traffic did."""

    side: str
    phase: str
    began: float
    seconds: float
    outcome: str
    code: str


def outcome_of(status: int, code: str) -> str:
    """Return `ok`, `rejected` where the toolkit refused before calling, or `error`."""
    if status in _OK:
        return "ok"
    return "rejected" if code in _REJECTED else "error"


@dataclass
class Tally:
    """Answers of one side in one phase."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    unsent: int = 0

    def add(self, answer: Answer) -> None:
        """Count one more."""
        self.outcomes[answer.outcome] += 1
        self.seconds.append(answer.seconds)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.outcomes + other.outcomes, self.seconds + other.seconds, self.unsent + other.unsent)

    def percentile(self, share: float) -> float | None:
        """Return the latency that `share` of the answers did not exceed; None where there are none."""
        if not self.seconds:
            return None
        ranked = sorted(self.seconds)
        return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


class Record:
    """All that the customers saw so far. An answer belongs to the phase in which it was asked for."""

    def __init__(self) -> None:
        self.tallies: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
        self.answers: list[Answer] = []
        self.waiting: Counter[str] = Counter()
        """Requests under way, by side."""

    def add(self, answer: Answer) -> None:
        """Note one answer."""
        self.answers.append(answer)
        self.tallies[answer.side, answer.phase].add(answer)

    def of(self, side: str, *phases: str) -> Tally:
        """Return what `side` saw in `phases` together."""
        return sum((self.tallies.get((side, phase), Tally()) for phase in phases), Tally())

    def total(self, side: str) -> Tally:
        """Return what `side` saw from beginning to end."""
        return sum((tally for (known, _), tally in self.tallies.items() if known == side), Tally())
