"""The permit of a call that passes whatever the circuit thinks of it."""

from __future__ import annotations

from collections.abc import Callable

from resilience.breaker._epochs import Closed
from resilience.breaker._rules import Trip
from resilience.breaker._window import Counts

__all__ = ("UNCOUNTED",)


class _NoRule:
    """Counts nothing and never trips."""

    def __init__(self) -> None:
        self.succeeded: Callable[[], object] = int  # the cheapest call there is

    def failed(self, _now: float, *, slow: bool = False) -> Trip | None:  # noqa: ARG002 - a rule's signature
        return None

    def counts(self, _now: float) -> Counts:
        return Counts(0, 0)

    def answers(self) -> None:
        """Nothing is known."""


UNCOUNTED = Closed(_NoRule())
"""An epoch no circuit is ever in: what is reported to it changes nothing."""
