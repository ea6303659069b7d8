"""Bodies of httpx answers: they hold a connection, and places in bulkheads, until they are closed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from resilience.timeout import Deadline
from resilience_http._exchange import DRAIN, SMALL
from resilience_http._httpx_errors import LateError
from resilience_http._time import StepTimeouts

__all__ = ("Begun", "Body", "Held")


class Held:
    """The parts that bodies of both colours share."""

    def __init__(self, stream: Any, request: httpx.Request, times: StepTimeouts) -> None:
        self.stream = stream
        self.settles: list[Callable[[], None]] = []
        self.is_closed = False
        self._request, self._times = request, times

    def check(self) -> None:
        """Raise once the caller has no time left: a trickle of bytes meets every read timeout."""
        if self._times.is_spent:
            raise LateError("the deadline passed before the answer was complete", request=self._request)

    def settle(self) -> None:
        """Give back what was held."""
        while self.settles:
            self.settles.pop()()

    def discard(self) -> None:
        """Free the connection: read the rest if it is short and comes at once, else close it."""
        raise NotImplementedError

    def hurry(self) -> None:
        """Allow the rest of the body `DRAIN` seconds."""
        deadline = self._times.deadline
        if deadline is None or deadline.remaining() > DRAIN:
            self._times.deadline = Deadline.after(DRAIN)


class Body(Held, httpx.SyncByteStream):
    """The body of an answer, in a thread."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self.stream:
                self.check()
                yield part
        except httpx.TimeoutException:
            self.check()
            raise

    def discard(self) -> None:
        if self.is_closed:
            return
        self.hurry()
        with contextlib.suppress(Exception):  # the answer is of no use, whatever its body is
            left = SMALL
            for part in self:
                left -= len(part)
                if left < 0:
                    break
        with contextlib.suppress(Exception):
            self.close()

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        try:
            self.stream.close()
        finally:
            self.settle()


class Begun(httpx.SyncByteStream):
    """A body of which some has been read already; its reader gets all of it."""

    def __init__(self, begun: list[bytes], rest: Iterator[bytes], stream: httpx.SyncByteStream) -> None:
        self._begun, self._rest, self._stream = begun, rest, stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._begun
        yield from self._rest

    def close(self) -> None:
        self._stream.close()
