"""The bell: who is due is called, who has left is not, and what callers ask for does not add up."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from contextvars import ContextVar
from typing import Any

import pytest

from resilience import Deadline
from resilience.server import DeadlineWheel

NAME: ContextVar[str] = ContextVar("name", default="nobody")


class Rung:
    """A bell, and whom it has called: at which time, and in whose context."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.seen: set[str] = set()
        self.late: list[float] = []
        self.bell: DeadlineWheel[str, Deadline] = DeadlineWheel(asyncio.get_running_loop(), self._ring)

    def _ring(self, member: str, deadline: Deadline) -> None:
        self.calls.append(member)
        self.seen.add(NAME.get())
        self.late.append(time.monotonic() - deadline.at)

    def enter(self, member: str, seconds: float) -> dict[str, Deadline]:
        deadline = Deadline(time.monotonic() + seconds)
        due = self.bell.slot_for(deadline)
        due[member] = deadline
        return due


async def waited_for(rung: Rung, calls: int) -> None:
    patience = time.monotonic() + 5
    while len(rung.calls) < calls:
        assert time.monotonic() < patience
        await asyncio.sleep(0.005)


async def test_who_is_due_is_called_in_turn() -> None:
    """Whoever enters first, the sooner deadline rings first; none rings before it has passed."""
    rung = Rung()
    for member, seconds in (("c", 0.12), ("a", 0.02), ("d", 0.2), ("b", 0.07), ("gone", -1.0)):
        rung.enter(member, seconds)
    await waited_for(rung, 5)
    assert rung.calls == ["gone", "a", "b", "c", "d"]
    assert min(rung.late) > -0.001


async def test_who_has_left_is_not_called() -> None:
    """Those who are done in time are left alone, though others of the same moment are not done."""
    rung = Rung()
    dues = [rung.enter(str(number), 0.05) for number in range(10)]
    for number in range(0, 10, 2):
        del dues[number][str(number)]
    await waited_for(rung, 5)
    await asyncio.sleep(0.05)
    assert rung.calls == ["1", "3", "5", "7", "9"]


async def test_nobodys_context_rings_for_others() -> None:
    """What the request that came first knows is not there when its neighbours are called (L19)."""
    rung = Rung()
    NAME.set("first")
    rung.enter("first", 0.02)
    rung.enter("second", 0.08)
    await waited_for(rung, 2)
    assert rung.seen == {"nobody"}


async def test_deadlines_do_not_add_up() -> None:
    """A hundred thousand far and different deadlines that were met leave no timers behind, and no memory in use."""
    rung, loop = Rung(), asyncio.get_running_loop()
    made = 0
    call_later = loop.call_later

    def counted(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        nonlocal made
        made += 1
        return call_later(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_later", counted)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(100_000):
            del rung.enter("met", 3600 + number * 0.7)["met"]
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    assert made == 1
    assert kept < 1_000_000
    rung.enter("kept", 0.02)
    await waited_for(rung, 1)


async def test_many_at_work_are_all_called() -> None:
    """However many rounds are in use, sweeping out the others loses none of them."""
    rung = Rung()
    for number in range(5_000):
        rung.enter(str(number), 0.5 + number * 0.005)
        del rung.enter("met", 60 + number)["met"]
    rung.enter("early", 0.01)
    await waited_for(rung, 3)
    while "early" not in rung.calls:  # a busy machine calls others before it
        await waited_for(rung, len(rung.calls) + 1)
    others = [member for member in rung.calls if member != "early"]  # a busy machine has reached their time, too
    assert "early" in rung.calls
    assert others == [str(number) for number in range(len(others))]
