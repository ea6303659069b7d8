"""The races of one hedge: clock, budget, statistics and events around the machine. The two shells run attempts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from resilience._support.notes import annotate
from resilience.budget import RetryBudget
from resilience.clock import Clock
from resilience.errors import shown
from resilience.events import Emitter
from resilience.hedge._accept import AcceptRule
from resilience.hedge._machine import Race, Rank, RankedOutcome
from resilience.hedge._options import HedgeOptions
from resilience.hedge._statistics import HedgeStatistics
from resilience.timeout import Deadline

if TYPE_CHECKING:
    from asyncio import Task

__all__ = ("Races",)


class Races:
    """Starts and ends the races of a hedge, and their attempts. It runs no attempt itself."""

    def __init__(
        self, name: str, options: HedgeOptions, accept: AcceptRule, budget: RetryBudget | None, clock: Clock
    ) -> None:
        self.options = options
        self.clock = clock
        self.counts_calls = budget is not None
        """Whether this hedge counts its calls at the budget."""
        self.statistics = HedgeStatistics(name, options)
        self.events = Emitter()
        self.lingering: set[Task[None]] = set()
        """Cancelled tasks that did not end in time. A loop holds its tasks weakly, so they are held here."""
        self._accept = accept
        self._budget = budget

    @property
    def name(self) -> str:
        """The name of the hedge, for events and notes."""
        return self.statistics.name

    @name.setter
    def name(self, name: str) -> None:
        self.statistics.name = name

    @property
    def delay(self) -> float | None:
        """Seconds before the first hedge; None while too few answers are known."""
        return self.statistics.slow if self.options.delay is None else self.options.delay

    def begin(self) -> Race:
        """Count a call as begun. It has a single attempt while the delay is not known."""
        delay, now = self.delay, self.clock()
        race = Race(math.inf, 1, now) if delay is None else Race(delay, 1 + self.options.max_hedges, now)
        if self._budget is not None and self.counts_calls:
            self._budget.enter()
            race.is_counted = True
        return race

    def end(self, race: Race) -> None:
        """Count a call as ended. A second time, after an interrupt, it does only what is missing."""
        if self._budget is not None and race.is_counted:
            self._budget.leave(retrying=False, call=race)
        self.statistics.close(race, self.clock())

    def may_hedge(self, race: Race) -> bool:
        """Whether the hedge that is due may start. If so, the budget counts it until `release`; else it is denied."""
        reason = self._objection()
        if reason is not None:
            self.deny(race, reason)
        return reason is None

    def _objection(self) -> str | None:
        deadline = Deadline.current()
        if deadline is not None and deadline.remaining() <= (self.statistics.typical or 0.0):
            return "deadline"  # more than half of the answers would come too late
        if self._budget is not None and not self._budget.spend_extra(events=self.events):
            return "budget"
        return None

    def release(self) -> None:
        """Take a hedge that has ended out of the budget."""
        if self._budget is not None:
            self._budget.release_extra()

    def deny(self, race: Race, reason: str) -> None:
        """Skip the hedge that is due."""
        now = self.clock()
        race.deny(now)
        self.statistics.suppress(reason)
        self.events.emit("hedge.suppressed", self.name, now, reason=reason)

    def start_attempt(self, race: Race) -> int:
        """Count an attempt as started; return its number."""
        now = self.clock()
        number = race.start(now)
        if number > 1:
            self.events.emit("hedge.started", self.name, now, attempt=number, after=now - race.began)
        return number

    def end_attempt(self, race: Race, attempt: int, result: object, error: BaseException | None) -> None:
        """Rank an attempt that has ended."""
        race.end(self._accept(attempt, result, error), self.clock())

    def outcome(self, race: Race) -> object:
        """Return or raise the best outcome of the race, for the caller."""
        best, failures = cast("RankedOutcome", race.best), race.failures
        race.forget()
        if best.attempt > 1 and best.rank is Rank.ANSWERED:
            now = self.clock()
            self.statistics.win()
            self.events.emit("hedge.won", self.name, now, attempt=best.attempt, latency=now - race.began)
        if best.error is None:
            return best.result
        if best.rank < Rank.SUBSTITUTED:
            self._annotate(best.error, race.started, failures)
        failures, error, best.error = [], best.error, None
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: no cycle through it

    def _annotate(self, error: BaseException, attempts: int, failures: Iterable[RankedOutcome]) -> None:
        others = [f"attempt {each.attempt}: {shown(each.error)}" for each in failures if each.error is not error]
        if others:
            begins = f"{self.name}: no acceptable answer in "
            annotate(error, begins, [f"{begins}{attempts} attempts; {'; '.join(others)}"])

    def linger(self, tasks: list[Task[None]]) -> None:
        """Leave alone cancelled tasks that did not end in time, but hold them."""
        self.lingering.update(tasks)
        self.events.emit("hedge.lingering", self.name, self.clock(), "warning", attempts=len(tasks))
