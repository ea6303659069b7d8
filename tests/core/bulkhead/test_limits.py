"""Limits that change, limits that only watch, and places that outlive their call."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError, ConfigurationError, DeadlineExceededError, Pipeline, Timeout
from resilience.testing import RecordingListener

WAITS = pytest.mark.parametrize("max_wait", [0, 5])


def take(bulkhead: Bulkhead) -> Any:
    """Take a place the way a blocking call does."""
    return bulkhead.admit_blocking() if bulkhead.waits else bulkhead.admit()


@WAITS
def test_more_places_are_there_at_once(max_wait: float) -> None:
    """A higher limit admits more calls from now on, and is the limit in the policy's options."""
    listener = RecordingListener()
    bulkhead = Bulkhead(1, max_wait, name="b")
    Pipeline("p", bulkhead, listeners=[listener])
    permits = [take(bulkhead)]
    bulkhead.resize(3)
    permits += [take(bulkhead), take(bulkhead)]
    assert (bulkhead.limit, bulkhead.concurrent_calls) == (3, 3)
    assert bulkhead.describe()["options"]["max_concurrent_calls"] == 3
    assert [(event.kind, event.facts) for event in listener.events] == [("bulkhead.resized", {"before": 1, "after": 3})]
    for permit in permits:
        bulkhead.on_success(permit, None)
    assert bulkhead.is_idle


@WAITS
def test_fewer_places_come_about_as_calls_end(max_wait: float) -> None:
    """A lower limit breaks no call off: places are withdrawn as calls end, and no call is let in before that."""
    bulkhead = Bulkhead(4, max_wait and 0.01)
    permits = [take(bulkhead) for _ in range(3)]
    bulkhead.resize(1)
    assert (bulkhead.limit, bulkhead.concurrent_calls) == (1, 3)
    for left in (2, 1):
        with pytest.raises(BulkheadFullError, match="all 1 places"):
            take(bulkhead)
        bulkhead.on_success(permits.pop(), None)
        assert bulkhead.concurrent_calls == left
    bulkhead.on_success(permits.pop(), None)
    assert bulkhead.is_idle
    permit = take(bulkhead)
    with pytest.raises(BulkheadFullError):
        take(bulkhead)
    bulkhead.on_success(permit, None)


@WAITS
def test_a_limit_lowered_and_raised_again_adds_up(max_wait: float) -> None:
    """Whatever was still to be withdrawn when the limit rises again is forgiven, not lost and not lent twice."""
    bulkhead = Bulkhead(4, max_wait and 0.01)
    permits = [take(bulkhead) for _ in range(4)]
    bulkhead.resize(1)
    bulkhead.resize(3)
    bulkhead.on_success(permits.pop(), None)
    with pytest.raises(BulkheadFullError):
        take(bulkhead)
    bulkhead.on_success(permits.pop(), None)
    permits.append(take(bulkhead))
    bulkhead.resize(5)
    permits += [take(bulkhead), take(bulkhead)]
    with pytest.raises(BulkheadFullError):
        take(bulkhead)
    assert bulkhead.concurrent_calls == 5
    for permit in permits:
        bulkhead.on_success(permit, None)
    assert bulkhead.is_idle


def test_more_places_go_to_those_who_wait() -> None:
    """A higher limit wakes as many callers in line, first come first served."""
    bulkhead = Bulkhead(1, max_wait=30)
    permit, order = bulkhead.admit_blocking(), []

    async def wait(number: int) -> None:
        mine = await bulkhead.admit_awaiting()
        order.append(number)
        await asyncio.sleep(0.01)
        bulkhead.on_success(mine, None)

    async def main() -> None:
        tasks = [asyncio.ensure_future(wait(number)) for number in range(3)]
        await asyncio.sleep(0)
        bulkhead.resize(3)
        assert (bulkhead.concurrent_calls, bulkhead.waiting) == (3, 1)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == [0, 1, 2]
    bulkhead.on_success(permit, None)
    assert bulkhead.is_idle


@WAITS
def test_resizing_among_threads_loses_no_place(max_wait: float) -> None:
    """With threads calling and one changing the limit, every place is accounted for in the end."""
    bulkhead, stop = Bulkhead(4, max_wait), threading.Event()
    pipeline = Pipeline("p", bulkhead)

    def call() -> None:
        while not stop.is_set():
            try:
                pipeline.call(time.sleep, 0)
            except BulkheadFullError:
                time.sleep(0)

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(call) for _ in range(6)]
        for round_ in range(300):
            bulkhead.resize(1 + round_ % 7)
        bulkhead.resize(2)
        stop.set()
        for future in futures:
            future.result(10)
    assert bulkhead.is_idle
    permits = [take(bulkhead), take(bulkhead)]
    assert bulkhead.concurrent_calls == 2
    for permit in permits:
        bulkhead.on_success(permit, None)


@pytest.mark.parametrize("limit", [0, -1, True, "ten", 1_000_000])
def test_bad_limits_change_nothing(limit: Any) -> None:
    """A bad limit is refused by the option's name, and the old one stays."""
    bulkhead = Bulkhead(2)
    with pytest.raises(ConfigurationError, match="max_concurrent_calls="):
        bulkhead.resize(limit)
    assert bulkhead.limit == bulkhead.options.max_concurrent_calls == 2


@WAITS
@pytest.mark.parametrize("colour", ["blocking", "awaiting"])
def test_in_shadow_nothing_is_refused_and_nobody_waits(max_wait: float, colour: str) -> None:
    """With `shadow` a call too many is reported as refused, marked as shadow, and made at once."""
    listener = RecordingListener()
    bulkhead = Bulkhead(1, max_wait, shadow=True)
    pipeline = Pipeline("p", bulkhead, listeners=[listener])

    async def act() -> int:
        return 7

    def nested() -> int:
        return pipeline.call(lambda: 7) if colour == "blocking" else asyncio.run(pipeline.acall(act))

    assert pipeline.call(nested) == 7
    [event] = listener.events
    assert (event.kind, event.facts) == (
        "bulkhead.rejected",
        {"reason": "full", "max_concurrent_calls": 1, "shadow": True},
    )
    assert bulkhead.snapshot() == {"limit": 1, "concurrent": 0, "waiting": 0, "rejected": 1}
    assert repr(bulkhead) == "<Bulkhead 'p.bulkhead' 0/1, shadow>"


@pytest.mark.realtime
@WAITS
def test_an_interrupted_call_keeps_its_place_until_its_thread_ends(max_wait: float) -> None:
    """After Ctrl-C in a timed blocking call the thread still runs, and so its place is taken (L9)."""
    release, main = threading.Event(), threading.main_thread().ident
    bulkhead, timeout = Bulkhead(1, max_wait and 0.01), Timeout(30)
    pipeline = Pipeline("p", bulkhead, timeout)
    assert pipeline.call(int) == 0  # the thread is there: what follows interrupts the wait, not its start
    assert main is not None

    def interrupted() -> None:
        time.sleep(0.03)
        signal.pthread_kill(main, signal.SIGINT)
        release.wait(10)

    with pytest.raises(KeyboardInterrupt):
        pipeline.call(interrupted)
    assert (bulkhead.concurrent_calls, timeout.busy_threads) == (1, 1)
    with pytest.raises(BulkheadFullError):
        pipeline.call(int)
    release.set()
    end = time.monotonic() + 5
    while not bulkhead.is_idle and time.monotonic() < end:
        time.sleep(0.001)
    assert bulkhead.is_idle
    assert pipeline.call(int) == 0


def test_an_interrupt_outside_of_the_call_gives_the_place_back_at_once() -> None:
    """A call that is abandoned while an earlier late call is handled gives back its own place at once."""
    release = threading.Event()
    bulkhead = Bulkhead(2)
    pipeline = Pipeline("p", bulkhead, Timeout("10ms"))
    try:
        pipeline.call(release.wait, 10)
    except DeadlineExceededError:
        bulkhead.on_abandon(bulkhead.admit())
        assert bulkhead.concurrent_calls == 1
    release.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@WAITS
def test_a_forked_child_has_the_limit_of_the_day(max_wait: float) -> None:
    """A child starts with as many places as the limit says at the fork, none of them taken and none owed."""
    bulkhead = Bulkhead(5, max_wait and 0.01)
    permits = [take(bulkhead) for _ in range(5)]
    bulkhead.resize(2)
    pid = os.fork()
    if pid == 0:
        mine = [take(bulkhead), take(bulkhead)]
        is_right = bulkhead.concurrent_calls == 2
        for permit in [*permits, *mine]:
            bulkhead.on_abandon(permit)
        os._exit(0 if is_right and bulkhead.is_idle else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert bulkhead.concurrent_calls == 5
