"""So many places and, where callers may wait, the line before them: what both forms of bulkhead share."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Awaitable
from typing import Any, cast

from resilience._support.fork import renew_after_fork
from resilience.bulkhead import _sync
from resilience.bulkhead._machine import Arrival
from resilience.bulkhead._queue import Permit, Queue, Waiter
from resilience.clock import Clock
from resilience.errors import BulkheadFullError
from resilience.events import Emitter
from resilience.policy import Named
from resilience.timeout import Deadline

__all__ = ("PLACE", "Admission")

PLACE = (None,)
"""One place, to be added to those that are free."""


class _Nowhere:
    """The permit of a call that was let in without a place: giving it back changes nothing."""

    def __iadd__(self, _place: tuple[None]) -> _Nowhere:  # noqa: PYI034 - there is one, and none inherits
        return self


_NOWHERE = _Nowhere()


class Admission(Named):
    """Lets so many calls in at once; the others wait up to `max_wait` seconds, or are refused."""

    options: Any
    limit_option: str
    """The option that says how many."""

    def __init__(
        self, name: str | None, limit: int, max_wait: float, max_waiting: int, clock: Clock, *, shadow: bool = False
    ) -> None:
        super().__init__(name)
        self._limit, self._max_wait, self._max_waiting = limit, max_wait, max_waiting
        self._clock, self._shadow = clock, shadow
        self.events = Emitter()
        # In shadow nobody is kept waiting.
        self._queue = Queue(limit, max_waiting, clock) if max_wait and not shadow else None
        self.waits = self._queue is not None
        self.rejected_calls = 0
        """Calls refused so far (in shadow: that would have been)."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's calls: they never end here."""
        # Guards the limit, what is owed, and the count of refusals; re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()
        # Tokens in a list: taking and returning one is a single operator each, so there is no count to get wrong. Not a
        # call: CPython looks for signals when a call of C has returned, and a token taken by `pop` would be lost then.
        self._tokens: list[None] = [None] * self._limit
        self._owed = 0  # tokens to take out of use since the limit was lowered

    @property
    def limit(self) -> int:
        """Calls that may be under way at once."""
        return self._limit

    @property
    def concurrent_calls(self) -> int:
        """Calls under way."""
        return self._limit + self._owed - len(self._tokens) if self._queue is None else self._queue.inside

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return 0 if self._queue is None else self._queue.waiting

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way and none waits: nothing would be lost with it."""
        return not self.concurrent_calls and not self.waiting

    def snapshot(self) -> dict[str, Any]:
        """Return the limit, the calls under way and in line, and how many were refused so far."""
        return {
            "limit": self._limit,
            "concurrent": self.concurrent_calls,
            "waiting": self.waiting,
            "rejected": self.rejected_calls,
        }

    def enter(self) -> Any:
        """Take a place, or raise `BulkheadFullError`. Takes no lock."""
        tokens = self._tokens
        try:
            if self._owed:
                self._collect()
            del tokens[-1]
        except IndexError:
            refusal = self._none_free("full", "and none may wait")
        else:
            return tokens
        if self._shadow:
            return _NOWHERE
        raise refusal

    def enter_blocking(self) -> Any:
        """Take a place, waiting in this thread for up to `max_wait` or the deadline in force."""
        return _sync.enter(self, cast("Queue", self._queue))

    def enter_awaiting(self) -> Awaitable[Any]:
        """Take a place, waiting in this task for up to `max_wait` or the deadline in force."""
        from resilience.bulkhead import _aio  # noqa: PLC0415 - only what awaits pays for asyncio

        return _aio.enter(self, cast("Queue", self._queue))

    def leave(self, permit: Any) -> None:
        """Give a place back."""
        if self._queue is None:
            permit += PLACE
        else:
            self._queue.give_back(permit)

    def resize(self, limit: int) -> None:
        """Change the limit. More places go to those who wait; fewer come about as calls end, none is broken off."""
        self.options = dataclasses.replace(self.options, **{self.limit_option: limit})
        before = self._limit
        if self._queue is None:
            self._issue(limit)
        else:
            self._limit = limit
            self._queue.resize(limit)
        self.events.emit(f"{self.kind}.resized", self.name, self._clock(), before=before, after=limit)

    def patience(self) -> float:
        """Return how long a caller may wait here and now."""
        deadline = Deadline.current()
        return self._max_wait if deadline is None else min(self._max_wait, deadline.remaining())

    def judge(self, arrival: Arrival, waiter: Waiter, patience: float) -> Permit:
        """Turn the end of a wait into a permit or a refusal."""
        queue = cast("Queue", self._queue)
        if arrival is Arrival.ADMITTED:
            return waiter
        least = queue.least_wait() or None
        if arrival is Arrival.REFUSED:
            raise self._none_free("line", f"and {self._max_waiting} callers wait", least)
        if arrival is Arrival.QUEUED:
            raise self._none_free("waited", f"and none became free within {patience:.3g} s", least)
        why = "and the deadline has passed" if least is None else f"and none can be free within {patience:.3g} s"
        raise self._none_free("hopeless", why, least)

    def _issue(self, limit: int) -> None:
        """Issue the tokens of a higher limit; for a lower one, take them out of use as they come back."""
        with self._lock:
            more = limit - self._limit
            forgiven = min(max(more, 0), self._owed)
            owed, tokens, issued = self._owed + max(-more, 0) - forgiven, self._tokens, [None] * (more - forgiven)
            # Operators alone: an interrupt finds all of it done or nothing.
            self._owed, self._limit = owed, limit
            tokens += issued

    def _collect(self) -> None:
        """Take tokens out of use, before any call may have one; raises IndexError where there are too few."""
        with self._lock:
            while self._owed:
                del self._tokens[-1]
                self._owed -= 1

    def _none_free(self, reason: str, why: str, retry_after: float | None = None) -> BulkheadFullError:
        return self._refusal(reason, f"{self.name}: all {self._limit} places are taken {why}", retry_after)

    def _refusal(self, reason: str, message: str, retry_after: float | None = None) -> BulkheadFullError:
        """Return the error of a call that gets no place, having counted it and told the listeners."""
        with self._lock:
            self.rejected_calls += 1
        facts = {"reason": reason, self.limit_option: self._limit, **({"shadow": True} if self._shadow else {})}
        self.events.emit(f"{self.kind}.rejected", self.name, self._clock(), "warning", **facts)
        return BulkheadFullError(message, policy=self.name, retry_after=retry_after)
