"""Bodies of responses. Each holds a connection, and the permits of bulkheads, until it is closed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from resilience.timeout import Deadline
from resilience_http._exchange import DRAIN_TIMEOUT, MAX_READ_AHEAD, StepTimeouts
from resilience_http._transports._library import Foreign, HTTPXLibrary, HTTPXRequest, HTTPXResponse

__all__ = ("SyncBodies", "TrackedBody", "close_all")


class TrackedBody:
    """The part of a body that is the same in both colours: the deadline, and the permits to give back."""

    library: ClassVar[HTTPXLibrary[Foreign, Foreign]]

    def __init__(self, stream: Foreign, request: HTTPXRequest, times: StepTimeouts) -> None:
        self.stream = stream
        self.settles: list[Callable[[], None]] = []
        self.is_closed = False
        self._request, self._times = request, times

    def check(self) -> None:
        """Raise if the caller has no time left: a body that arrives byte by byte meets every read timeout."""
        if self._times.is_spent:
            raise self.library.errors.deadline_error(
                "the deadline passed before the answer was complete", self._request
            )

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


class SyncTrackedBody(TrackedBody):
    """The body of a response, read in a thread."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self.stream:
                self.check()
                yield part
        except self.library.timeout_exception:
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


class PartlyReadBody:
    """A body that was read in part. Its reader gets all of it."""

    def __init__(self, begun: list[bytes], rest: Iterator[bytes], stream: Foreign) -> None:
        self._begun, self._rest, self._stream = begun, rest, stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._begun
        yield from self._rest

    def close(self) -> None:
        self._stream.close()


class SyncBodies:
    """Reads and replaces the bodies of a library's responses, in a thread."""

    def __init__(self, library: HTTPXLibrary[Foreign, Foreign]) -> None:
        self._byte_stream = library.byte_stream
        self._tracked = library.derived(SyncTrackedBody, library.sync_stream)
        self._partly_read = library.derived(PartlyReadBody, library.sync_stream)

    def track(self, response: HTTPXResponse, request: HTTPXRequest, times: StepTimeouts) -> None:
        """Let the body of a response keep the deadline, and hold permits until it is closed."""
        response.stream = self._tracked(response.stream, request, times)

    def read(self, response: HTTPXResponse, max_bytes: float = math.inf) -> bytes | None:
        """Read a body, keep it to be read again, and free its connection.

        Of a body with more than `max_bytes`, the rest is left unread, and None is returned.
        """
        stream = response.stream
        parts, read, size = iter(stream), list[bytes](), 0
        try:
            for part in parts:
                read.append(part)
                size += len(part)
                if size > max_bytes:
                    response.stream = self._partly_read(read, parts, stream)
                    return None
        except BaseException:
            stream.close()
            raise
        stream.close()
        raw = b"".join(read)
        response.stream = self._byte_stream(raw)
        return raw


def close_all(responses: Iterable[HTTPXResponse]) -> None:
    """Close responses."""
    for response in responses:
        with contextlib.suppress(Exception):  # no caller is left to get the error
            response.close()
