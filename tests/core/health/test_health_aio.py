import asyncio
import contextvars
import functools
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilience.health import Health, HealthOptions, Report
from resilience.timeout import Deadline

PATIENT = HealthOptions(timeout=10.0)


def statuses(report: Report) -> dict[str, str]:
    return {entry.name: entry.status for entry in report.entries}


async def until(event: asyncio.Event | threading.Event) -> None:
    async with asyncio.timeout(5):
        while not event.is_set():
            await asyncio.sleep(0.002)


async def test_every_colour_of_check() -> None:
    """Async, plain, hidden-async, partial and object checks all run, and the loop's own checks run in the loop."""
    here = asyncio.get_running_loop()
    seen: dict[str, object] = {}

    async def asynchronous(name: str = "async") -> None:
        seen[name] = asyncio.get_running_loop()

    class Callable:
        async def __call__(self) -> None:
            await asynchronous("object")

    health = Health(PATIENT)
    health.add("async", asynchronous)
    health.add("partial", functools.partial(asynchronous, "partial"))
    health.add("object", Callable())
    health.add("hidden", lambda: asynchronous("hidden"))
    health.add("plain", lambda: seen.setdefault("plain", threading.current_thread()))
    report = await health.areport("ready")
    assert set(statuses(report).values()) == {"ok"}
    assert seen.pop("plain") is not threading.current_thread()
    assert seen == dict.fromkeys(["async", "partial", "object", "hidden"], here)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), asyncio.CancelledError("mine"), TimeoutError()])
async def test_whatever_an_async_check_raises_is_its_failure(error: BaseException) -> None:
    """A check that raises any exception, even a cancellation of its own, has failed, and the loop goes on."""

    async def check() -> None:
        raise error

    async def refuses() -> bool:
        return False

    health = Health(PATIENT)
    health.add("bad", check)
    health.add("false", refuses)
    health.add("good", lambda: None)
    expected = {"ping": "ok", "bad": "failed", "false": "failed", "good": "ok"}
    assert statuses(await health.areport("ready")) == expected


def test_an_interrupt_still_interrupts() -> None:
    """Ctrl-C in a check stops the program, and does not block the check."""

    async def check() -> None:
        raise KeyboardInterrupt

    health = Health(PATIENT)
    health.add("c", check)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(health.areport("ready"))
    assert health._checks["c"]._machine.run is None


async def test_fifty_probes_run_a_slow_check_once() -> None:
    """Fifty tasks that probe at once share one run."""
    runs, go = [], asyncio.Event()

    async def slow() -> None:
        runs.append(1)
        await go.wait()

    health = Health(PATIENT)
    health.add("slow", slow)
    probes = [asyncio.create_task(health.areport("ready")) for _ in range(50)]
    await asyncio.sleep(0.01)
    go.set()
    assert all(report.ok for report in await asyncio.gather(*probes))
    assert len(runs) == 1
    assert not health._checks["slow"]._waiters


@pytest.mark.realtime
async def test_a_stuck_async_check_holds_up_nothing() -> None:
    """An async check that hangs is reported on time and not started again; others and liveness go on (L18)."""
    runs, go = [], asyncio.Event()

    async def stuck() -> None:
        runs.append(1)
        await go.wait()

    health = Health(HealthOptions(timeout=0.05, cache=0))
    health.add("stuck", stuck)
    health.add("well", lambda: None, timeout=10)
    started = time.monotonic()
    for _ in range(20):
        assert statuses(await health.areport("ready")) == {"ping": "ok", "stuck": "failed", "well": "ok"}
    assert time.monotonic() - started < 5  # 50 ms once, not twenty times
    assert len(runs) == 1
    go.set()
    async with asyncio.timeout(5):
        while health._checks["stuck"]._machine.run is not None:
            await asyncio.sleep(0.002)
    assert (await health.areport("ready")).ok
    assert len(runs) == 2


@pytest.mark.realtime
async def test_a_stuck_blocking_check_leaves_the_loop_alone() -> None:
    """A blocking check that hangs uses its own thread: liveness answers, and so does the default executor."""
    go = threading.Event()
    health = Health(HealthOptions(timeout=0.05))
    health.add("stuck", lambda: go.wait(20))
    assert not (await health.areport("ready")).ok
    assert (await health.areport("live")).ok
    assert await asyncio.to_thread(lambda: 7) == 7
    go.set()


async def test_a_cancelled_probe_leaves_the_check_running() -> None:
    """Cancelling a probe at any of its awaits loses nothing: the next probe joins the run and gets its answer."""
    runs, go = [], asyncio.Event()

    async def slow() -> None:
        runs.append(1)
        await go.wait()

    health = Health(PATIENT)
    health.add("slow", slow)
    for steps in range(4):
        probe = asyncio.create_task(health.areport("ready"))
        for _ in range(steps):
            await asyncio.sleep(0)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
    assert not health._checks["slow"]._waiters
    joined = asyncio.create_task(health.areport("ready"))
    await asyncio.sleep(0.01)
    gc.collect()
    go.set()
    assert (await joined).ok
    assert len(runs) == 1


async def test_no_request_leaks_into_a_check() -> None:
    """A check runs in an empty context: it has neither the deadline nor the variables of a request (L19)."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen = []

    async def check() -> None:
        seen.append((variable.get(), Deadline.current()))

    health = Health(HealthOptions(timeout=10.0, cache=0))

    def hidden() -> object:
        return check()

    health.add("loop", check)
    health.add("hidden", hidden)
    variable.set("request")
    with Deadline.after(5):
        assert (await health.areport("ready")).ok
    assert seen == [("none", None)] * 2


async def test_two_loops_and_a_thread_share_a_run() -> None:
    """A run started in one loop answers probes of another loop and of a plain thread."""
    runs, inside, go = [], threading.Event(), asyncio.Event()

    async def slow() -> None:
        runs.append(1)
        inside.set()
        await go.wait()

    health = Health(PATIENT)
    health.add("slow", slow)
    first = asyncio.create_task(health.areport("ready"))
    await until(inside)
    with ThreadPoolExecutor(2) as pool:
        other_loop = pool.submit(asyncio.run, health.areport("ready"))
        no_loop = pool.submit(health.report, "ready")
        async with asyncio.timeout(5):
            while len(health._checks["slow"]._waiters) < 3:
                await asyncio.sleep(0.002)
        go.set()
        assert (await first).ok
        assert (await asyncio.wrap_future(other_loop)).ok
        assert (await asyncio.wrap_future(no_loop)).ok
    assert len(runs) == 1


def test_a_loop_that_ends_gives_its_runs_up() -> None:
    """When asyncio.run() ends with a check under way, the next loop starts it again."""
    runs = []

    async def slow() -> None:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.sleep(60)

    health = Health(PATIENT)
    health.add("slow", slow)

    async def probe_and_leave() -> None:
        probe = asyncio.create_task(health.areport("ready"))
        await asyncio.sleep(0.01)
        probe.cancel()

    asyncio.run(probe_and_leave())
    assert asyncio.run(health.areport("ready")).ok
    assert len(runs) == 2


def test_a_run_cancelled_before_its_first_step_is_given_up() -> None:
    """A task that never ran does not block the check."""
    health = Health(PATIENT)
    runs = []

    async def check() -> None:
        runs.append(1)

    health.add("c", check)

    async def probe_and_leave() -> None:
        probe = asyncio.create_task(health.areport("ready"))
        asyncio.get_running_loop().call_soon(probe.cancel)

    asyncio.run(probe_and_leave())
    assert health.report("ready").ok


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_closed_in_the_middle_wedges_nothing() -> None:
    """A loop that was closed without ending its tasks loses its run; another loop or thread takes over."""
    runs = []

    async def slow() -> None:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.sleep(60)

    health = Health(PATIENT)
    health.add("slow", slow)
    loop = asyncio.new_event_loop()
    probe = loop.create_task(health.areport("ready"))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert health.report("ready").ok
    assert len(runs) == 2
    del probe
    gc.collect()
    assert health.report("ready").ok


@pytest.mark.realtime
def test_a_loop_that_pauses_past_the_timeout_is_given_up() -> None:
    """A loop that no longer runs, but was not closed, blocks the check no longer than its timeout."""
    runs = []

    async def slow() -> None:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.sleep(60)

    health = Health(HealthOptions(timeout=0.05, cache=0))
    health.add("slow", slow)
    loop = asyncio.new_event_loop()
    assert not loop.run_until_complete(health.areport("ready")).ok
    assert health.report("ready").ok
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    assert len(runs) == 2
    assert health.report("ready").ok


def test_a_loop_gone_before_the_hand_over_wedges_nothing() -> None:
    """If a plain function returns a coroutine after its loop was closed, the coroutine is closed."""
    inside, go = threading.Event(), threading.Event()
    runs = []

    async def awaited() -> None:
        runs.append("awaited")

    def hidden() -> object:
        runs.append("called")
        inside.set()
        assert go.wait(10)
        return awaited()

    health = Health(PATIENT)
    health.add("c", hidden)

    async def probe_and_leave() -> None:
        probe = asyncio.create_task(health.areport("ready"))
        await until(inside)
        probe.cancel()

    asyncio.run(probe_and_leave())
    go.set()
    end = time.monotonic() + 5
    while health._checks["c"]._machine.run is not None:
        assert time.monotonic() < end
        time.sleep(0.002)
    assert runs == ["called"]
    assert health.report("ready").ok
    assert runs == ["called", "called", "awaited"]


async def test_ahandle_answers_probes() -> None:
    """`ahandle` answers as `handle` does."""
    health = Health(PATIENT)
    health.add("db", lambda: False)
    reply = await health.ahandle("/readyz/db")
    assert (reply.status, reply.body) == (503, b"[-]db failed: reason withheld\ndb check failed\n")
    assert (await health.ahandle("/nope")).status == 404
    assert await health.ahandle("/livez") == health.handle("/livez")
