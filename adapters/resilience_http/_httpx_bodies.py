"""Bodies of httpx responses, which hold connections and permits until they are closed; and the errors that end them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from resilience.timeout import Deadline
from resilience_http._errors import Counterparts, ErrorKinds
from resilience_http._exchange import DRAIN_TIMEOUT, MAX_READ_AHEAD, StepTimeouts

__all__ = ("ERRORS", "PartlyReadBody", "SyncTrackedBody", "TrackedBody")

ERRORS = ErrorKinds(
    transient=(httpx.TransportError, httpx.HTTPStatusError),
    permanent=(httpx.UnsupportedProtocol, httpx.LocalProtocolError),
    ours=(httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.PoolTimeout),
    counterparts=Counterparts(
        late=httpx.TimeoutException,
        full=httpx.PoolTimeout,  # as if the client's own limit of connections were reached
        refused=httpx.ConnectError,  # the class that says that no request was sent
        status=httpx.HTTPStatusError,
    ),
)
"""The exceptions of httpx, by their meaning."""


class TrackedBody:
    """The part of a body that is the same in both colours: the deadline, and the permits to give back."""

    def __init__(self, stream: Any, request: httpx.Request, times: StepTimeouts) -> None:
        self.stream = stream
        self.settles: list[Callable[[], None]] = []
        self.is_closed = False
        self._request, self._times = request, times

    def check(self) -> None:
        """Raise if the caller has no time left: a body that arrives byte by byte meets every read timeout."""
        if self._times.is_spent:
            raise ERRORS.deadline_error("the deadline passed before the answer was complete", self._request)

    def settle(self) -> None:
        """Give the permits back."""
        while self.settles:
            self.settles.pop()()

    def discard(self) -> None:
        """Free the connection: read the rest if it is short and comes at once, else close it."""
        raise NotImplementedError

    def limit_rest(self) -> None:
        """Allow the rest of the body `DRAIN_TIMEOUT` seconds."""
        deadline = self._times.deadline
        if deadline is None or deadline.remaining() > DRAIN_TIMEOUT:
            self._times.deadline = Deadline.after(DRAIN_TIMEOUT)


class SyncTrackedBody(TrackedBody, httpx.SyncByteStream):
    """The body of a response, read in a thread."""

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
        self.limit_rest()
        with contextlib.suppress(Exception):  # the response is not used, whatever its body is
            left = MAX_READ_AHEAD
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


class PartlyReadBody(httpx.SyncByteStream):
    """A body that was read in part. Its reader gets all of it."""

    def __init__(self, begun: list[bytes], rest: Iterator[bytes], stream: httpx.SyncByteStream) -> None:
        self._begun, self._rest, self._stream = begun, rest, stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._begun
        yield from self._rest

    def close(self) -> None:
        self._stream.close()
