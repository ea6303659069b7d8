"""What hedging does to the slowest answers, played in virtual time with seeded chance.

`python tests/bench/scenarios_hedge.py` prints the table.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:  # PYTHONSAFEPATH leaves the script's own directory out
    sys.path.insert(0, str(HERE))

from report import aligned  # noqa: E402 - the path comes first
from scenarios_world import World  # noqa: E402 - see above

from resilience import Hedge, Pipeline, idempotent  # noqa: E402 - see above

__all__ = ("CONTENDERS", "Tail", "play", "rows")

Call = Callable[[], Awaitable[float]]
RATE = 500.0
_LEARNING = 1000


@dataclass(frozen=True)
class Tail:
    """Seconds within which so many of the callers had their answer, and calls made for each one asked for."""

    median: float
    p99: float
    p999: float
    amplification: float


@dataclass(frozen=True)
class Contender:
    """A row: how calls are hedged, if at all."""

    name: str
    hedge: Callable[[World], Hedge | None]


CONTENDERS = (
    Contender("not hedged", lambda _world: None),
    Contender("learned (p95)", lambda world: Hedge(clock=world.clock)),
    Contender("learned (p98)", lambda world: Hedge(quantile=0.98, clock=world.clock)),
    Contender("after 30 ms", lambda world: Hedge("30ms", clock=world.clock)),
)


def stalling(chance: random.Random) -> float:
    """Answer in some 10 ms, one time in fifty in some 500 ms: a collection of garbage, a busy disk, a lost packet."""
    return chance.uniform(0.3, 0.7) if chance.random() < 0.02 else 0.01 * math.exp(chance.gauss(0, 0.4))


def play(contender: Contender, calls: int = 20_000, seed: int = 1) -> Tail:
    """Send `calls` independent calls, 500 a second; leave out the first 1000, in which a hedge still learns."""
    world = World(seed)
    takes, arrivals, took, made = random.Random(seed), random.Random(-seed), [0.0] * calls, 0

    @idempotent
    async def ask() -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(stalling(takes))

    async def one(number: int, call: Callable[[], Awaitable[None]]) -> None:
        begun = world.clock.now
        await call()
        took[number] = world.clock.now - begun

    async def story() -> None:
        nonlocal made
        hedge = contender.hedge(world)
        call = ask if hedge is None else Pipeline("tail", hedge)(ask)
        async with asyncio.TaskGroup() as group:
            for number in range(calls):
                made = 0 if number == _LEARNING else made
                group.create_task(one(number, call))
                await asyncio.sleep(arrivals.expovariate(RATE))

    world.play(story())
    ranked = sorted(took[_LEARNING:])
    median, p99, p999 = (ranked[int(share * len(ranked))] for share in (0.5, 0.99, 0.999))
    return Tail(median, p99, p999, made / len(ranked))


def rows(contenders: Sequence[Contender] = CONTENDERS) -> list[tuple[str, ...]]:
    """Return the table, headings first."""
    lines: list[tuple[str, ...]] = [("", "median, ms", "p99, ms", "p99.9, ms", "calls made for one", "")]
    for contender in contenders:
        tail = play(contender)
        lines.append(
            (
                contender.name,
                *(f"{seconds * 1000:.1f}" for seconds in (tail.median, tail.p99, tail.p999)),
                f"{tail.amplification:.3f}",
                "",
            )
        )
    return lines


if __name__ == "__main__":
    print(aligned(rows()))
