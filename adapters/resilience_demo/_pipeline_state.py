"""The state of the shop's pipeline, read from the lines that the shop's `Reporter` writes. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ("PipelineState", "Transition")


@dataclass(frozen=True)
class Transition:
    """A change of the breaker's state, `at` seconds after the start of the traffic."""

    at: float
    kind: str
    words: str


@dataclass
class PipelineState:
    """The last report of the shop, and all transitions of its breaker."""

    breaker: str = "closed"
    in_use: int = 0
    places: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    transitions: list[Transition] = field(default_factory=list)

    def read_line(self, line: str, start: float) -> list[Transition]:
        """Read one line and return the transitions in it.

        `start` is the start of the traffic on the monotonic clock, which all processes of a machine share.
        """
        facts = json.loads(line)
        self.breaker = facts.get("breaker", self.breaker)
        self.in_use = facts.get("in_use", self.in_use)
        self.places = facts.get("places", self.places)
        self.counts = facts.get("counts", self.counts)
        news = [Transition(entry["at"] - start, entry["kind"], _words(entry)) for entry in facts.get("news", ())]
        self.transitions += news
        return news

    def count(self, kind: str) -> int:
        """Return the number of events of `kind`."""
        return self.counts.get(kind, 0)


def _words(entry: dict[str, Any]) -> str:
    if entry["kind"] == "breaker.opened":
        counts = (
            f", {entry['failures']} of {entry['calls']} calls failed" if entry["calls"] >= entry["failures"] else ""
        )
        return f"breaker opened: {entry['reason']}{counts}"
    state = "closed" if entry["kind"] == "breaker.closed" else "half-open"
    return f"breaker {state}: {entry['reason']}"
