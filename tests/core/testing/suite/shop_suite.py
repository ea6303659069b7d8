"""The tests of the service in plugin_shop.py, with the fixtures of the plugin, in the order in which they run."""

from __future__ import annotations

import threading
import time

import plugin_shop as shop
import pytest

from resilience import CircuitOpenError, Pipeline, RateLimit, RateLimitedError
from resilience.testing import ManualClock, RecordingListener, policies_off


@pytest.fixture(autouse=True)
def no_calls() -> None:
    shop.calls.clear()


def test_a_manual_clock_moves_a_breaker(resilience_clock: ManualClock) -> None:
    """The circuit half-opens when the test says that its time has passed, and retries sleep on the same clock."""
    began = time.monotonic()
    with pytest.raises(CircuitOpenError):
        shop.charge("o-1")
    assert shop.calls == ["o-1"] * 2  # the third attempt met the open circuit
    assert len(resilience_clock.slept) == 2
    with pytest.raises(CircuitOpenError):
        shop.payments.call(str.upper, "x")
    resilience_clock.advance(30)
    assert shop.payments.call(str.upper, "x") == "X"
    assert time.monotonic() - began < 5


async def test_a_manual_clock_moves_awaiting_calls(resilience_clock: ManualClock) -> None:
    """The waits of awaited calls move the clock, too."""
    with pytest.raises(CircuitOpenError):
        await shop.acharge("o-1")
    assert len(resilience_clock.slept) == 2


def test_a_manual_clock_moves_limits_caches_and_deadlines(resilience_clock: ManualClock) -> None:
    """Buckets fill, results expire and deadlines pass as the test moves the clock."""
    assert shop.uploads.acquire("a").allowed
    assert not shop.uploads.acquire("a").allowed
    assert shop.count("pen") == shop.count("pen") == 1
    deadline = shop.deadline()
    resilience_clock.advance(3601)
    assert shop.uploads.acquire("a").allowed
    assert shop.count("pen") == 2
    assert deadline.expired


def test_the_state_of_the_test_before_is_gone_1() -> None:
    """Leaves an open circuit, a spent bucket, a cached result, a key and a drain behind."""
    with pytest.raises(ConnectionError):
        shop.ask("acme")
    with pytest.raises(CircuitOpenError):
        shop.ask("acme")
    assert [shop.name_of("a") for _ in range(3)] == ["A", "A", "unknown"]
    assert shop.uploads.acquire("a").allowed
    shop.count("pen")
    shop.lifecycle.started()
    assert shop.lifecycle.drain()


def test_the_state_of_the_test_before_is_gone_2() -> None:
    """A test finds closed circuits, full buckets, empty caches, no keys, zero counts, and a process that is ready."""
    assert shop.count("pen") == 1
    assert len(shop.tenants) == 0
    with pytest.raises(ConnectionError):
        shop.ask("acme")
    assert shop.name_of("a") == "A"
    assert shop.uploads.acquire("a").allowed
    assert (shop.lifecycle.state, shop.lifecycle.is_draining) == ("ready", False)


def test_no_waits(resilience_no_waits: None) -> None:
    """Retries follow at once."""
    began = time.monotonic()
    with pytest.raises(CircuitOpenError):
        shop.charge("o-1")
    assert time.monotonic() - began < 5


def test_everything_off(resilience_off: None) -> None:
    """Each call is made once, and its own outcome is final; a policy counts none of them."""
    for _ in range(5):
        with pytest.raises(ConnectionError):
            shop.charge("o-1")
    assert len(shop.calls) == 5
    assert [shop.name_of("a") for _ in range(5)] == ["A"] * 5
    with pytest.raises(ValueError, match="bad"):
        shop.name_of("bad")
    assert (shop.count("pen"), shop.count("pen")) == (6, 7)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            list(shop.items())
        with pytest.raises(ConnectionError):
            shop.ask("acme")
        with pytest.raises(ConnectionError), shop.payments.with_policies(*shop.payments.policies[1:]).guard():
            shop.fail("block")
    assert shop.payments.snapshot()["policies"][1]["state"] == "closed"


async def test_everything_off_awaiting(resilience_off: None) -> None:
    """The same for awaited calls, generators and blocks."""
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await shop.acharge("o-1")
    assert len(shop.calls) == 5
    assert (await shop.acount("pen"), await shop.acount("pen")) == (6, 7)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            async for _item in shop.aitems():
                pass
        async with shop.stock.with_policies(shop.stock.policies[1]).guard():
            pass


async def test_everything_off_leaves_blocking_calls_in_their_threads(resilience_off: None) -> None:
    """A `ThreadPoolBulkhead` runs a blocking call in a thread of its own, also while it limits nothing."""
    assert await shop.reports.acall(threading.get_ident) != threading.get_ident()


def test_a_call_ends_as_it_began() -> None:
    """A call that was admitted before the switch is counted; a call that began while it was off is not."""
    generator = shop.items()
    next(generator)
    with policies_off(), pytest.raises(ConnectionError):
        next(generator)
    with pytest.raises(CircuitOpenError):
        next(shop.items())


def test_a_call_that_began_off_stays_off() -> None:
    """A call that began while the policies were off changes no state when it ends."""
    with policies_off():
        generator = shop.items()
        next(generator)
    with pytest.raises(ConnectionError):
        next(generator)
    assert next(shop.items()) == 1


def test_recorded_events(resilience_events: RecordingListener, resilience_clock: ManualClock) -> None:
    """The events of all policies are recorded, those of keys and of new pipelines as well."""
    with pytest.raises(CircuitOpenError):
        shop.charge("o-1")
    with pytest.raises(ConnectionError):
        shop.ask("acme")
    assert {"retry.scheduled", "breaker.opened", "breaker.rejected"} <= set(resilience_events.kinds)
    keyed = [event for event in resilience_events.events if event.facts.get("key") == "acme"]
    assert [event.kind for event in keyed] == ["breaker.opened"]
    new = Pipeline("new", RateLimit("1/hour"))
    new.call(str)
    with pytest.raises(RateLimitedError):
        new.call(str)
    assert resilience_events.events[-1].policy == "new.ratelimit"
    assert resilience_clock.slept
