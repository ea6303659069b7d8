"""Where buckets live, as a third party would write it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, runtime_checkable

from resilience.clock import Clock
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota

__all__ = ("Ledger", "LocalLedger", "SpendingLedger", "Store")


class Ledger(Protocol):
    """The buckets of one quota, one a key. Safe to use from any thread and task."""

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens (1 or more); `allowance` is how many seconds of waiting the caller accepts for them."""
        ...

    def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Coroutine[Any, Any, Decision]:
        """Do the same, suspending this task instead of blocking its thread."""
        ...

    def give_back(self, key: str, decision: Decision) -> None:
        """Return what a wait that never ended had paid for, where that is known to be harmless. Never blocks."""
        ...

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`."""
        ...


@runtime_checkable
class SpendingLedger(Ledger, Protocol):
    """A ledger that spares policies a decision when there is nothing to tell. Only for stores that do not wait."""

    def spend(self, key: str, /) -> Decision | None:
        """Pay one token; return the refusal, or None where it was paid."""
        ...


@runtime_checkable
class LocalLedger(Ledger, Protocol):
    """A ledger whose buckets are here: they can be looked at and drained while somebody else is served."""

    def look(self, key: str = "") -> Decision:
        """Return what is there, taking nothing."""
        ...

    def drain(self, key: str = "", wait: float = 0.0) -> None:
        """Take all tokens; the next one comes in `wait` seconds at the earliest."""
        ...


@runtime_checkable
class Store(Protocol):
    """Opens ledgers. Two with the same name share their buckets."""

    @property
    def waits(self) -> bool:
        """Whether deciding may block: then policies ask it where blocking or awaiting is allowed."""
        ...

    def open(self, quota: Quota, clock: Clock) -> Ledger:
        """Return the buckets of `quota.name`."""
        ...
