"""The lease of an instance in the retry budget of a fleet: the sum of all leases stays within the fleet's limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledgers import Instance, ModelLedger

from resilience.budget._lease_machine import TRUST, BudgetLease, LeaseRequest, local_limit

RATIO, MINIMUM = 0.25, 3


def test_without_a_lease_there_is_no_limit_of_the_fleet() -> None:
    """Before the first answer the instance has no lease, and reports its attempts in flight as held."""
    lease = BudgetLease()
    assert lease.limit(0.0) is None
    assert lease.request(0.0, firsts=8, used=1, ratio=RATIO) == LeaseRequest(1, 8, 1, 2)
    assert lease.limit(0.0) is None
    lease.answered(2)
    assert lease.limit(0.0) == 2


def test_a_lease_ends_before_its_record() -> None:
    """The trust counts from the moment of the request, so the ledger keeps the record for longer."""
    lease = BudgetLease()
    lease.request(10.0, 8, 0, RATIO)
    lease.answered(2)
    assert lease.limit(10.0 + TRUST - 0.01) == 2
    assert lease.limit(10.0 + TRUST) is None


def test_a_part_that_is_not_needed_is_given_back_before_the_request() -> None:
    """If the reply is lost, the instance spends no part that another may have by now."""
    lease = BudgetLease()
    lease.request(0.0, 40, 0, RATIO)
    lease.answered(10)
    assert lease.request(1.0, 4, 2, RATIO) == LeaseRequest(2, 4, 2, 2)
    assert lease.limit(1.0) == 2


def test_a_refusal_asks_for_more() -> None:
    """An instance whose calls fail borrows from those whose calls succeed."""
    lease = BudgetLease()
    lease.request(0.0, 4, 0, RATIO)
    lease.answered(1)
    lease.refuse()
    lease.refuse()
    assert lease.request(1.0, 4, 1, RATIO).want == 3
    lease.answered(3)
    assert lease.request(2.0, 4, 0, RATIO).want == 1


def test_an_answer_to_an_overtaken_request_changes_nothing() -> None:
    """The lease stays as it is."""
    lease = BudgetLease()
    lease.request(0.0, 4, 0, RATIO)
    lease.answered(-1)
    assert lease.limit(0.0) is None


@pytest.mark.parametrize(
    ("firsts", "instances", "limit"), [(0, 1, 3), (0, 2, 1), (0, 4, 0), (100, 4, 25), (4, 1, 3), (8, 0, 3)]
)
def test_without_redis_an_instance_has_its_share(firsts: int, instances: int, limit: float) -> None:
    """The minimum is divided by the instances, and the ratio counts the calls of this instance."""
    assert local_limit(firsts, instances, RATIO, MINIMUM) == limit


NAMES = st.sampled_from(("a", "b", "c"))


class FleetOfBudgets(RuleBasedStateMachine):
    """Instances that lease from one ledger, with lost and late requests, lost replies, crashes and time."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ModelLedger()
        self.instances = {name: Instance(name) for name in ("a", "b", "c")}
        self.late: list[tuple[str, LeaseRequest]] = []
        self.born = 3

    @rule(name=NAMES, calls=st.integers(0, 40))
    def load(self, name: str, calls: int) -> None:
        """Change the number of calls in flight."""
        self.instances[name].calls = calls

    @rule(name=NAMES, wanted=st.integers(1, 20))
    def fail(self, name: str, wanted: int) -> None:
        """Let calls fail and want a retry; each one that starts is within the lease."""
        for _ in range(wanted):
            self.instances[name].spend(self.ledger.now)

    @rule(name=NAMES, ended=st.integers(1, 20))
    def end(self, name: str, ended: int) -> None:
        """Let retries end."""
        instance = self.instances[name]
        instance.used = max(0, instance.used - ended)

    @rule(name=NAMES, fate=st.sampled_from(("answered", "reply lost", "late", "lost")))
    def round(self, name: str, fate: str) -> None:
        """Make a round; the request or its reply may be lost, or the request may be executed later."""
        instance = self.instances[name]
        request = instance.lease.request(self.ledger.now, instance.firsts, instance.used, RATIO)
        granted = self.execute(name, request) if fate in {"answered", "reply lost"} else -1
        if fate == "late":
            self.late.append((instance.name, request))
        if fate == "answered":
            instance.lease.answered(granted)

    def execute(self, name: str, request: LeaseRequest) -> int:
        """Run the script; a larger lease is within the limit of that moment."""
        granted, limit = self.ledger.lease(self.instances[name].name, request, RATIO, MINIMUM)
        if granted > request.held:
            assert sum(record.lease for record in self.ledger.records.values()) <= limit
        return granted

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def arrive(self, data: Any) -> None:
        """Let a late request reach the ledger after all, in any order; its reply is lost."""
        name, request = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
        self.ledger.lease(name, request, RATIO, MINIMUM)

    @rule(name=NAMES)
    def crash(self, name: str) -> None:
        """Let an instance die with its retries; another one takes its place."""
        self.instances[name] = Instance(f"{name}{self.born}")
        self.born += 1

    @rule(seconds=st.floats(0.1, 6))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.ledger.now += seconds

    @invariant()
    def no_instance_holds_more_than_the_ledger_knows(self) -> None:
        """Keep each valid lease in the ledger: the attempts in flight are bounded by the sum there."""
        for instance in self.instances.values():
            limit = instance.lease.limit(self.ledger.now)
            record = self.ledger.records.get(instance.name)
            if limit is not None and limit > instance.used:
                assert record is not None
                assert record.end > self.ledger.now
                assert limit <= record.lease


TestFleetOfBudgets = FleetOfBudgets.TestCase
TestFleetOfBudgets.__doc__ = "No interleaving, loss or crash makes the leases of a fleet larger than its ledger says."


def test_an_unlimited_ratio_of_no_calls_is_the_minimum() -> None:
    """The ledger's limit is at least the minimum, and follows the calls of all instances."""
    ledger = ModelLedger()
    assert ledger.lease("a", LeaseRequest(1, 0, 0, 100), RATIO, MINIMUM) == (3, 3)
    assert ledger.lease("b", LeaseRequest(1, 80, 0, 100), RATIO, MINIMUM) == (17, 20)
    assert math.isclose(ledger.records["b"].end, 5.0)
