"""The attempts of one call, and whether there is another."""

from __future__ import annotations

from typing import Any, NamedTuple

from resilience.options import LONGEST
from resilience.retry._options import RetryOptions

__all__ = ("NOT_RETRYABLE", "Attempts", "GiveUp", "Outcome", "Tally", "next_attempt")

_KEPT_FIRST, _KEPT_LAST = 2, 6
"""Attempts a history tells of, however many there were."""


class Outcome(NamedTuple):
    """How an attempt ended: an error, or else a result."""

    error: Exception | None
    result: Any = None

    @property
    def value(self) -> Any:
        """The error or the result."""
        return self.result if self.error is None else self.error


class Attempts:
    """The permit of a call that has failed at least once; `number` attempts were made since `started`."""

    # Defaults of the class: with a budget one is made for every call, and nearly all of them never fail.
    number = 1
    previous = 0.0
    """The last wait."""
    skipped = 0.0
    """Seconds of waits that were left out: they count as passed."""
    is_last = False
    """Whether no other attempt can be made, because items of a generator are out."""
    is_tallied = False
    """Whether the tally has heard that it is made again."""
    is_over = False
    """Whether the tally has heard how the call ended."""
    is_counted = False
    """Whether a budget counts this call."""
    is_retrying = False
    """Whether it counts it as a retry."""
    record: Any = None
    """tenacity's record of the call, where its strategies are asked."""
    history: tuple[str, ...] = ()
    omitted = 0

    def __init__(self, started: float) -> None:
        self.started = started

    def remember(self, what: str) -> None:
        """Add a line to the history, which keeps its beginning and its end."""
        lines = (*self.history, f"{self.number} {what}")
        if len(lines) > _KEPT_FIRST + _KEPT_LAST:
            lines = (*lines[:_KEPT_FIRST], *lines[_KEPT_FIRST + 1 :])
            self.omitted += 1
        self.history = lines

    def told(self) -> tuple[str, ...]:
        """Return the history, saying what it leaves out."""
        if not self.omitted:
            return self.history
        return (*self.history[:_KEPT_FIRST], f"... {self.omitted} more", *self.history[_KEPT_FIRST:])

    def go_on(self, wait: float, *, is_skipped: bool) -> None:
        """Count the next attempt, which is made after `wait`."""
        self.number += 1
        self.previous = wait
        self.skipped += wait if is_skipped else 0.0


class GiveUp(NamedTuple):
    """No: the outcome stands, for this reason."""

    reason: str


NOT_RETRYABLE = GiveUp("not retryable")


class Tally:
    """How the calls ended that failed at least once. Not thread-safe."""

    __slots__ = ("abandoned", "failed_with_retry", "failed_without_retry", "retried", "retries")

    def __init__(self) -> None:
        self.retries = self.retried = self.failed_with_retry = self.failed_without_retry = self.abandoned = 0

    def go_on(self, number: int) -> None:
        """Count a retry, made after attempt `number`."""
        self.retries += 1
        self.retried += number == 1

    def fail(self, number: int) -> None:
        """Count a call that was given up at attempt `number`."""
        if number > 1:
            self.failed_with_retry += 1
        else:
            self.failed_without_retry += 1

    def abandon(self, number: int) -> None:
        """Count a call that ended by cancellation, interrupt or a callback's error; only retried ones matter."""
        self.abandoned += number > 1

    def as_data(self) -> dict[str, int]:
        """Return every count. A retried call that has not ended yet is taken for a success."""
        return {
            "retries": self.retries,
            "retried_calls": self.retried,
            "succeeded_with_retry": self.retried - self.failed_with_retry - self.abandoned,
            "failed_with_retry": self.failed_with_retry,
            "failed_without_retry": self.failed_without_retry,
            "abandoned_with_retry": self.abandoned,
        }


def next_attempt(
    options: RetryOptions, attempts: Attempts, now: float, wait: float, remaining: float | None, most: int | None = None
) -> float | GiveUp:
    """Return `wait`, the seconds until another attempt, or why there is none.

    `remaining` is what the deadline in force leaves: no wait is begun that would reach its end (L8). `most` bounds the
    attempts beside the option.
    """
    for limit in (options.attempts, most):
        if limit is not None and attempts.number >= limit:
            return GiveUp("attempts")
    if wait > LONGEST:  # no clock counts that far, and sleeping less would not be what was asked
        return GiveUp("wait")
    if options.timeout is not None and now + wait - attempts.started >= options.timeout:
        return GiveUp("timeout")
    if remaining is not None and wait >= remaining:
        return GiveUp("deadline")
    return wait
