"""Three ways to count calls in windows of time, as arithmetic. The names are those of the package limits.

The machines are pure: the caller passes in the time, in seconds of any clock that does not go back. A refusal counts
nothing, so a client that goes on asking does not lock itself out.

`fixed-window`: a window begins with the first call and ends a period later. It needs two numbers. Around the end of a
window, up to twice the amount of calls may come within one period.

`sliding-window-counter`: windows have their borders at multiples of the period. The calls of the window before count
for the part of it that the last period still covers, as if they had come evenly. It needs three numbers. The error is
that of the assumption.

`moving-window`: each call counts for exactly one period. In no period are more calls admitted than the amount. It
remembers each call, so the options limit its amount.

See https://limits.readthedocs.io/en/stable/strategies.html for the strategies of limits.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple, Protocol

from resilience.ratelimit._machine import Quota

__all__ = ("Found", "KeyWindow", "window_of")


class Found(NamedTuple):
    """The answer of a window about a call.

    Attributes:
        allowed: Whether the call fits.
        used: The part of the amount that is used, after the call if it was counted.
        retry_after: Seconds until the call fits; 0 if it does.
        reset_after: Seconds until no earlier call counts.
    """

    allowed: bool
    used: float
    retry_after: float
    reset_after: float


class KeyWindow(Protocol):
    """The calls of one key. Its callers hold a lock."""

    until: float
    """The time from which on no call counts, and the window can be forgotten."""

    def decide(self, quota: Quota, now: float, cost: int, *, pays: bool) -> Found:
        """Decide about a call of `cost`, which is at most the amount; count it if it fits and `pays` says so."""
        ...


class FixedWindow:
    """A count, and the end of its window."""

    __slots__ = ("count", "until")

    def __init__(self) -> None:
        self.until, self.count = -math.inf, 0

    def decide(self, quota: Quota, now: float, cost: int, *, pays: bool) -> Found:
        """See `KeyWindow.decide`."""
        ends, count = (self.until, self.count) if now < self.until else (now + quota.rate.period_seconds, 0)
        allowed = count + cost <= quota.burst
        if allowed and pays:
            count += cost
            self.until, self.count = ends, count
        return Found(allowed, count, 0.0 if allowed else ends - now, ends - now if count else 0.0)


class SlidingCounter:
    """The counts of the present window and of the one before."""

    __slots__ = ("_current", "_number", "_previous", "until")

    def __init__(self) -> None:
        self._number = self._previous = self._current = 0
        self.until = -math.inf

    def decide(self, quota: Quota, now: float, cost: int, *, pays: bool) -> Found:
        """See `KeyWindow.decide`."""
        amount, period = quota.burst, float(quota.rate.period_seconds)
        number, passed = divmod(now, period)
        previous, current = self._counts(int(number))
        left = period - passed
        used = previous * left / period + current
        allowed = used + cost <= amount
        if allowed and pays:
            current, used = current + cost, used + cost
            self._number, self._previous, self._current = int(number), previous, current
            self.until = now + left + period
        reset = left + period if current else left if previous else 0.0
        return Found(
            allowed, used, 0.0 if allowed else _until_it_fits(amount - cost, period, left, previous, current), reset
        )

    def _counts(self, number: int) -> tuple[int, int]:
        """Return the counts of the window before `number`, and of that window."""
        if number == self._number:
            return self._previous, self._current
        return (self._current if number == self._number + 1 else 0), 0


def _until_it_fits(room: int, period: float, left: float, previous: int, current: int) -> float:
    """Return the seconds until the weighted count is down to `room`, in this window or in the next one."""
    if current <= room:
        return left - (room - current) * period / previous
    return left + period * (1 - room / current)


class MovingWindow:
    """The calls of the last period: the time of each, and how much was used before and after it, from the first on."""

    __slots__ = ("_calls", "until")

    def __init__(self) -> None:
        self._calls: deque[tuple[float, int, int]] = deque()
        self.until = -math.inf

    def decide(self, quota: Quota, now: float, cost: int, *, pays: bool) -> Found:
        """See `KeyWindow.decide`."""
        calls, period = self._calls, quota.rate.period_seconds
        while calls and calls[0][0] + period <= now:
            calls.popleft()
        used = calls[-1][2] - calls[0][1] if calls else 0
        excess = used + cost - quota.burst
        if excess > 0:
            # Each call has used 1 or more: at most `excess` steps.
            end = calls[0][1] + excess
            retry = next(came for came, _, after in calls if after >= end) + period - now
            return Found(False, used, retry, calls[-1][0] + period - now)
        if pays:
            before = calls[-1][2] if calls else 0
            calls.append((now, before, before + cost))
            used += cost
            self.until = now + period
        return Found(True, used, 0.0, calls[-1][0] + period - now if calls else 0.0)


_WINDOWS: dict[str, Any] = {
    "fixed-window": FixedWindow,
    "moving-window": MovingWindow,
    "sliding-window-counter": SlidingCounter,
}


def window_of(strategy: str) -> KeyWindow:
    """Return a new window."""
    window: KeyWindow = _WINDOWS[strategy]()
    return window
