"""The attempts of one call, their history, and the limits that end them.

A call moves through three states.

*First attempt.* The retry remembers nothing, or almost nothing. The permit is None, or the time at which the call
started (with `timeout=` or a tenacity strategy), or an `Attempts` (with a budget, which counts every call). A call that
succeeds now makes no record.

*Retried.* At the first failure the permit becomes an `Attempts`. It travels from attempt to attempt: each `RetryAfter`
verdict hands it to the engine, which sleeps and settles the next attempt with it. Attempts are numbered from 1.

*Ended.* The call succeeded, was given up (`GiveUp`, with a reason), or was abandoned (cancellation, interrupt, an
exception from a function of the user). Each call is counted as ended once.

Where things are counted:

- `Attempts` counts for one call. One thread or task at a time works with it, so it needs no lock.
- `RetryCounts` counts for one policy, but only calls that failed at least once. To count takes no lock.
  A retried call that succeeds is not counted: successes are the rest. So a success costs nothing.
- A `RetryBudget` counts calls in flight, over several policies. `Attempts.is_counted` and `is_retrying` say what the
  budget has counted for this call, so that it is taken out exactly once.

Limits (`stop_reason`) are checked after the wait is known and before it starts: number of attempts, total time, and the
deadline in force. A wait that would end at or after a limit does not start. Waits that `no_waits()` left out still
count as time that has passed (`Attempts.skipped`), so a test makes the same attempts as production.

The history holds text, not errors: an error keeps alive every frame that it passed. It keeps the first two and the last
six attempts, so a call with a thousand attempts holds no more memory than a call with eight.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, TypeAlias

from resilience._support.measured import count_of
from resilience.options import LONGEST
from resilience.retry._options import RetryOptions

__all__ = ("NOT_RETRYABLE", "Attempts", "GiveUp", "RetryCounts", "stop_reason")

_FIRST_KEPT, _LAST_KEPT = 2, 6
_MAX_MESSAGE, _MAX_TYPE = 80, 60
"""Characters of a message and of a type name in the history."""
_Entry: TypeAlias = tuple[int, str, str, float | None]
"""Number of the attempt, how it ended, message of the error, and the wait after it (None for the last attempt)."""


class Attempts:
    """The permit of a call that is retried, or that a budget counts."""

    __slots__ = (
        "__weakref__",
        "_history",
        "is_counted",
        "is_last",
        "is_over",
        "is_retry_counted",
        "is_retrying",
        "number",
        "previous",
        "skipped",
        "started",
        "state",
    )

    def __init__(self, started: float) -> None:
        self.started = started
        self.number = 1
        """The attempt under way; 1 is the call itself."""
        self.previous = 0.0
        """The last wait, in seconds."""
        self.skipped = 0.0
        """Seconds of waits that `no_waits()` left out. They count as passed."""
        self.is_last = False
        """Whether no other attempt is possible, because a generator has already yielded items."""
        self.is_retry_counted = False
        """Whether the retry is in `RetryCounts`."""
        self.is_over = False
        """Whether the end of the call is in `RetryCounts`."""
        self.is_counted = False
        """Whether a budget counts this call."""
        self.is_retrying = False
        """Whether the budget counts it as a retry."""
        self.state: object = None
        """The `tenacity.RetryCallState` of the call, if tenacity strategies are asked."""
        self._history: tuple[_Entry, ...] = ()

    def record(self, error: Exception | None, result: object, wait: float | None = None) -> None:
        """Record how the attempt under way ended. If there is a `wait`, another attempt follows after it."""
        message = ""
        if error is None:
            ended = f"returned {type(result).__name__}"
        else:
            ended = type(error).__name__
            try:  # noqa: SIM105 - `suppress` would take half a microsecond
                message = str(error)[: 2 * _MAX_MESSAGE]
            except Exception:  # noqa: BLE001, S110 - an error whose text fails is named by its type alone
                pass
        history = self._history
        if len(history) == _FIRST_KEPT + _LAST_KEPT:
            history = (*history[:_FIRST_KEPT], *history[_FIRST_KEPT + 1 :])
        self._history = (*history, (self.number, ended, message, wait))
        if wait is not None:
            self.number += 1
            self.previous = wait

    def report(self) -> list[str]:
        """Return the history: one line for each attempt, and one line for the attempts that it leaves out."""
        lines: list[str] = []
        for number, ended, message, wait in self._history:
            line, text = f"{number} {ended[:_MAX_TYPE]}", " ".join(message.split())
            if text:
                line += f": {text}" if len(text) <= _MAX_MESSAGE else f": {text[:_MAX_MESSAGE]}..."
            lines.append(line if wait is None else f"{line}, then waited {wait:.3f} s")
        omitted = self.number - len(lines)
        if omitted:
            lines.insert(_FIRST_KEPT, f"... {omitted} more")
        return lines


class GiveUp(NamedTuple):
    """Verdict: no other attempt, for this reason."""

    reason: str


NOT_RETRYABLE = GiveUp("not retryable")


class RetryCounts:
    """How the calls ended that failed at least once. To count is atomic, and so is to read one count.

    A count is an `itertools.count`, whose `next` is atomic in CPython.
    """

    __slots__ = ("_abandoned", "_failed_with_retry", "_failed_without_retry", "_retried", "_retries")

    def __init__(self) -> None:
        self._retries, self._retried, self._abandoned = itertools.count(), itertools.count(), itertools.count()
        self._failed_with_retry, self._failed_without_retry = itertools.count(), itertools.count()

    def retry(self, number: int) -> None:
        """Count a retry that follows attempt `number`."""
        next(self._retries)
        if number == 1:
            next(self._retried)

    def fail(self, number: int) -> None:
        """Count a call that was given up at attempt `number`."""
        next(self._failed_with_retry if number > 1 else self._failed_without_retry)

    def abandon(self, number: int) -> None:
        """Count a call that ended by a cancellation, an interrupt, or an exception from a function of the user."""
        if number > 1:
            next(self._abandoned)

    def as_data(self) -> dict[str, int]:
        """Return every count. A retried call that is still under way counts as a success."""
        # Ends are read before beginnings: a call that ends meanwhile must not make the successes too few.
        ends = (self._failed_without_retry, self._failed_with_retry, self._abandoned)
        counts = [count_of(each) for each in (*ends, self._retried, self._retries)]
        failed_at_once, failed, abandoned, retried, retries = counts
        return {
            "retries": retries,
            "retried_calls": retried,
            "succeeded_with_retry": retried - failed - abandoned,
            "failed_with_retry": failed,
            "failed_without_retry": failed_at_once,
            "abandoned_with_retry": abandoned,
        }


def stop_reason(
    options: RetryOptions,
    attempts: Attempts,
    now: float,
    wait: float,
    remaining: float | None,
    max_attempts: int | None = None,
) -> str | None:
    """Return the limit that forbids another attempt after `wait`, or None.

    Args:
        options: The limits of the retry.
        attempts: The attempts so far.
        now: The time, in seconds of the clock that `attempts.started` was read from.
        wait: The seconds before the next attempt.
        remaining: The seconds that the deadline in force leaves, or None. No wait starts that would reach its end (L8).
        max_attempts: A second limit on the number of attempts.
    """
    number = attempts.number
    if options.attempts is not None and number >= options.attempts:
        return "attempts"
    if max_attempts is not None and number >= max_attempts:
        return "attempts"
    if wait > LONGEST:  # no clock counts that far, and a shorter sleep would be too short
        return "wait"
    if options.timeout is not None and now + wait - attempts.started >= options.timeout:
        return "timeout"
    if remaining is not None and wait >= remaining:
        return "deadline"
    return None
