"""All there is to show, and what a show can do with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from resilience.clock import monotonic
from resilience_demo.chain._record import Record
from resilience_demo.chain._script import Script

if TYPE_CHECKING:
    from resilience_demo._verdict import Criterion

__all__ = ("Audit", "Crossing", "Drain", "Outage", "Sighting", "Stage", "View")


class Sighting(NamedTuple):
    """One error as one service told of it; `left` is the time it still had for the request, in seconds."""

    service: str
    source: str
    code: str
    request_id: str
    trace_id: str
    left: float | None = None


@dataclass
class Crossing:
    """One order for something sold out: what the customer sent along, and where what came of it was seen."""

    request_id: str
    trace_id: str
    given: float
    """Seconds the customer was going to wait."""
    sightings: list[Sighting] = field(default_factory=list)


@dataclass
class Outage:
    """An instance that was killed. Times are seconds since the customers came, infinite for what did not happen."""

    name: str
    killed: float
    started: float = math.inf
    booked: float = math.inf
    """When it had booked its first new order."""
    repeated: int = 0
    """Attempts that any service made again meanwhile."""


@dataclass
class Drain:
    """An instance that was told to end. Times are as above."""

    name: str
    told: float
    unready: float = math.inf
    """When it first answered 503 to the question whether it is ready."""
    accepted: int = 0
    """Connections it took, and answered, after that."""
    ended: float = math.inf
    status: int | None = None
    repeated: int = 0
    """Attempts that any service made again meanwhile."""


class Audit(NamedTuple):
    """What the books of the stock say."""

    parcels: int = 0
    remaining: int = 0
    asked_again: int = 0
    """Parcels for which the stock was asked more than once."""


@dataclass
class Stage:
    """The state of the play."""

    script: Script
    record: Record = field(default_factory=Record)
    servers: list[str] = field(default_factory=list)
    """What runs where, in words."""
    began: float | None = None
    """When the customers came, by the monotonic clock."""
    crossing: Crossing | None = None
    outage: Outage | None = None
    drain: Drain | None = None
    before: Audit = field(default_factory=Audit)
    after: Audit = field(default_factory=Audit)

    def clock(self) -> float:
        """Return the seconds since the customers came; none have gone before."""
        return 0.0 if self.began is None else monotonic() - self.began


class View(Protocol):
    """Shows the play to somebody."""

    def opened(self, stage: Stage) -> None:
        """Show that the servers run."""

    def crossed(self, crossing: Crossing) -> None:
        """Show what became of the error."""

    def customers(self, rate: float) -> None:
        """Show that customers come from now on."""

    def news(self, at: float, words: str) -> None:
        """Show that something happened."""

    def tick(self, at: float, record: Record) -> None:
        """Show how things are; called once a second."""

    def ended(self, criteria: list[Criterion]) -> None:
        """Show how it went."""

    def interrupted(self) -> None:
        """Show that somebody stopped it."""

    def failed(self, words: str) -> None:
        """Show why there is no result."""
