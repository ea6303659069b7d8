"""A world whose time passes only when everybody waits: an event loop on a manual clock, an upstream, its callers.

What is played is the real code of every library, through its awaiting form; nothing sleeps. The same seed gives every
contender the same arrivals, and the same table on every machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
from bisect import bisect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from resilience.testing import ManualClock

__all__ = ("Call", "Guard", "Tally", "Upstream", "UpstreamDownError", "World", "constant")

Call = Callable[[], Awaitable[object]]


class UpstreamDownError(ConnectionError):
    """What a failing upstream answers with."""


@dataclass(frozen=True)
class Guard:
    """A contender: `build` guards the upstream's call, `refusal` is what it raises instead of making one."""

    name: str
    build: Callable[[World, Call], Call]
    refusal: Callable[[], type[BaseException]]
    how: str = ""


class World:
    """Time, chance, and what has to be undone when it ends."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = ManualClock()
        self.chance = random.Random(seed)
        self._stack = contextlib.ExitStack()

    def patch(self, module: Any, name: str, stand_in: object) -> None:
        """Have a library that asks a global for the time ask this world."""
        self._stack.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, stand_in)

    def play(self, story: Coroutine[Any, Any, None]) -> None:
        """Let the story happen, to its end."""
        before = random.getstate()
        self._stack.callback(random.setstate, before)
        random.seed(self.chance.random())  # libraries that draw their jitter from the module
        with self._stack, asyncio.Runner(loop_factory=lambda: _Loop(self.clock)) as runner:
            runner.run(story)


class _Selector(selectors.SelectSelector):
    """Waits for nothing: time jumps to the next thing due."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is due")
        self._clock.advance(timeout)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__(_Selector(clock))
        self._manual = clock

    def time(self) -> float:
        return self._manual.now


Health = Callable[[float, int], tuple[float, float]]
"""At a moment, after so many calls in the last second: seconds an answer takes, and how likely it is an error."""


class Upstream:
    """What is called."""

    def __init__(self, world: World, health: Health) -> None:
        self._world = world
        self._health = health
        self.called_at: list[float] = []
        self.failures = 0

    async def answer(self) -> int:
        """Take a while, then answer or fail."""
        now = self._world.clock.now
        self.called_at.append(now)
        takes, failing = self._health(now, len(self.called_at) - bisect(self.called_at, now - 1))
        fails = self._world.chance.random() < failing  # drawn now, so that chance does not depend on who waits
        await asyncio.sleep(takes)
        if fails:
            self.failures += 1
            raise UpstreamDownError
        return 1

    def calls_within(self, start: float, end: float) -> int:
        """Return how many calls arrived from `start` until `end`."""
        return sum(start <= at < end for at in self.called_at)


@dataclass
class Tally:
    """What happened to the callers, by when they asked."""

    asked: int = 0
    served_at: list[float] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)

    @property
    def shed(self) -> float:
        """The share that was refused."""
        return len(self.refused_at) / self.asked

    def refused_within(self, start: float, end: float) -> int:
        """Return how many callers were refused from `start` until `end`."""
        return sum(start <= at < end for at in self.refused_at)


def constant(rate: float) -> Callable[[float], float]:
    """Return the same traffic at any time."""
    return lambda _now: rate


async def traffic(
    world: World, call: Call, refusal: type[BaseException], a_second: Callable[[float], float], seconds: float
) -> Tally:
    """Have independent callers (a Poisson process) ask for `seconds`, whatever became of those before them."""
    tally, clock, arrivals = Tally(), world.clock, random.Random(world.chance.random())
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        asked_at = clock.now
        try:
            await call()
        except refusal:
            tally.refused_at.append(asked_at)
        except Exception:  # noqa: BLE001 - whatever else it was, the caller got no answer
            tally.failed_at.append(asked_at)
        else:
            tally.served_at.append(asked_at)

    while clock.now < seconds:
        tally.asked += 1
        task = asyncio.get_running_loop().create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(arrivals.expovariate(a_second(clock.now)))
    await asyncio.gather(*tasks)
    return tally
