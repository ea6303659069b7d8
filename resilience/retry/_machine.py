"""The attempts of one call, and whether there is another."""

from __future__ import annotations

from typing import NamedTuple

from resilience.options import LONGEST
from resilience.retry._options import RetryOptions

__all__ = ("Attempts", "GiveUp", "next_attempt")


class Attempts:
    """The permit of a call that has failed at least once; `number` attempts were made since `started`."""

    __slots__ = ("number", "slept", "started")

    def __init__(self, started: float) -> None:
        self.number = 1
        self.started = started
        self.slept = 0.0


class GiveUp(NamedTuple):
    """No: the outcome stands, for this reason."""

    reason: str


def next_attempt(
    options: RetryOptions, attempts: Attempts, now: float, wait: float, floor: float | None, remaining: float | None
) -> float | GiveUp:
    """Return the seconds to wait before another attempt.

    `floor` is what the server asked for (its Retry-After): the wait is never shorter. `remaining` is what the deadline
    in force leaves: no wait is begun that would reach its end (L8).
    """
    if options.attempts is not None and attempts.number >= options.attempts:
        return GiveUp("attempts")
    if floor is not None:
        wait = max(wait, floor)
    if wait > LONGEST:  # no clock counts that far, and sleeping less would not be what was asked
        return GiveUp("wait")
    if options.timeout is not None and now + wait - attempts.started >= options.timeout:
        return GiveUp("timeout")
    if remaining is not None and wait >= remaining:
        return GiveUp("deadline")
    return wait
