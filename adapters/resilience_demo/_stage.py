"""The state of the demo, and the protocol of the views that show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from resilience_demo._pipeline_state import PipelineState, Transition
from resilience_demo._record import Record
from resilience_demo._script import Phase, Script

if TYPE_CHECKING:
    from resilience_demo._verdict import Criterion

__all__ = ("Stage", "View")


@dataclass
class Stage:
    """The state of the demo. Times are in seconds since the start of the traffic."""

    script: Script
    record: Record = field(default_factory=Record)
    pipeline: PipelineState = field(default_factory=PipelineState)
    marks: dict[str, float] = field(default_factory=dict)
    """The start of each phase, by its name."""
    servers: list[str] = field(default_factory=list)
    """The name, address and process id of each server."""
    state: str = ""
    """The place in which the limiters count: Valkey or memory."""
    phase: Phase | None = None
    elapsed: float = 0.0


class View(Protocol):
    """Shows the demo to the user."""

    def opened(self, stage: Stage) -> None:
        """Show the servers."""

    def phase(self, stage: Stage) -> None:
        """Show that the next phase has begun."""

    def news(self, transition: Transition) -> None:
        """Show that the breaker changed its state."""

    def tick(self, stage: Stage) -> None:
        """Show the present state. The demo calls this several times a second."""

    def ended(self, stage: Stage, criteria: list[Criterion]) -> None:
        """Show the results."""

    def interrupted(self) -> None:
        """Show that a signal stopped the demo."""

    def failed(self, words: str) -> None:
        """Show why the demo has no result."""

    def close(self) -> None:
        """Restore the terminal."""
