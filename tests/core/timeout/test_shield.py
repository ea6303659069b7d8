"""Work that has to be done although the time is up."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from resilience import (
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    Hedge,
    Pipeline,
    SingleFlight,
    Timeout,
    idempotent,
)
from resilience.testing import ManualClock


def test_no_deadline_is_in_force_inside() -> None:
    """Inside a shield there is no deadline but its own allowance; outside nothing has changed, and shields nest."""
    clock = ManualClock()
    with Deadline.after(1, clock=clock) as outer:
        with Deadline.shield() as none:
            assert none is Deadline.current() is None
            with Deadline.shield("5s", clock=clock) as own:
                assert own is not None
                assert own is Deadline.current()
                assert own.remaining() == 5
                with Deadline.shield():
                    assert Deadline.current() is None
                assert Deadline.current() is own
            with Deadline.after(60, clock=clock) as inner:
                assert inner.remaining() == 60
            assert Deadline.current() is None
        assert Deadline.current() is outer
    assert Deadline.current() is None


def test_timeouts_inside_get_their_whole_time() -> None:
    """A call made inside a shield is not refused for a deadline that has passed, nor cut short by one."""
    clock = ManualClock()
    pipeline = Pipeline("p", Timeout(5, margin=1, clock=clock))
    with Deadline.after(0, clock=clock):
        with Deadline.shield():
            assert pipeline.call(_left) == 5
        with Deadline.shield(3, clock=clock):
            assert pipeline.call(_left) == 2
        with pytest.raises(DeadlineExceededError):
            pipeline.call(_left)


def _left() -> float:
    deadline = Deadline.current()
    assert deadline is not None
    return deadline.remaining()


def test_an_error_inside_leaves_the_shield() -> None:
    """However the block ends, the deadline outside is in force again."""
    with Deadline.after(60) as outer:
        with pytest.raises(KeyError), Deadline.shield():
            raise KeyError
        assert Deadline.current() is outer


@pytest.mark.parametrize("seconds", [-1, "soon", True])
def test_bad_allowances_are_refused_where_they_are_given(seconds: Any) -> None:
    """A bad allowance is an error of the call, not of the block."""
    with pytest.raises(ConfigurationError, match=r"Deadline\.shield"):
        Deadline.shield(seconds)


async def test_shielded_work_is_not_cancelled_by_the_timeout_around() -> None:
    """A timeout that runs out while its call is shielded cancels it when the shield has ended, not before."""
    steps: list[str] = []

    async def act() -> None:
        with Deadline.shield():
            await asyncio.sleep(0.03)
            steps.append("cleaned")
            with Deadline.shield("1s"):
                await asyncio.sleep(0)
            steps.append("done")
        await asyncio.sleep(5)
        steps.append("never")

    with pytest.raises(DeadlineExceededError):
        await Pipeline("p", Timeout("10ms")).acall(act)
    assert steps == ["cleaned", "done"]


async def test_shielded_work_at_the_end_keeps_its_result() -> None:
    """A call that ends with its shield returns, late, and leaves no cancellation behind in its task."""

    async def act() -> str:
        with Deadline.shield():
            await asyncio.sleep(0.03)
        return "saved"

    for outer in (1000.0, 0.01):  # the second is cut short by the deadline in force: it has a timer of its own
        with Deadline.after(outer):
            assert await Pipeline("p", Timeout("10ms" if outer > 1 else "1s")).acall(act) == "saved"
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_outer_cancellation_goes_through_a_shield() -> None:
    """A shield is about time: a task that other code cancels is cancelled."""
    started = asyncio.Event()

    async def act() -> None:
        with Deadline.shield():
            started.set()
            await asyncio.sleep(5)

    task = asyncio.ensure_future(Pipeline("p", Timeout("10s")).acall(act))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("policy", [SingleFlight(), Hedge("1s")])
async def test_a_policy_with_tasks_of_its_own_belongs_outside_of_the_timeout(policy: Any) -> None:
    """A shield holds the timeout inside of a hedge or single flight, and none outside: that times another task."""
    steps: list[str] = []

    @idempotent
    async def act() -> None:
        with Deadline.shield():
            await asyncio.sleep(0.03)
            steps.append("cleaned")
        await asyncio.sleep(5)

    with pytest.raises(DeadlineExceededError):
        await Pipeline("p", Timeout("10ms"), policy)(act)()
    assert steps == []
    with pytest.raises(DeadlineExceededError):
        await Pipeline("q", policy, Timeout("10ms"))(act)()
    assert set(steps) == {"cleaned"}


async def test_a_task_started_inside_does_not_hold_the_timeout_of_its_parent() -> None:
    """Only the task a timeout times can shield itself from it."""

    async def child() -> None:
        with Deadline.shield():
            await asyncio.sleep(0.2)

    children = []

    async def act() -> None:
        children.append(asyncio.ensure_future(child()))
        await asyncio.sleep(5)

    begin = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceededError):
        await Pipeline("p", Timeout("10ms")).acall(act)
    assert asyncio.get_running_loop().time() - begin < 0.15
    await children[0]


async def test_a_thread_does_not_hold_the_timeout_of_a_task() -> None:
    """A shield entered in a thread that was given the context concerns that thread alone."""
    seen: list[Deadline | None] = []

    def clean() -> None:
        with Deadline.shield():
            seen.append(Deadline.current())

    async def act() -> None:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(clean,))
        thread.start()
        thread.join(5)
        await asyncio.sleep(5)

    with pytest.raises(DeadlineExceededError):
        await Pipeline("p", Timeout("10ms")).acall(act)
    assert seen == [None]


async def test_a_cleanup_after_the_cancellation_can_be_shielded_too() -> None:
    """After our cancellation has been delivered, a `finally` with a shield may await."""
    steps: list[str] = []

    async def act() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            with Deadline.shield("1s"):
                await Pipeline("clean", Timeout("1s")).acall(asyncio.sleep, 0)
                steps.append("cleaned")

    with pytest.raises(DeadlineExceededError):
        await Pipeline("p", Timeout("10ms")).acall(act)
    assert steps == ["cleaned"]


async def test_a_shield_never_left_does_not_stay() -> None:
    """A shield in a generator abandoned half-way ends with the timeout around it."""
    abandoned: list[AsyncGenerator[int, None]] = []

    async def items() -> AsyncGenerator[int, None]:
        with Deadline.shield():
            yield 1

    async def act() -> None:
        abandoned.append(items())
        await anext(abandoned[0])

    with Deadline.after(60) as outer:
        await Pipeline("p", Timeout(0.5))(act)()
        assert Deadline.current() is outer
        await abandoned[0].aclose()
        assert Deadline.current() is outer


def test_tasks_each_have_their_own_shield() -> None:
    """A shield in one task is none in another that runs beside it."""

    async def shielded() -> None:
        with Deadline.shield():
            await asyncio.sleep(0.01)
            assert Deadline.current() is None

    async def plain() -> None:
        assert Deadline.current() is not None
        await asyncio.sleep(0.005)
        assert Deadline.current() is not None

    async def main() -> None:
        with Deadline.after(60):
            await asyncio.gather(shielded(), plain(), shielded())
            assert Deadline.current() is not None

    asyncio.run(main())
