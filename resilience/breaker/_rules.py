"""What trips a closed circuit: any of the rules that are set, judged on the outcomes of one epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from resilience.breaker._window import Counts, Numbers, Window

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Judge", "Limits", "Trip", "TripRule")


class Trip(NamedTuple):
    """The circuit has to open: the rule that says so, and what it saw."""

    rule: str
    counts: Counts


class Limits(NamedTuple):
    """The rules that are set; None is not. Rates are judged from `minimum` calls on."""

    consecutive: int | None = None
    failures: int | None = None
    failure_rate: float | None = None
    slow_rate: float | None = None
    minimum: int = 1


class TripRule(Protocol):
    """Judges the outcomes of one closed epoch. All but `succeeded` are called under the policy's lock."""

    succeeded: Callable[[], object]
    """Counts a success; atomic. An attribute, so that the hot path calls it without a frame of ours."""

    def failed(self, now: float, /, *, slow: bool = False) -> Trip | None:
        """Count a failure; return why the circuit must open, if it must."""
        ...

    def counts(self, now: float, /) -> Counts:
        """Return what the rules see now."""
        ...

    def answers(self) -> int | None:
        """Return how many calls have succeeded so far; None if that is not known."""
        ...


class Judge:
    """Every rule over one numbering: a run of failures, and shares or a number of them in a window.

    Judged when a failure or a slow call arrives: a plain success never opens the circuit.
    """

    def __init__(self, limits: Limits, window: Window) -> None:
        self.limits = limits
        self.window = window
        self._numbers = Numbers()
        self.succeeded: Callable[[], object] = self._numbers.next
        self._run = 0
        self._run_end = 0
        self._unanswered = 0

    def failed(self, now: float, *, slow: bool = False) -> Trip | None:
        """Count a failure, which was slow as well or not."""
        number = self._take(now)
        self._unanswered += 1
        self.window.failed(number)
        if slow:
            self.window.slowed(number)
        self._extend_run(number, is_unbroken=number == self._run_end + 1)
        return self._tripped(number)

    def slowed(self, now: float) -> Trip | None:
        """Count a success that took too long."""
        number = self._take(now)
        self.window.slowed(number)
        return self._tripped(number, may_count_failures=False)

    def hung(self, now: float) -> tuple[int, Trip | None]:
        """Count a call that has been taking too long; the number lets `failed_late` find it again."""
        number = self._take(now)
        self._unanswered += 1
        self.window.slowed(number)
        if number == self._run_end + 1:  # how it ends is not known: it is no success that came between failures
            self._run_end = number
        return number, self._tripped(number, may_count_failures=False)

    def succeeded_late(self) -> None:
        """End the run: a call that was counted while it was still running has succeeded."""
        self._run = 0
        self._unanswered -= 1

    def failed_late(self, number: int, now: float) -> Trip | None:
        """Count the failure of a call that was counted as slow, under that number, while it was still running."""
        last = self._numbers.last()
        self.window.advance(now, last)
        if not self.window.holds(number):
            return self.failed(now, slow=True)  # the window has moved on: what happens now is an outcome of its own
        self.window.failed(number)
        self._extend_run(last, is_unbroken=last == self._run_end)
        return self._tripped(last)

    def tick(self, now: float) -> None:
        """Let the window know the time."""
        self.window.advance(now, self._numbers.last())

    def counts(self, now: float) -> Counts:
        """Return what is in the window; where only a run counts, the run still unbroken."""
        last = self._numbers.last()
        self.window.advance(now, last)
        return self._counts(last)

    def answers(self) -> int:
        """Return how many calls have succeeded so far."""
        return self._numbers.last() - self._unanswered

    def _take(self, now: float) -> int:
        number = self._numbers.take()
        self.window.advance(now, number - 1)
        return number

    def _extend_run(self, last: int, *, is_unbroken: bool) -> None:
        """Extend the run up to the outcome numbered `last`, or start a new one where a success came between."""
        self._run = self._run + 1 if is_unbroken else 1
        self._run_end = last

    def _counts(self, last: int) -> Counts:
        if self.limits.failures is self.limits.failure_rate is self.limits.slow_rate is None:
            run = self._run if last == self._run_end else 0
            return Counts(run, run)
        return self.window.counts(last)

    def _tripped(self, last: int, *, may_count_failures: bool = True) -> Trip | None:
        limits, counts = self.limits, self._counts(last)
        if may_count_failures:
            if limits.consecutive is not None and self._run >= limits.consecutive:
                return Trip("consecutive failures", counts)
            if limits.failures is not None and counts.failures >= limits.failures:
                return Trip("failure count", counts)
        if counts.calls < limits.minimum:
            return None
        if may_count_failures and _reaches(counts.failures, limits.failure_rate, counts.calls):
            return Trip("failure rate", counts)
        return Trip("slow call rate", counts) if _reaches(counts.slow, limits.slow_rate, counts.calls) else None


def _reaches(part: int, rate: float | None, whole: int) -> bool:
    # less a trifle: 0.07 * 100 is a little more than 7
    return rate is not None and part > 0 and part >= rate * whole - 1e-9
