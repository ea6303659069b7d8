"""One circuit for all instances of a service: the record on Redis, and how each instance keeps in step with it.

Applications share a circuit by `CircuitBreaker(shared=connection)`. `FleetBreakers` is for operators.
"""

from resilience.breaker.shared._operator import FleetBreakers, FleetChange, FleetState

__all__ = ("FleetBreakers", "FleetChange", "FleetState")
