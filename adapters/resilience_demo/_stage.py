"""All there is to show, and what a show can do with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from resilience_demo._inside import Inside, Transition
from resilience_demo._record import Record
from resilience_demo._script import Phase, Script

if TYPE_CHECKING:
    from resilience_demo._verdict import Criterion

__all__ = ("Stage", "View")


@dataclass
class Stage:
    """The state of the performance. Times are seconds since the traffic began."""

    script: Script
    record: Record = field(default_factory=Record)
    inside: Inside = field(default_factory=Inside)
    marks: dict[str, float] = field(default_factory=dict)
    """When each phase really began, by its name."""
    servers: list[str] = field(default_factory=list)
    """What runs where, in words."""
    state: str = ""
    """Where the limiters keep their counts, in words."""
    phase: Phase | None = None
    elapsed: float = 0.0


class View(Protocol):
    """Shows a performance to somebody."""

    def opened(self, stage: Stage) -> None:
        """Show that the servers run."""

    def phase(self, stage: Stage) -> None:
        """Show that the next phase has begun."""

    def news(self, transition: Transition) -> None:
        """Show that the breaker changed its state."""

    def tick(self, stage: Stage) -> None:
        """Show how things are; called several times a second."""

    def ended(self, stage: Stage, criteria: list[Criterion]) -> None:
        """Show how it went."""

    def interrupted(self) -> None:
        """Show that somebody stopped it."""

    def failed(self, words: str) -> None:
        """Show why there is no result."""

    def close(self) -> None:
        """Leave the terminal as it was."""
