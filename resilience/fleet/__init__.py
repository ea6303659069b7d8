"""The instances of a service that share a Redis: their number, and the messages between them.

`Fleet.of(connection)` is the fleet of a connection. Shared breakers, shared budgets and limiters use it by themselves.
`FleetPartner` and `FleetCall` are for code that keeps its own state in the fleet.
"""

from resilience.fleet._fleet import Fleet
from resilience.fleet._partner import FleetCall, FleetPartner

__all__ = ("Fleet", "FleetCall", "FleetPartner")
