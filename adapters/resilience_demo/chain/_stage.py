"""The state of the demo of three services, and the protocol of the views that show it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from resilience.clock import monotonic
from resilience_demo.chain._record import ChainRecord
from resilience_demo.chain._script import ChainScript

if TYPE_CHECKING:
    from resilience_demo._verdict import Criterion

__all__ = ("Audit", "ChainStage", "ChainView", "Crossing", "Drain", "JournalOutage", "Outage", "Sighting")


class Sighting(NamedTuple):
    """The report of one error by one service. `left` is the remaining time of the request in seconds."""

    service: str
    source: str
    code: str
    request_id: str
    trace_id: str
    left: float | None = None


@dataclass
class Crossing:
    """One order for a sold-out item: the ids that the customer sent, and the reports of the error."""

    request_id: str
    trace_id: str
    given: float
    """The deadline of the customer, in seconds from the order."""
    sightings: list[Sighting] = field(default_factory=list)


@dataclass
class Outage:
    """An instance that was killed. Times are in seconds since the first order, infinite if the event did not come."""

    name: str
    killed: float
    started: float = math.inf
    booked: float = math.inf
    """The time of its first new booking."""
    repeated: int = 0
    """Retries by all services during the incident."""


@dataclass
class JournalOutage:
    """The time without a journal. Times have the same unit and the same meaning of infinity as in `Outage`."""

    killed: float
    started: float = math.inf
    noted: float = math.inf
    """The time of the first order from then on that all services had noted."""
    repeated: int = 0
    """Retries by all services during the incident."""


@dataclass
class Drain:
    """An instance that received SIGTERM. Times have the same unit and the same meaning of infinity as in `Outage`."""

    name: str
    signalled: float
    unready: float = math.inf
    """The time of its first 503 answer to `/readyz`."""
    accepted: int = 0
    """Connections that it accepted and answered from then on."""
    ended: float = math.inf
    status: int | None = None
    repeated: int = 0
    """Retries by all services during the incident."""


class Audit(NamedTuple):
    """The figures of one item in the ledger of the stock."""

    parcels: int = 0
    remaining: int = 0
    asked_again: int = 0
    """Parcels that the stock was asked to book more than once."""


@dataclass
class ChainStage:
    """The state of the demo of three services."""

    script: ChainScript
    record: ChainRecord = field(default_factory=ChainRecord)
    servers: list[str] = field(default_factory=list)
    """The name, address and process id of each server."""
    began: float | None = None
    """The time of the first order on the monotonic clock, or None before it."""
    crossing: Crossing | None = None
    outage: Outage | None = None
    journal_outage: JournalOutage | None = None
    drain: Drain | None = None
    before: Audit = field(default_factory=Audit)
    after: Audit = field(default_factory=Audit)
    noted: dict[str, int] = field(default_factory=dict)
    """The parcels that each service has noted in the journal since the first order."""

    def clock(self) -> float:
        """Return the seconds since the first order, or 0 before it."""
        return 0.0 if self.began is None else monotonic() - self.began


class ChainView(Protocol):
    """Shows the demo to the user."""

    def opened(self, stage: ChainStage) -> None:
        """Show the servers."""

    def crossed(self, crossing: Crossing) -> None:
        """Show the reports of the error."""

    def customers(self, rate: float) -> None:
        """Show the rate of the orders that begin now."""

    def news(self, at: float, words: str) -> None:
        """Show one event."""

    def tick(self, at: float, record: ChainRecord) -> None:
        """Show the numbers of orders. The demo calls this once a second."""

    def ended(self, criteria: list[Criterion]) -> None:
        """Show the results."""

    def interrupted(self) -> None:
        """Show that a signal stopped the demo."""

    def failed(self, words: str) -> None:
        """Show why the demo has no result."""
