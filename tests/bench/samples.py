"""Ways to take one sample: call, await, be refused. Every loop is written out.

Passing arguments on, or choosing between loops inside of one, would cost more than some of what is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from harness import Sample, Session

__all__ = ("account", "accounted", "awaits", "calls", "commands", "idle", "keyed", "rejections")

_BREATH = 64
"""Awaiting loops let the event loop run after so many calls: else cancelled timers pile up as in no real service."""


def calls(function: Callable[..., Any], *arguments: Any, clock: Callable[[], int] = time.thread_time_ns) -> Sample:
    """Time `function(*arguments)`, of which there may be up to two."""
    one, two = (*arguments, None, None)[:2]

    def without(number: int) -> float:
        begin = clock()
        for _ in itertools.repeat(None, number):
            function()
        return (clock() - begin) / number

    def with_one(number: int) -> float:
        begin = clock()
        for _ in itertools.repeat(None, number):
            function(one)
        return (clock() - begin) / number

    def with_two(number: int) -> float:
        begin = clock()
        for _ in itertools.repeat(None, number):
            function(one, two)
        return (clock() - begin) / number

    return (without, with_one, with_two)[len(arguments)]


def keyed(function: Callable[..., Any], keys: Sequence[str], *before: Any) -> Sample:
    """Time `function(*before, key)` with `keys` taken in turn; `before` is at most one argument."""
    (first,) = before or (None,)

    def alone(number: int) -> float:
        begin = time.thread_time_ns()
        for key in itertools.islice(itertools.cycle(keys), number):
            function(key)
        return (time.thread_time_ns() - begin) / number

    def second(number: int) -> float:
        begin = time.thread_time_ns()
        for key in itertools.islice(itertools.cycle(keys), number):
            function(first, key)
        return (time.thread_time_ns() - begin) / number

    return second if before else alone


def idle(keys: Sequence[str]) -> Sample:
    """Time the empty loop over `keys`: what remains when there is no call at all."""

    def sample(number: int) -> float:
        begin = time.thread_time_ns()
        for _key in itertools.islice(itertools.cycle(keys), number):
            pass
        return (time.thread_time_ns() - begin) / number

    return sample


def rejections(function: Callable[[int], Any], error: type[BaseException]) -> Sample:
    """Time `function(1)` with `error` caught."""

    def sample(number: int) -> float:
        begin = time.thread_time_ns()
        for _ in itertools.repeat(None, number):
            try:  # noqa: SIM105 - suppress() would cost more than some of what is measured
                function(1)
            except error:
                pass
        return (time.thread_time_ns() - begin) / number

    return sample


def awaits(
    session: Session, function: Callable[..., Awaitable[Any]], loop: asyncio.AbstractEventLoop | None = None
) -> Sample:
    """Time `await function(1)` in one task, on a loop of its own unless `function` is bound to one."""
    runs_on = session.new_loop() if loop is None else loop

    async def spin(number: int) -> float:
        begin = time.thread_time_ns()
        for rest in range(number, 0, -_BREATH):
            for _ in itertools.repeat(None, min(rest, _BREATH)):
                await function(1)
            await asyncio.sleep(0)
        return (time.thread_time_ns() - begin) / number

    return lambda number: runs_on.run_until_complete(spin(number))


def commands(server: Any) -> int:
    """Return how many commands the clients of a server have sent: those that a script makes are not counted."""
    stats = server.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval", "ping"))


def accounted(session: Session, name: str, server: Any, sample: Sample, together: int = 1) -> Sample:
    """Have the row `name` report the CPU time of this process and the commands to the server, for one operation.

    `sample` makes `together` operations at once.
    """

    def counted(at_least: int) -> float:
        number = -(-at_least // together) * together
        before, cpu = commands(server), time.process_time_ns()
        each = sample(number)
        cpu = time.process_time_ns() - cpu
        session.beside[name] = account(cpu / number, (commands(server) - before) / number)
        return each

    return counted


def account(cpu: float, sent: float) -> str:
    """Return the text for nanoseconds of client CPU and commands, for one operation."""
    return f"client {cpu / 1e3:.1f} us CPU, {sent:.3f} commands"
