"""The state of one check: its run, its last outcome and its verdict. Pure: the caller passes the time in.

Runs
    A check is idle, or has one run. `ask` returns the last outcome while that is fresh, otherwise the run, otherwise
    None: then the caller begins a run. There is never a second run: all probes share the first one (L18).

    A run has until its timeout. After that `overdue` answers for it, with a failure, but the run stays: a check that
    hangs is not started again on top of itself. Its late answer is a failure too, since it came too late. A run whose
    event loop has died will never answer. `give_up` removes it, so that the next caller can begin another run. Runs
    are compared by identity, so the answer of a run that was given up changes nothing.

Verdict
    `was_ok` is what reports say of the check. It turns after `failure_threshold` failures, or `success_threshold`
    passes, in a row. The first outcome of all decides alone. A run that hangs counts as one failure for each timeout
    that has passed. Until the verdict turns, an outcome carries the old verdict, and a note such as "1 of 3 failures".

Background
    A check with `every` runs by itself, and callers get its last outcome without waiting. If three rounds and a timeout
    pass without a new outcome, the last one is stale, and the check has failed.

Locks
    Not thread-safe: `Check` holds its lock around each method. Reading `has_passed`, and the fields of a run that is
    over, needs no lock.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("CheckMachine", "CheckOutcome", "CheckRun", "VerdictChange")

_MAX_MISSED_ROUNDS = 3
"""Rounds of a background check without an outcome, after which the last outcome is stale."""


class CheckOutcome(NamedTuple):
    """The outcome of a run that ended at `at` after `seconds`. `reason` says why it failed; it is empty for a pass.

    `ok` is the verdict, which may differ from this one outcome. `note` then says how near the verdict is to turning.
    """

    ok: bool
    reason: str
    at: float
    seconds: float
    note: str = ""
    is_stale: bool = False


class VerdictChange(NamedTuple):
    """The verdict turned from `before` (None for the first one) to `outcome.ok`."""

    before: bool | None
    outcome: CheckOutcome


class CheckRun:
    """One execution of a check. Compared by identity."""

    __slots__ = ("counted", "is_over", "outcome", "started", "until")

    def __init__(self, started: float, until: float) -> None:
        self.started = started
        self.until = until
        self.is_over = False
        self.counted = 0
        """The number of failures that this run has counted as so far, because it hangs."""
        self.outcome: CheckOutcome | None = None
        """None while running, and for ever if the run was given up."""


class CheckMachine:
    """`timeout`, `cache` and `every` are seconds. With `every` the check runs in the background."""

    __slots__ = (
        "cache",
        "every",
        "failure_threshold",
        "has_passed",
        "last",
        "run",
        "streak",
        "success_threshold",
        "timeout",
        "was_ok",
    )

    def __init__(
        self,
        *,
        timeout: float,
        cache: float,
        every: float | None = None,
        failure_threshold: int = 1,
        success_threshold: int = 1,
    ) -> None:
        self.timeout = timeout
        self.cache = cache
        self.every = every
        self.failure_threshold = failure_threshold
        self.success_threshold = success_threshold
        self.run: CheckRun | None = None
        self.last: CheckOutcome | None = None
        self.was_ok: bool | None = None
        """The verdict; None before the first outcome."""
        self.streak = 0
        """Outcomes in a row that contradict the verdict."""
        self.has_passed = False
        """Whether the check has ever passed. A check of the group `startup` is then not asked again."""

    def ask(self, now: float) -> tuple[CheckOutcome | CheckRun | None, VerdictChange | None]:
        """Return the outcome if it is known, else the run, else None: then the caller has to `begin` a run."""
        run, last = self.run, self.last
        if run is not None and now >= run.until:
            return self.overdue(run, now)
        if last is not None and self.every is not None:
            return self._last_of_background(last, self.every, now)
        if run is None and last is not None and now < last.at + self.cache:
            return last, None
        return run, None

    def _last_of_background(
        self, last: CheckOutcome, every: float, now: float
    ) -> tuple[CheckOutcome, VerdictChange | None]:
        age = now - last.at
        if age <= _MAX_MISSED_ROUNDS * every + self.timeout:
            return last, None
        outcome = CheckOutcome(
            ok=False, reason=f"no answer for {age:.3g} s", at=last.at, seconds=last.seconds, is_stale=True
        )
        before, self.was_ok, self.streak = self.was_ok, False, 0
        return outcome, VerdictChange(before, outcome) if before is not False else None

    def due_in(self, now: float) -> float:
        """Return the seconds until a background check has to `begin` its next run. 0 or less means now."""
        if self.every is None or self.run is not None:
            return self.every or self.timeout
        return 0.0 if self.last is None else self.last.at + self.every - now

    def begin(self, now: float) -> CheckRun:
        """Begin a run. The check must be idle."""
        self.run = CheckRun(now, now + self.timeout)
        return self.run

    def overdue(self, run: CheckRun, now: float) -> tuple[CheckOutcome, VerdictChange | None]:
        """Return the outcome of a run for a caller that waits no longer. The run itself goes on."""
        if run.outcome is not None:
            return run.outcome, None
        took = now - run.started
        if run is not self.run:
            is_trusted = self.failure_threshold > 1 and self.was_ok is True
            return CheckOutcome(ok=is_trusted, reason="given up before it answered", at=now, seconds=took), None
        outcome = CheckOutcome(ok=False, reason=f"no answer after {took:.3g} s", at=now, seconds=took)
        times = max(1, int(took / self.timeout))
        change = self._count(outcome, times - run.counted)
        run.counted = times
        return change

    def finish(self, run: CheckRun, reason: str, now: float) -> VerdictChange | None:
        """Take the answer of a run: a pass if `reason` is empty."""
        if run is not self.run:
            return None
        took = now - run.started
        if now > run.until and not reason:
            reason = f"answered after {took:.3g} s, allowed {self.timeout:g} s"
        outcome = CheckOutcome(ok=not reason, reason=reason, at=now, seconds=took)
        run.outcome, change = self._count(outcome, 1 if outcome.ok or not run.counted else 0)
        self.last = run.outcome
        run.is_over, self.run = True, None
        return change

    def give_up(self, run: CheckRun) -> bool:
        """Remove a run that will never answer. Return False if it is not the present run."""
        if run is not self.run:
            return False
        run.is_over, self.run = True, None
        return True

    def _count(self, found: CheckOutcome, times: int) -> tuple[CheckOutcome, VerdictChange | None]:
        """Count an outcome `times` times. Return it with the verdict, and the change if the verdict turned."""
        self.has_passed = self.has_passed or found.ok
        before = self.was_ok
        if found.ok is before:
            self.streak = 0
            return found, None
        self.streak += times
        needed = self.success_threshold if found.ok else self.failure_threshold
        if before is None or self.streak >= needed:
            self.was_ok, self.streak = found.ok, 0
            return found, VerdictChange(before, found)
        note = f"{self.streak} of {needed} {'passes' if found.ok else 'failures'}"
        return found._replace(ok=before, reason=found.reason or f"it has to pass {needed} times", note=note), None
