"""When a pool begins an attempt to connect. Pure.

An attempt belongs to no borrower: a borrower that gives up ends no attempt, and takes whichever entry comes first, an
old or a new one.

An attempt reserves its place in the pool before it begins. Up to `max_creating` attempts run at once: one that hangs
does not stop the others. (HikariCP has one creator. If its connect hangs, the pool drains to zero.)

An attempt that takes longer than `connect_timeout` is over: it counts as failed, and its place is free. If it succeeds
later, the shell closes its connection.

After a failure there is one attempt at a time, and a pause before it that doubles up to a limit, with jitter. The first
success ends both. A pool without any connection goes on until then, also if no borrower waits. A refusal of the circuit
breaker around connecting is no failure of the server: the pause is the `retry_after` of the refusal.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from resilience.errors import RejectedError
from resilience.pool._options import PoolOptions

__all__ = ("Attempt", "Connecting", "backoff")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0


def backoff(failures: int, chance: float) -> float:
    """Return the seconds to wait after the last of `failures` failures in a row; a random half of them is `chance`."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 30)) * (1 + chance) / 2


class Attempt:
    """One attempt to connect, which began at `since`."""

    __slots__ = ("is_over", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.is_over = False


class Connecting:
    """The attempts that run, and the outcome of the last ones.

    Args:
        options: The options of the pool.
        chance: Returns a number from 0 to 1.
    """

    def __init__(self, options: PoolOptions, chance: Callable[[], float]) -> None:
        self._at_once, self._timeout, self._chance = options.max_creating, options.connect_timeout, chance
        self._running: set[Attempt] = set()
        self._is_starting = False
        self.failures = 0
        """Failures since the last success."""
        self.retry_at = -math.inf
        """The moment before which no attempt begins."""
        self.last_error: BaseException | None = None
        """The error of the last attempt, None if it succeeded."""
        self.created = self.failed = 0
        """Attempts that succeeded and that failed so far."""
        self.seconds = 0.0
        """The time that the successful attempts took."""

    @property
    def running(self) -> int:
        """Attempts that run now."""
        return len(self._running)

    def missing(self, needed: int, room: int) -> int:
        """Return how many attempts should run besides those that do.

        Args:
            needed: The entries that borrowers wait for, or that the pool keeps idle.
            room: The entries that the pool may still have.
        """
        if self._is_starting:
            return 0
        at_once = 1 if self.failures else self._at_once
        return max(0, min(needed, room, at_once) - len(self._running))

    def begin(self, count: int, now: float) -> list[Attempt]:
        """Return `count` new attempts; none in the pause after a failure."""
        begun = [Attempt(now) for _ in range(count)] if now >= self.retry_at else []
        running, more = self._running, set(begun)
        running |= more  # an operator: no interrupt comes after it
        return begun

    @contextlib.contextmanager
    def start(self) -> Iterator[None]:
        """Leave all attempts to the start of the service, while this block runs."""
        self._is_starting = True
        try:
            yield
        finally:
            self._is_starting = False

    def withdraw(self, attempt: Attempt) -> None:
        """End an attempt that an interrupt has stopped before it could begin. It counts as none."""
        self._end(attempt)

    def begin_first(self, now: float) -> Attempt:
        """Return an attempt that begins in spite of the pause after a failure: the start of a service waits for it."""
        attempt = Attempt(now)
        self._running.add(attempt)
        return attempt

    def succeed(self, attempt: Attempt, now: float) -> bool:
        """Record a success. Return False if the attempt was over already."""
        if not self._end(attempt):
            return False
        self.forget()
        self.created += 1
        self.seconds += now - attempt.since
        return True

    def fail(self, attempt: Attempt, error: BaseException, now: float) -> bool:
        """Record a failure. Return False if the attempt was over already."""
        if not self._end(attempt):
            return False
        self.failed += 1
        self.failures += 1
        self.last_error = error
        pause = backoff(self.failures, self._chance())
        if isinstance(error, RejectedError):
            self.failures, pause = 1, error.retry_after or pause
        self.retry_at = now + pause
        return True

    def late(self, now: float) -> list[Attempt]:
        """Return the attempts that take longer than they may."""
        return [attempt for attempt in self._running if now - attempt.since >= self._timeout]

    def is_refused(self, now: float) -> bool:
        """Whether the circuit breaker around connecting refuses attempts now."""
        return isinstance(self.last_error, RejectedError) and now < self.retry_at

    @property
    def refusal(self) -> BaseException:
        """The refusal by the circuit breaker."""
        return self.last_error or RejectedError()

    def give_up(self) -> None:
        """End all attempts: a connection that one still brings comes too late."""
        for attempt in self._running:
            attempt.is_over = True
        self._running = set()

    def forget(self) -> None:
        """Forget the failures, so that the next attempt begins at once."""
        self.failures, self.retry_at, self.last_error = 0, -math.inf, None

    def _end(self, attempt: Attempt) -> bool:
        if attempt.is_over:
            return False
        attempt.is_over = True
        self._running.discard(attempt)
        return True
