"""Many awaiting calls under one timeout: one timer watches the oldest, and each still ends on its own time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilience import Deadline, DeadlineExceededError, Pipeline, Timeout


async def slow() -> None:
    await asyncio.sleep(5)


async def quick() -> None:
    await asyncio.sleep(0)


async def elapsed(guarded: Callable[[], Awaitable[object]], start_after: float = 0.0) -> float:
    await asyncio.sleep(start_after)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        await guarded()
    return time.monotonic() - begin


async def elapsed_within(guarded: Callable[[], Awaitable[object]], seconds: float) -> float:
    with Deadline.after(seconds):
        return await elapsed(guarded)


@pytest.mark.realtime
async def test_each_call_ends_on_its_own_time() -> None:
    """Calls begun one after the other under one timeout are each cut off after their own allowance."""
    guarded = Pipeline("slow", Timeout(0.1))(slow)
    took = await asyncio.gather(*(elapsed(guarded, start_after=0.02 * place) for place in range(5)))
    assert all(0.095 <= each < 2 for each in took), took


@pytest.mark.realtime
async def test_a_sooner_deadline_does_not_wait_in_line() -> None:
    """A call whose caller waits for less than the timeout allows is cut off then, whichever calls began before."""
    guarded = Pipeline("slow", Timeout(0.3))(slow)
    patient, hurried = await asyncio.gather(elapsed(guarded), elapsed_within(guarded, 0.05))
    assert 0.05 <= hurried < 0.3 <= patient


@pytest.mark.realtime
async def test_one_timer_watches_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand calls share one timer an allowance, and it finds the next call after they have gone."""
    loop, timers = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def counting(delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timers.append(delay)
        return call_later(delay, callback, *args, context=context)

    monkeypatch.setattr(loop, "call_later", counting)
    timeout = Timeout(0.2)
    guarded, begin = Pipeline("quick", timeout)(quick), time.monotonic()
    for _ in range(10):
        await asyncio.gather(*(guarded() for _ in range(100)))
    assert 1 <= len(timers) <= 1 + (time.monotonic() - begin) / 0.2
    assert 0.19 <= await elapsed(Pipeline("slow", timeout)(slow)) < 2


@pytest.mark.realtime
def test_a_timeout_serves_one_loop_after_another() -> None:
    """A timeout used in a loop that is closed works in the next one."""
    guarded = Pipeline("slow", Timeout(0.05))(slow)
    assert all(asyncio.run(elapsed(guarded)) < 2 for _ in range(2))
