"""The state of one check: idle, running since, or stuck; and its last outcome. Pure: told the time, not thread-safe.

At most one run exists at a time. A run past its timeout is answered for as failed but stays the run, so that a check
that hangs is never started again on top of itself (L18); its late answer counts as a failure too.

The verdict turns after so many failures, or passes, in a row; the first outcome of all decides alone. A hanging run
counts once per timeout that passes.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("Change", "Machine", "Outcome", "Run")

_MOST_MISSED = 3
"""Rounds of a background check without an answer, after which the last one is stale."""


class Outcome(NamedTuple):
    """What a check found at `at` after `seconds`. `reason` is for our own eyes; empty where all is well.

    `ok` is the verdict. It may differ from what was found last; `note` then says how near it is to turning.
    """

    ok: bool
    reason: str
    at: float
    seconds: float
    note: str = ""
    is_stale: bool = False


class Change(NamedTuple):
    """The verdict went from `before` (None: never known) to `outcome`."""

    before: bool | None
    outcome: Outcome


class Run:
    """One execution of a check, compared by identity: the answer of a run given up means nothing."""

    __slots__ = ("counted", "is_over", "outcome", "started", "until")

    def __init__(self, started: float, until: float) -> None:
        self.started = started
        self.until = until
        self.is_over = False
        self.counted = 0
        """How many failures it stands for already, while it hangs."""
        self.outcome: Outcome | None = None
        """None while running, and for good where the run was given up."""


class Machine:
    """`timeout`, `cache` and `every` are seconds. With `every` the check runs by itself, and nobody waits for it."""

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
        self.run: Run | None = None
        self.last: Outcome | None = None
        self.was_ok: bool | None = None
        self.streak = 0
        self.has_passed = False
        """Whether it has ever passed: then whatever was to be there at the start has been."""

    def ask(self, now: float) -> tuple[Outcome | Run | None, Change | None]:
        """Return what is known, else the run under way, else None: then the one who asks has to `begin` one."""
        run, last = self.run, self.last
        if run is not None and now >= run.until:
            return self.overdue(run, now)
        if last is not None and self.every is not None:
            return self._fresh(last, self.every, now)
        if run is None and last is not None and now < last.at + self.cache:
            return last, None
        return run, None

    def _fresh(self, last: Outcome, every: float, now: float) -> tuple[Outcome, Change | None]:
        age = now - last.at
        if age <= _MOST_MISSED * every + self.timeout:
            return last, None
        outcome = Outcome(
            ok=False, reason=f"no answer for {age:.3g} s", at=last.at, seconds=last.seconds, is_stale=True
        )
        before, self.was_ok, self.streak = self.was_ok, False, 0
        return outcome, Change(before, outcome) if before is not False else None

    def due_in(self, now: float) -> float:
        """Return how long until a check that runs by itself is to `begin`; 0 or less: now."""
        if self.every is None or self.run is not None:
            return self.every or self.timeout
        return 0.0 if self.last is None else self.last.at + self.every - now

    def begin(self, now: float) -> Run:
        """Start a run. Only where none is under way."""
        self.run = Run(now, now + self.timeout)
        return self.run

    def overdue(self, run: Run, now: float) -> tuple[Outcome, Change | None]:
        """Answer for a run nobody waits for any longer; the run itself goes on."""
        if run.outcome is not None:
            return run.outcome, None
        took = now - run.started
        if run is not self.run:
            is_trusted = self.failure_threshold > 1 and self.was_ok is True
            return Outcome(ok=is_trusted, reason="given up before it answered", at=now, seconds=took), None
        outcome = Outcome(ok=False, reason=f"no answer after {took:.3g} s", at=now, seconds=took)
        times = max(1, int(took / self.timeout))
        change = self._judge(outcome, times - run.counted)
        run.counted = times
        return change

    def finish(self, run: Run, reason: str, now: float) -> Change | None:
        """Take the answer of a run: all is well where `reason` is empty."""
        if run is not self.run:
            return None
        took = now - run.started
        if now > run.until and not reason:
            reason = f"answered after {took:.3g} s, allowed {self.timeout:g} s"
        outcome = Outcome(ok=not reason, reason=reason, at=now, seconds=took)
        run.outcome, change = self._judge(outcome, 1 if outcome.ok or not run.counted else 0)
        self.last = run.outcome
        run.is_over, self.run = True, None
        return change

    def give_up(self, run: Run) -> bool:
        """Forget a run that will never answer, so that the next one who asks begins another."""
        if run is not self.run:
            return False
        run.is_over, self.run = True, None
        return True

    def _judge(self, found: Outcome, times: int) -> tuple[Outcome, Change | None]:
        """Return what is to be said of something found `times` times, and whether that is a turn."""
        self.has_passed = self.has_passed or found.ok
        before = self.was_ok
        if found.ok is before:
            self.streak = 0
            return found, None
        self.streak += times
        needed = self.success_threshold if found.ok else self.failure_threshold
        if before is None or self.streak >= needed:
            self.was_ok, self.streak = found.ok, 0
            return found, Change(before, found)
        note = f"{self.streak} of {needed} {'passes' if found.ok else 'failures'}"
        return found._replace(ok=before, reason=found.reason or f"it has to pass {needed} times", note=note), None
