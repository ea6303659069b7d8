"""The bulkhead: how many calls may be under way at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, cast

from resilience._fork import renew_after_fork
from resilience.bulkhead import _sync
from resilience.bulkhead._machine import Arrival
from resilience.bulkhead._options import BulkheadOptions
from resilience.bulkhead._queue import Queue
from resilience.clock import Clock, monotonic
from resilience.errors import BulkheadFullError, DeadlineExceededError
from resilience.events import Emitter
from resilience.options import CLOCK, checked
from resilience.policy import PolicyBase

__all__ = ("Bulkhead",)


class Bulkhead(PolicyBase):
    """Lets `max_concurrent_calls` calls be under way at once and refuses the others with `BulkheadFullError`.

    With `max_wait` above 0 a caller waits that long, first come first served across threads and tasks; beyond
    `max_waiting` callers in line one more is refused at once. A place is given back when the call ends, however it
    ends - for a blocking call that outlived a `Timeout` directly inside, when its thread really ends (L9).
    """

    kind = "bulkhead"

    def __init__(
        self,
        max_concurrent_calls: int = 25,
        max_wait: float | str | timedelta = 0,
        *,
        max_waiting: int = 1000,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.options = BulkheadOptions(
            max_concurrent_calls=max_concurrent_calls, max_wait=cast("float", max_wait), max_waiting=max_waiting
        )
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.events = Emitter()
        self._queue = Queue(max_concurrent_calls, max_waiting) if self.options.max_wait else None
        self.waits = self._queue is not None
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's calls: they never end here."""
        places = self.options.max_concurrent_calls
        # Tokens in a deque: taking and returning one is a single atomic C call each, so there is no count to get wrong.
        self._tokens: deque[None] = deque([None] * places, maxlen=places)

    @property
    def concurrent_calls(self) -> int:
        """Calls under way."""
        free = len(self._tokens) if self._queue is None else self._queue.free
        return self.options.max_concurrent_calls - free

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return 0 if self._queue is None else self._queue.waiting

    def admit(self) -> None:
        """Take a place, or raise `BulkheadFullError`. Takes no lock."""
        try:
            self._tokens.pop()
        except IndexError:
            raise self._full("and none may wait") from None

    def admit_blocking(self) -> None:
        """Take a place, waiting in this thread for up to `max_wait`."""
        queue = cast("Queue", self._queue)
        self.judge(_sync.enter(queue, self.options.max_wait))

    def admit_awaiting(self) -> Awaitable[None]:
        """Take a place, waiting in this task for up to `max_wait`."""
        from resilience.bulkhead import _aio  # noqa: PLC0415 - only what awaits pays for asyncio

        return _aio.admit(self, cast("Queue", self._queue))

    def judge(self, arrival: Arrival) -> None:
        """Turn the end of a wait into a permit or a refusal."""
        if arrival is Arrival.REFUSED:
            raise self._full(f"and {self.options.max_waiting} callers wait")
        if arrival is Arrival.QUEUED:
            raise self._full(f"and none became free within {self.options.max_wait:g} s")

    def on_success(self, _permit: None, _result: Any, /) -> None:
        """Give the place back."""
        if self._queue is None:
            self._tokens.append(None)
        else:
            self._queue.give_back()

    def on_failure(self, _permit: None, error: Exception, /) -> None:
        """Give the place back, when the work has really ended."""
        if isinstance(error, DeadlineExceededError) and error.running is not None:
            error.running.add_done_callback(lambda: self.on_success(None, None))
        else:
            self.on_success(None, None)

    def on_abandon(self, _permit: None, /) -> None:
        """Give the place back."""
        self.on_success(None, None)

    def _full(self, why: str) -> BulkheadFullError:
        places = self.options.max_concurrent_calls
        self.events.emit("bulkhead.rejected", self.name, self._clock(), "warning", max_concurrent_calls=places)
        return BulkheadFullError(f"{self.name}: all {places} places are taken {why}", policy=self.name)

    def __repr__(self) -> str:
        return f"<Bulkhead {self.name!r} {self.concurrent_calls}/{self.options.max_concurrent_calls}>"
