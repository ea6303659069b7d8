"""The answers that the customers got, by phase and side. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = (
    "CATALOGUES",
    "GUARDED",
    "OUTCOMES",
    "PATIENCE",
    "PLAIN",
    "PRICES",
    "Record",
    "Tally",
    "TrafficAnswer",
    "outcome_of",
)

GUARDED, PLAIN, PRICES = "guarded", "plain", "prices"
CATALOGUES = {GUARDED: "guarded catalogue", PLAIN: "plain catalogue"}
"""The requests for the catalogue of each side. The catalogue never calls the provider."""
OUTCOMES = ("ok", "error", "rejected")

PATIENCE = 1.0
"""Seconds within which an answer is in time. Readers of the catalogue leave then.

Customers wait longer for an order.
"""

_OK = range(200, 300)
_REJECTED = frozenset({"CIRCUIT_OPEN", "RATE_LIMITED", "BULKHEAD_FULL"})


class TrafficAnswer(NamedTuple):
    """One request and its outcome. `began` is in seconds since the start of the traffic."""

    side: str
    phase: str
    began: float
    seconds: float
    outcome: str
    code: str


def outcome_of(status: int, code: str) -> str:
    """Return `ok`, `rejected` if the toolkit refused the call to the provider, or `error`."""
    if status in _OK:
        return "ok"
    return "rejected" if code in _REJECTED else "error"


@dataclass
class Tally:
    """The answers of one side in one phase. An order that was sent again counts once, by its last answer."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    unsent: int = 0
    returned: int = 0

    def add(self, answer: TrafficAnswer) -> None:
        """Count one answer."""
        self.outcomes[answer.outcome] += 1
        self.seconds.append(answer.seconds)

    def __add__(self, other: Tally) -> Tally:
        unsent, returned = self.unsent + other.unsent, self.returned + other.returned
        return Tally(self.outcomes + other.outcomes, self.seconds + other.seconds, unsent, returned)

    @property
    def asked(self) -> int:
        """The number of requests, with those over the limit of requests in flight."""
        return self.outcomes.total() + self.unsent

    @property
    def in_time(self) -> int:
        """The number of answers that came within `PATIENCE`."""
        return sum(seconds <= PATIENCE for seconds in self.seconds)

    def percentile(self, share: float) -> float | None:
        """Return the latency that `share` of the answers did not exceed. None if no answer is counted."""
        if not self.seconds:
            return None
        ranked = sorted(self.seconds)
        return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


class Record:
    """All answers so far. An answer belongs to the phase that `blamed` in `_traffic_aio` returns."""

    def __init__(self) -> None:
        self.tallies: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
        self.answers: list[TrafficAnswer] = []
        self.waiting: Counter[str] = Counter()
        """Requests in flight, by side."""

    def add(self, answer: TrafficAnswer) -> None:
        """Record one answer."""
        self.answers.append(answer)
        self.tallies[answer.side, answer.phase].add(answer)

    def sent_again(self, answer: TrafficAnswer) -> None:
        """Record that the order that got `answer` is sent again. Its next answer replaces this outcome."""
        tally = self.tallies[answer.side, answer.phase]
        tally.outcomes[answer.outcome] -= 1
        tally.returned += 1

    def of(self, side: str, *phases: str) -> Tally:
        """Return the answers of `side` in all `phases` together."""
        return sum((self.tallies.get((side, phase), Tally()) for phase in phases), Tally())

    def total(self, side: str) -> Tally:
        """Return the answers of `side` in all phases."""
        return sum((tally for (known, _), tally in self.tallies.items() if known == side), Tally())
