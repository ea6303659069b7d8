"""The requests in flight: how many there are, and the callers that wait for the last one to leave."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ("InFlight",)


class InFlight:
    """Counts requests without a lock. The lock is taken only for callers that wait."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Count from zero in a forked child: the parent's requests stay with the parent."""
        self._lock = threading.RLock()  # re-entrant: a signal may arrive in the thread that holds it, and wait
        # One token a request. Adding and removing a token are atomic steps, so no count can get out of step.
        self._tokens: deque[None] = deque()
        self._waiters: set[Callable[[], None]] = set()

    @property
    def count(self) -> int:
        """The number of requests in flight."""
        return len(self._tokens)

    def enter(self) -> None:
        """Count one more request."""
        self._tokens.append(None)

    def leave(self) -> None:
        """Count one request less. Never below zero."""
        try:
            self._tokens.pop()
        except IndexError:  # a child that was forked inside a request leaves, but did not enter
            return
        # A waiter adds itself to the set before it looks for tokens. So it sees that this one is gone, or is seen here.
        if self._waiters and not self._tokens:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._tokens:  # a request has entered meanwhile; its `leave` will call this method again
                return
            woken, self._waiters = self._waiters, set()
        for wake in woken:
            wake()

    def watch(self, wake: Callable[[], None]) -> bool:
        """Call `wake` once, when the last request leaves. If there is none now, return False and do not call it."""
        with self._lock:
            self._waiters.add(wake)
            is_busy = bool(self._tokens)
            if not is_busy:
                self._waiters.discard(wake)
            return is_busy

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End a `watch`. Does nothing if `wake` was called already."""
        with self._lock:
            self._waiters.discard(wake)

    def wait(self, limit: float) -> bool:
        """Block until no request is in flight, for at most `limit` seconds. Return whether that came in time."""
        idle = threading.Event()
        if not self.watch(idle.set):
            return True
        try:
            return idle.wait(limit)
        finally:
            self.unwatch(idle.set)
