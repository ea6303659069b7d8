"""The state of one check: idle, running since, or stuck; and its last outcome. Pure: told the time, not thread-safe.

At most one run exists at a time. A run past its timeout is answered for as failed but stays the run, so that a check
that hangs is never started again on top of itself (L18); its late answer counts as a failure too.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("Change", "Machine", "Outcome", "Run")


class Outcome(NamedTuple):
    """What a check found at `at` after `seconds`. `reason` is for our own eyes; empty where all is well."""

    ok: bool
    reason: str
    at: float
    seconds: float


class Change(NamedTuple):
    """The check went from `before` (None: never known) to `outcome`."""

    before: bool | None
    outcome: Outcome


class Run:
    """One execution of a check, compared by identity: the answer of a run given up means nothing."""

    __slots__ = ("is_over", "outcome", "started", "until")

    def __init__(self, started: float, until: float) -> None:
        self.started = started
        self.until = until
        self.is_over = False
        self.outcome: Outcome | None = None
        """None while running, and for good where the run was given up."""


class Machine:
    """`timeout` and `cache` are seconds."""

    __slots__ = ("cache", "last", "run", "timeout", "was_ok")

    def __init__(self, *, timeout: float, cache: float) -> None:
        self.timeout = timeout
        self.cache = cache
        self.run: Run | None = None
        self.last: Outcome | None = None
        self.was_ok: bool | None = None

    def ask(self, now: float) -> tuple[Outcome | Run | None, Change | None]:
        """Return what is known, else the run to wait for, else None: then the one who asks has to `begin` one."""
        if self.run is not None:
            return self.overdue(self.run, now) if now >= self.run.until else (self.run, None)
        if self.last is not None and now < self.last.at + self.cache:
            return self.last, None
        return None, None

    def begin(self, now: float) -> Run:
        """Start a run. Only after `ask` answered None."""
        self.run = Run(now, now + self.timeout)
        return self.run

    def overdue(self, run: Run, now: float) -> tuple[Outcome, Change | None]:
        """Answer for a run nobody waits for any longer; the run itself goes on."""
        if run.outcome is not None:
            return run.outcome, None
        took = now - run.started
        if run.is_over:
            return Outcome(ok=False, reason="given up before it answered", at=now, seconds=took), None
        outcome = Outcome(ok=False, reason=f"no answer after {took:.3g} s", at=now, seconds=took)
        return outcome, self._judge(outcome) if run is self.run else None

    def finish(self, run: Run, reason: str, now: float) -> Change | None:
        """Take the answer of a run: all is well where `reason` is empty."""
        if run is not self.run:
            return None
        took = now - run.started
        if now > run.until and not reason:
            reason = f"answered after {took:.3g} s, allowed {self.timeout:g} s"
        run.outcome = self.last = Outcome(ok=not reason, reason=reason, at=now, seconds=took)
        run.is_over, self.run = True, None
        return self._judge(run.outcome)

    def give_up(self, run: Run) -> bool:
        """Forget a run that will never answer, so that the next one who asks begins another."""
        if run is not self.run:
            return False
        run.is_over, self.run = True, None
        return True

    def _judge(self, outcome: Outcome) -> Change | None:
        if self.was_ok is outcome.ok:
            return None
        change = Change(self.was_ok, outcome)
        self.was_ok = outcome.ok
        return change
