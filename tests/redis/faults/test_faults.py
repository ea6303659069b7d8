"""Each fault of Redis under a load: no call is lost, none waits long, the limit holds, and Redis is found again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis_faults import BURST, FAULTS, RATE, Fault, measured, most_beyond
from redis_process import RedisProcess

pytestmark = [pytest.mark.redis, pytest.mark.realtime, pytest.mark.once]
TIMEOUT = 0.1  # twice the default: these machines are shared
BUSY = 1.5  # what a machine that stands still adds to a decision, in seconds
MARGIN = 10
"""Tokens by which a law may seem broken: the elapsed time is that of the callers, and not the server's."""


def check(fault: Fault, server: RedisProcess, factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    for colour, figures in measured(fault, server, timeout=TIMEOUT, factory=factory).items():
        shown = f"{fault.name}, {colour}: {figures}"
        assert figures.lost == 0, shown
        assert figures.delay < (0.0 if colour == "breaker" else TIMEOUT) + BUSY, shown
        assert figures.over <= fault.fills * BURST * max(1, figures.outages) + MARGIN, shown
        assert figures.calls > 100, shown
        if colour != "breaker":  # it has no outage of its own
            # A machine that stands still for longer than the bound begins an outage of its own, without a code.
            is_late = figures.delay >= TIMEOUT
            assert (figures.outages > 0) == fault.is_outage or (is_late and not fault.is_outage), shown
            assert fault.code is None or fault.code in figures.codes or is_late, shown


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_costs_no_call(own_redis_server: RedisProcess, fault: Fault) -> None:
    """Under each fault, limiters and a shared breaker lose no call, wait for one bound, and find Redis again."""
    check(fault, own_redis_server)


def test_a_fault_on_uvloop(own_redis_server: RedisProcess) -> None:
    """The same holds on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    check(FAULTS[0], own_redis_server, uvloop.new_event_loop)


def test_the_worst_period_is_found() -> None:
    """A burst too many shows, however few calls are admitted before and after it; a law that holds shows 0."""
    steady = [(number / RATE, number / RATE) for number in range(100)]
    bursts = [(10.0, 10.0)] * (2 * BURST + 1)
    assert most_beyond(steady) == 0
    assert most_beyond([*steady, *bursts[: BURST + 1]]) <= 1
    assert most_beyond([*steady, *bursts]) == BURST + 1
    assert most_beyond([(9.0, 10.0)] * (BURST + RATE)) == 0  # the decisions may have been made over a second
