"""One request and its answer: headers and body of the answer pass here, and its end is known."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from operator import call
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from resilience.errors import DeadlineExceededError
from resilience.server import RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from resilience_flask._layer import Layer

__all__ = ("Exchange",)

Headers: TypeAlias = "list[tuple[str, str]]"
Write: TypeAlias = Callable[[bytes], object]

_ID = "X-Request-ID"
_NOTHING = iter(())


class Exchange:
    """What the server is given to send: adds our headers, and ends the request when the last of it is out.

    Flask leaves its own contexts before a streamed body begins. What the request knows is kept as a snapshot in which
    every piece is made, for nobody says which thread asks for the next one (L19). A stream's status waits for its first
    piece: until then an error can still be answered.
    """

    __slots__ = (
        "_body",
        "_context",
        "_environ",
        "_is_begun",
        "_layer",
        "_next",
        "_run",
        "_start",
        "_waiting",
        "_written",
    )

    def __init__(self, layer: Layer, context: RequestContext, environ: WSGIEnvironment, start: StartResponse) -> None:
        self._layer = layer
        self._context = context
        self._environ = environ
        self._start = start
        self._waiting: tuple[str, Headers] | None = None
        self._is_begun = False
        self._body: Iterable[bytes] = ()
        self._next: Callable[[], bytes] = cast("Iterator[bytes]", _NOTHING).__next__
        self._run: Callable[..., Any] = call
        self._written: Write | None = None

    def start(self, status: str, headers: Headers, exc_info: Any = None, /) -> Write:
        """Stand in for the server's `start_response`."""
        headers, is_measured = self._headed(headers)
        if exc_info is not None and self._waiting is None:
            return self._start(status, headers, exc_info)
        if is_measured:
            self._waiting = None
            self._written = self._start(status, headers)
        else:
            self._waiting = status, headers
        return self._write

    def _headed(self, given: Headers) -> tuple[Headers, bool]:
        """Return the headers with ours, and whether the length of the body is among them."""
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
            headers += self._layer.gate.quota_headers(context)
        return headers, is_measured

    def _write(self, piece: bytes, /) -> object:
        """Send what an application writes past its body, as WSGI allows it to."""
        if self._waiting is not None:
            self._release()
        assert self._written is not None  # noqa: S101 - whoever has this function has said a status
        return self._written(piece)

    def _release(self) -> None:
        """Send the status that waited."""
        assert self._waiting is not None  # noqa: S101 - an application that says nothing is in breach of WSGI
        (status, headers), self._waiting = self._waiting, None
        self._written = self._start(status, headers)

    def carry(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return what the server is to send for `body`. Called inside the request's context, which is kept."""
        self._body = body
        self._run = copy_context().run
        if self._is_file(body):
            if self._waiting is not None:
                self._release()
            return body
        self._next = iter(body).__next__
        return self

    def _is_file(self, body: Any) -> bool:
        """Whether this is a file the server itself sends, as it can only if it gets its own wrapper back."""
        wrapper = self._environ.get("wsgi.file_wrapper")
        if not isinstance(wrapper, type) or not isinstance(body, wrapper):
            return False
        inner = getattr(body, "close", None)
        try:
            body.close = self.close  # type: ignore[attr-defined]  # servers' wrappers have no common type
        except AttributeError:  # a wrapper written in C: sent piece by piece, as any body
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
            piece = self._run(self._instead, error, self._waiting[1])
        if self._waiting is not None:
            self._release()
        if self._is_begun:  # a first piece is sent however late it is: it may be all there is
            deadline = self._context.deadline
            if deadline is not None and deadline.expired:
                raise self._broken_off()
        self._is_begun = True
        return piece

    def _broken_off(self) -> BrokenOffError:
        self._layer.gate.log_broken_off(self._context)
        return BrokenOffError("the deadline passed before the answer was complete", policy="server")

    def _instead(self, error: Exception, headers: Headers) -> bytes:
        """Return another body for a stream that failed before its first piece."""
        body, self._waiting = self._layer.answer_for(self._environ, error, headers)
        self._next = cast("Iterator[bytes]", _NOTHING).__next__
        return body

    def close(self) -> None:
        """End the request, as a server does whatever came of the answer."""
        context, body = self._context, self._body
        self._body = ()
        gate = self._layer.gate
        try:
            close = getattr(body, "close", None)
            if close is not None:
                gate.response_sent(context)
                self._run(close)
        finally:
            gate.leave(context)
            context.source = None

    def __del__(self) -> None:
        # Middleware that forgets to close what it was given must not cost us the place for ever.
        self._layer.gate.leave(self._context)


class BrokenOffError(DeadlineExceededError, ConnectionResetError):
    """Raised into the server, which closes the connection: the client sees that something is missing.

    Servers log what an application raises with its traceback. They do not for a connection that was reset, which is
    what this becomes.
    """

    def __init__(self, message: str, /, *, policy: str = "") -> None:
        super().__init__(message, policy=policy)
        self.errno = errno.ECONNRESET


class _Closing:
    __slots__ = ("close",)

    def __init__(self, close: Callable[[], None] | None) -> None:
        self.close = close
