"""The parts that instances share, on a cluster: each is on the master that has its keys."""

from __future__ import annotations

import contextlib
import functools
import uuid

import pytest
from redis_groups import RedisCluster, wait_until

from resilience import CircuitBreaker, CircuitOpenError
from resilience.breaker.shared import FleetBreakers
from resilience.budget import RetryBudget
from resilience.fleet import Fleet
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.servers]

NAMES = [f"dependency-{number}" for number in range(6)]


def fail() -> None:
    """Fail as a dependency does."""
    raise ConnectionError("refused")


def is_open(breaker: CircuitBreaker) -> bool:
    """Whether the circuit refuses calls."""
    return breaker.current_state == "open"


def lets_pass(breaker: CircuitBreaker) -> bool:
    """Whether a call passes."""
    with contextlib.suppress(CircuitOpenError):
        return breaker.call(lambda: True)
    return False


def test_what_instances_share_on_a_cluster(redis_cluster: RedisCluster) -> None:
    """On every master, a trip and an order of one instance reach the other one; both are counted and share budgets."""
    owners = {redis_cluster.owner_of(f"{{resilience:fleet:breaker:{name}}}") for name in NAMES}
    assert owners == {0, 1, 2}
    name = f"cluster_{uuid.uuid4().hex}"  # a program has one budget of a name
    ledger = f"{{resilience:fleet:budget:{name}}}"
    owner = redis_cluster.owner_of(ledger)
    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(contextlib.closing(RedisConnection.from_url(redis_cluster.url, timeout="1s")))
            for _ in range(2)
        )
        mine = {name: CircuitBreaker(name=name, fail_max=2, shared=one, quorum=1) for name in NAMES}
        theirs = {name: CircuitBreaker(name=name, fail_max=2, shared=other, quorum=1) for name in NAMES}
        budget = RetryBudget(name=name, shared=one)
        budget.enter()
        assert budget.spend(retrying=False)
        for breaker in (*mine.values(), *theirs.values()):
            breaker.call(int)
        wait_until(lambda: Fleet.of(one).instances == Fleet.of(other).instances == 2)

        for breaker in mine.values():
            for _ in range(2):
                with contextlib.suppress(ConnectionError):
                    breaker.call(fail)
        for breaker in theirs.values():
            wait_until(functools.partial(is_open, breaker))

        operator = FleetBreakers(other)
        assert {state.name: state.state for state in operator.states()} == dict.fromkeys(NAMES, "open")
        for name in NAMES:
            operator.disable(name, expires="1m", reason="drill", author="ops")
            wait_until(functools.partial(lets_pass, mine[name]))
        assert {change.name for change in operator.history()} == set(NAMES)
        wait_until(lambda: redis_cluster.run(owner, "EXISTS", f"{ledger}:leases"))
        budget.leave(retrying=True)
        assert not Fleet.of(one).is_lost
