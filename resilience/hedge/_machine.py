"""What a hedge decides: how long is too long, and what becomes of one call. Pure: it is told the time."""

from __future__ import annotations

import enum
import itertools
import math
from typing import Any

__all__ = ("Ending", "Latencies", "Outcome", "Race")

_STEPS = 16  # buckets for each doubling: an estimate is at most 4.5 % too long
_SHORTEST, _LONGEST = 1e-6, 2.0**22  # a microsecond, and some 48 days
_LAST = 42 * _STEPS
_EDGES = tuple(_SHORTEST * 2 ** (bucket / _STEPS) for bucket in range(_LAST + 1))
_CUT_OFF = 2.0  # see `Race.latency`
_AT_ONCE, _NEVER = -math.inf, math.inf


def _bucket(seconds: float) -> int:
    """Return the bucket whose upper edge is the first one above `seconds`."""
    if not seconds > _SHORTEST:  # a clock that stood still, went back, or gave no number
        return 0
    if seconds > _LONGEST:
        return _LAST
    return int(math.log2(seconds / _SHORTEST) * _STEPS) + 1


class Latencies:
    """The latencies of the last `window` answers: a histogram of fixed size, so memory and work stay bounded.

    A window and not a decaying average: after a change every old value is gone within `window` answers, whether
    latencies rose or fell; `1 - quantile` of that is enough to follow a rise.
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
        """Learn from one answer. An interrupt finds all of it done or nothing."""
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
        """Return the bucket of the quantile and the answers before it, with `added` in and `removed` out.

        They move a few steps for each change. Nothing is changed here.
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
        """How many answers are known, at most the window."""
        return len(self._latest)

    @property
    def slow(self) -> float | None:
        """Seconds within which the quantile of all answers came, never less; None while too few are known."""
        return None if len(self._latest) < self._minimum else _EDGES[self._bucket]

    @property
    def typical(self) -> float | None:
        """The same of half of the answers. Looks through all buckets: not for every call."""
        if len(self._latest) < self._minimum:
            return None
        reached = itertools.accumulate(self._counts)
        return _EDGES[next(bucket for bucket, below in enumerate(reached) if 2 * below >= len(self._latest))]


class Ending(enum.IntEnum):
    """How an attempt ended. Where no attempt was acceptable the caller gets the greatest, and of equals the latest."""

    REFUSED = 0
    """By one of our own policies: nothing was asked, and asking again at once would not help."""
    FAILED = 1
    UNACCEPTABLE = 2
    """A result the caller would rather not have."""
    SUBSTITUTED = 3
    """A fallback stood in: more than an error or a bad result, but no answer."""
    ANSWERED = 4
    """Acceptable, or an error that another attempt would not change."""
    INTERRUPTED = 5
    """By what is no outcome at all, such as KeyboardInterrupt."""


_REFUSED, _SUBSTITUTED, _ANSWERED = Ending.REFUSED, Ending.SUBSTITUTED, Ending.ANSWERED  # each look-up costs a call


class Outcome:
    """What one attempt came to."""

    __slots__ = ("attempt", "ending", "error", "result")

    def __init__(self, attempt: int, ending: Ending, result: Any = None, error: BaseException | None = None) -> None:
        self.attempt = attempt
        self.ending = ending
        self.result = result
        self.error = error


class Race:
    """One call: up to `limit` attempts, each `delay` seconds after the one before, or at once when one has failed."""

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
        self.best: Outcome | None = None
        self.failures: list[Outcome] = []
        self.is_counted = False  # in a budget
        self.is_closed = False  # whether it is in the tally
        self.is_over = False  # whether the caller can be told
        self._limit = limit
        self._running = 0
        self._due = _AT_ONCE
        self._over: float | None = None  # when the outcome was certain
        self._seconds: float | None = None  # how long the first attempt took
        self._answered = False  # whether that was for an answer

    @property
    def is_single(self) -> bool:
        """Whether there will be one attempt, whatever happens."""
        return self._limit == 1

    @property
    def is_due(self) -> bool:
        """Whether the next attempt is to be started now, or denied."""
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
        """Return the seconds to wait for an answer before `elapse`; None for as long as it takes."""
        return None if self._due == _NEVER else max(0.0, self._due - now)

    def elapse(self) -> None:
        """Take note that the wait is over, nothing having come."""
        self._due = _AT_ONCE

    def deny(self, now: float) -> None:
        """Do without the attempt that is due. One that fails later may ask again."""
        self._due = _NEVER
        self._look(now)

    def end(self, outcome: Outcome, now: float) -> None:
        """Take note of how an attempt ended."""
        ending = outcome.ending
        self._running -= 1
        if outcome.attempt == 1:
            self._seconds, self._answered = now - self.began, ending is _ANSWERED
        if self.best is None or ending >= self.best.ending:
            self.best = outcome
        if ending < _ANSWERED:
            self._go_on(outcome)
        self._look(now)

    def _go_on(self, outcome: Outcome) -> None:
        if outcome.ending is _REFUSED:
            self._limit, self._due = self.started, _NEVER
        elif self.started < self._limit:
            self._due = _AT_ONCE
        if outcome.error is not None and outcome.ending < _SUBSTITUTED:
            self.failures.append(outcome)

    def _look(self, now: float) -> None:
        """See whether something decisive has come, or nothing more will."""
        if self.best is not None and (self.best.ending >= _ANSWERED or not (self._running or self.is_due)):
            self.is_over, self._over = True, now

    def forget(self) -> None:
        """Let go of what the attempts came to: an error that refers to its own frames would be a cycle."""
        self.best, self.failures = None, []

    def latency(self, now: float) -> float | None:
        """Return what this call, left now, says about latencies, if anything.

        Only the first attempt counts: those that come later exist because it was slow. If it was cut off, because a
        hedge won or the caller went away, or failed, all we know is that an answer would have taken longer than that.
        Leaving all of these out would remove the slow end of the distribution: the quantile would sink, more calls
        would be hedged, and it would sink further. So what outlived the delay counts as twice the time it was given: on
        the right side of the delay, which is all a quantile asks, and still there when the delay has moved up a little.
        (Played over many distributions, counting the bare time leaves up to 7 % of the calls hedged where 5 % are asked
        for, twice the time at most 5 %, and more than twice changes little.) What was cut off before the delay may
        belong on either side and is left out.
        """
        seconds = (now if self._over is None else self._over) - self.began if self._seconds is None else self._seconds
        if self._answered:
            return seconds
        return seconds * _CUT_OFF if seconds >= self.delay else None
