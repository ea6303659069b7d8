"""The figures of the process, read when a collector asks."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

from resilience.telemetry import Readings
from resilience.telemetry._loop_watch_aio import watch_loop


def figures() -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (family.metric.name.removeprefix("resilience.process."), point.labels): point.value
        for family in Readings().collect()
        if family.metric.name.startswith("resilience.process.")
        for point in family.points
    }


def test_threads_memory_and_collections() -> None:
    """New threads and a run of the garbage collector are seen; the memory is that of a Python process."""
    before = figures()
    release = threading.Event()
    threads = [threading.Thread(target=release.wait) for _ in range(50)]
    for thread in threads:
        thread.start()
    gc.collect()
    after = figures()
    release.set()
    for thread in threads:
        thread.join()
    assert after["threads", ()] > before["threads", ()] + 25  # threads of other tests may end meanwhile
    assert after["collections", ("2",)] > before["collections", ("2",)]
    assert 5_000_000 < after["memory", ()] < 100_000_000_000


def test_a_blocked_loop_is_late() -> None:
    """The lag grows by about the time for which code has blocked the loop; tasks are counted."""

    async def block() -> tuple[float, float]:
        watch_loop()
        watch_loop()
        await asyncio.sleep(0.01)
        before = figures().get(("loop_lag", ()), 0.0)
        tasks = figures()["tasks", ()]
        time.sleep(0.6)  # noqa: ASYNC251 - as careless code does
        await asyncio.sleep(0.05)
        return figures()["loop_lag", ()] - before, tasks

    lag, tasks = asyncio.run(block())
    assert 0.3 < lag < 10
    assert tasks >= 1


def test_a_loop_that_ended_is_not_kept() -> None:
    """The watch of a loop keeps it alive no longer than its own code does, and the lag so far stays."""
    before = figures()[("loop_lag", ())]
    loop = asyncio.new_event_loop()

    async def late() -> None:
        watch_loop()
        time.sleep(0.4)  # noqa: ASYNC251 - as careless code does
        await asyncio.sleep(0.01)

    loop.run_until_complete(late())
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    assert figures()[("loop_lag", ())] > before + 0.1
