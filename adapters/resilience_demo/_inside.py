"""What the toolkit did, as the shop reports it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ("Inside", "Transition")


@dataclass(frozen=True)
class Transition:
    """The breaker changed its state `at` seconds after the traffic began."""

    at: float
    kind: str
    words: str


@dataclass
class Inside:
    """The last report, and every transition of the breaker."""

    breaker: str = "closed"
    in_use: int = 0
    places: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    transitions: list[Transition] = field(default_factory=list)

    def hear(self, line: str, start: float) -> list[Transition]:
        """Take in one line and return the transitions that are news.

        `start` is when the traffic began, by the monotonic clock that all processes of a machine share.
        """
        facts = json.loads(line)
        self.breaker = facts.get("breaker", self.breaker)
        self.in_use = facts.get("in_use", self.in_use)
        self.places = facts.get("places", self.places)
        self.counts = facts.get("counts", self.counts)
        news = [Transition(told["at"] - start, told["kind"], _words(told)) for told in facts.get("news", ())]
        self.transitions += news
        return news

    def count(self, kind: str) -> int:
        """Return how many events of `kind` there were."""
        return self.counts.get(kind, 0)


def _words(told: dict[str, Any]) -> str:
    if told["kind"] == "breaker.opened":
        counts = f", {told['failures']} of {told['calls']} calls failed" if told["calls"] >= told["failures"] else ""
        return f"breaker opened: {told['reason']}{counts}"
    state = "closed" if told["kind"] == "breaker.closed" else "half-open"
    return f"breaker {state}: {told['reason']}"
