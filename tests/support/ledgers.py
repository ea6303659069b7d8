"""The ledger of a fleet's retry budget: a model of `ledger.lua` in memory, and instances that lease from a ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from resilience.budget._lease_machine import BudgetLease, LeaseRequest

__all__ = ("Instance", "Ledger", "ModelLedger", "Record")

LIFETIME = 5.0


@dataclass
class Record:
    """What the ledger knows of one instance."""

    sequence: int
    firsts: int
    lease: int
    end: float


class Ledger(Protocol):
    """A ledger, in memory or on a server."""

    def lease(self, instance: str, request: LeaseRequest, ratio: float, minimum: int) -> tuple[int, int]:
        """Return the lease, -1 for a request that was overtaken, and the limit of the fleet."""
        ...


@dataclass
class ModelLedger:
    """The ledger in memory."""

    now: float = 0.0
    records: dict[str, Record] = field(default_factory=dict)

    def lease(self, instance: str, request: LeaseRequest, ratio: float, minimum: int) -> tuple[int, int]:
        """Return the lease and the limit, as the script does."""
        self.records = {
            name: record for name, record in self.records.items() if record.end > self.now or name == instance
        }
        known = self.records.get(instance)
        if known is not None and request.sequence <= known.sequence:
            return -1, 0
        others = [record for name, record in self.records.items() if name != instance]
        firsts = request.firsts + sum(each.firsts for each in others)
        limit = max(minimum, int(firsts * round(ratio * 1e6) / 1e6 + 1e-9))
        lease = max(request.held, min(request.want, limit - sum(each.lease for each in others)))
        self.records[instance] = Record(request.sequence, request.firsts, lease, self.now + LIFETIME)
        return lease, limit


@dataclass
class Instance:
    """An instance with its calls in flight."""

    name: str
    lease: BudgetLease = field(default_factory=BudgetLease)
    calls: int = 0
    used: int = 0
    asked: LeaseRequest | None = None

    @property
    def firsts(self) -> int:
        """Calls at their first attempt."""
        return max(0, self.calls - self.used)

    def spend(self, now: float) -> bool:
        """Start a retry if the lease has room."""
        limit = self.lease.limit(now)
        if limit is None:
            return False
        if self.used + 1 > limit:
            self.lease.refuse()
            return False
        self.used += 1
        return True
