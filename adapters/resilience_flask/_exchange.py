"""One request and its answer: headers and body of the answer pass here, and its end ends the request."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from operator import call
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from flask import Flask

from resilience.errors import DeadlineExceededError
from resilience.server import RequestContext, RequestRecord, ServerGate
from resilience_flask._errors import HeaderList, stream_error

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ("WSGIExchange",)

Write: TypeAlias = Callable[[bytes], object]

_ID = "X-Request-ID"
_NOTHING = iter(())


class WSGIExchange:
    """The body that the server sends: adds our headers, and ends the request when the last piece is out.

    Flask leaves its own contexts before a streamed body begins. So the exchange keeps a copy of the context variables,
    and makes every piece in the copy: the server may ask for each piece from another thread (L19). The status of a
    stream waits for the first piece: until then an error can still be answered.
    """

    __slots__ = (
        "_app",
        "_body",
        "_context",
        "_environ",
        "_gate",
        "_is_begun",
        "_next",
        "_run",
        "_start",
        "_waiting",
        "_written",
    )

    def __init__(
        self,
        gate: ServerGate,
        app: Flask,
        context: RequestContext,
        environ: WSGIEnvironment,
        start: StartResponse,
    ) -> None:
        self._gate, self._app = gate, app
        self._context = context
        self._environ = environ
        self._start = start if context.record is None else _noting_status(start, context.record)
        self._waiting: tuple[str, HeaderList] | None = None
        self._is_begun = False
        self._body: Iterable[bytes] = ()
        self._next: Callable[[], bytes] = cast("Iterator[bytes]", _NOTHING).__next__
        self._run: Callable[..., Any] = call
        self._written: Write | None = None

    def start(self, status: str, headers: HeaderList, exc_info: Any = None, /) -> Write:
        """Take the status and the headers, in place of the server's `start_response`."""
        headers, is_measured = self._with_our_headers(headers)
        if exc_info is not None and self._waiting is None:
            return self._start(status, headers, exc_info)
        if is_measured:
            self._waiting = None
            self._written = self._start(status, headers)
        else:
            self._waiting = status, headers
        return self._write

    def _with_our_headers(self, given: HeaderList) -> tuple[HeaderList, bool]:
        """Return the headers with ours, and whether they state the length of the body."""
        headers, is_identified, is_measured = list(given), False, False
        for name, _ in given:
            if len(name) == len(_ID) and name.lower() == "x-request-id":
                is_identified = True
            elif len(name) == len("Content-Length") and name.lower() == "content-length":
                is_measured = True
        context = self._context
        if is_identified:
            headers = [line for line in headers if line[0].lower() != "x-request-id"]
        headers.append((_ID, context.request_id))
        if context.charges:
            headers += self._gate.quota_headers(context)
        return headers, is_measured

    def _write(self, piece: bytes, /) -> object:
        """Send a piece by the `write` function of WSGI."""
        if self._waiting is not None:
            self._release()
        assert self._written is not None  # noqa: S101 - the application has this function from `start`
        return self._written(piece)

    def _release(self) -> None:
        """Send the status that has waited for the first piece."""
        assert self._waiting is not None  # noqa: S101 - WSGI demands a status
        (status, headers), self._waiting = self._waiting, None
        self._written = self._start(status, headers)

    def carry(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return the body for the server. Called in the context of the request, of which a copy is kept."""
        self._body = body
        self._run = copy_context().run
        if self._is_file(body):
            if self._waiting is not None:
                self._release()
            return body
        self._next = iter(body).__next__
        return self

    def _is_file(self, body: Iterable[bytes]) -> bool:
        """Return whether `body` is a file that the server itself sends: it must get its own wrapper back."""
        wrapper = self._environ.get("wsgi.file_wrapper")
        if not isinstance(wrapper, type) or not isinstance(body, wrapper):
            return False
        inner = getattr(body, "close", None)
        try:
            body.close = self.close  # type: ignore[attr-defined]  # the wrappers of servers have no common type
        except AttributeError:  # a wrapper written in C is sent piece by piece, as any body
            return False
        self._body = cast("Iterable[bytes]", _Closing(inner))
        return True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            piece: bytes = self._run(self._next)
        except StopIteration:
            if self._waiting is not None:
                self._release()
            raise
        except Exception as error:
            if self._waiting is None:
                if self._context.is_late(error):
                    raise self._broken_off() from None
                raise
            piece = self._run(self._error_body, error, self._waiting[1])
        if self._waiting is not None:
            self._release()
        if self._is_begun:  # a first piece is sent even if it is late: it may be the whole answer
            deadline = self._context.deadline
            if deadline is not None and deadline.expired:
                raise self._broken_off()
        self._is_begun = True
        return piece

    def _broken_off(self) -> ResponseResetError:
        self._gate.log_broken_off(self._context)
        return ResponseResetError("the deadline passed before the answer was complete", policy="server")

    def _error_body(self, error: Exception, headers: HeaderList) -> bytes:
        """Return the body of an error, for a stream that has failed before its first piece."""
        body, self._waiting = stream_error(self._app, self._environ, error, headers)
        self._next = cast("Iterator[bytes]", _NOTHING).__next__
        return body

    def close(self) -> None:
        """End the request. The server calls this after every answer, complete or not."""
        context, body = self._context, self._body
        self._body = ()
        try:
            close = getattr(body, "close", None)
            if close is not None:
                self._gate.response_sent(context)
                self._run(close)
        finally:
            self._gate.leave(context)
            context.source = None
            if context.record is not None:
                self._run(self._gate.log_request, context, self._environ.get("REQUEST_METHOD", "GET"))

    def __del__(self) -> None:
        # Middleware that does not close the body must not keep the permit for ever.
        self._gate.leave(self._context)


def _noting_status(start: StartResponse, record: RequestRecord) -> StartResponse:
    """Return the server's `start_response`. The status that it gets is noted for the log."""

    def start_noted(status: str, headers: HeaderList, exc_info: Any = None, /) -> Write:
        number = status.partition(" ")[0]
        record.status = int(number) if number.isdecimal() else None
        return start(status, headers) if exc_info is None else start(status, headers, exc_info)

    return start_noted


class ResponseResetError(DeadlineExceededError, ConnectionResetError):
    """Raised into the server, which closes the connection: the client sees that the answer is incomplete.

    Servers log an exception of the application with its traceback, but not the reset of a connection. So this error is
    a reset of the connection as well.
    """

    def __init__(self, message: str, /, *, policy: str = "") -> None:
        super().__init__(message, policy=policy)
        self.errno = errno.ECONNRESET


class _Closing:
    """The `close` of a file that the server sends itself."""

    __slots__ = ("close",)

    def __init__(self, close: Callable[[], None] | None) -> None:
        self.close = close
