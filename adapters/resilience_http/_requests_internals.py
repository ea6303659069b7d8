"""Internals of requests and urllib3 that this adapter relies on. No other file relies on any.

All of them are there in requests 2.32 and 2.34, with urllib3 2.8.

- `Response._content` is False until a body is read: `is_read`. If it goes, a read body counts as a stream, which is
  closed already.
- `HTTPResponse.release_conn` as an attribute of the instance: `when_released`. Both ends of a body come here, the last
  byte and `close`. If urllib3 stops to call it, a bulkhead holds its permit until the response is freed.
- `HTTPResponse._connection.sock`: `shut_down_read`, for versions without `HTTPResponse.shutdown` (urllib3 2.3). If it
  goes, `close` waits for a read in another thread.
- `HTTPResponse._original_response`: `peek_body`. Sessions take cookies from it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from requests.models import Response
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from resilience_http._exchange import MAX_READ_AHEAD

__all__ = ("peek_body", "shut_down_read", "when_released")


def peek_body(answer: Response, max_bytes: int) -> bytes | None:
    """Return a decoded body without taking it from its reader.

    None for a body of more than `max_bytes`, of which no more is read, or a body that breaks off. The reader of the
    response gets every byte, and the error at its place.
    """
    raw = answer.raw
    if _is_read(answer) or not isinstance(raw, HTTPResponse):
        return answer.content
    read, rest = _read(raw, max_bytes)
    answer.raw = _resumed(raw, itertools.chain(read, rest))
    return None if rest else _decoded(raw, b"".join(read), max_bytes)


def _read(raw: HTTPResponse, max_bytes: int) -> tuple[list[bytes], Iterable[bytes]]:
    """Return the parts of a body that were read, and the parts that follow."""
    read: list[bytes] = []
    parts, size = raw.stream(MAX_READ_AHEAD, decode_content=False), 0
    try:
        for part in parts:
            read.append(part)
            size += len(part)
            if size > max_bytes:
                return read, parts
    except HTTPError as error:
        return read, map(_raise, [error])
    return read, ()


def _raise(error: Exception) -> bytes:
    raise error


def _resumed(raw: HTTPResponse, parts: Iterator[bytes]) -> HTTPResponse:
    """Return a response with the status and headers of `raw`, and with `parts` as its body."""
    return HTTPResponse(
        _Parts(parts, raw),
        headers=raw.headers,
        status=raw.status,
        version=raw.version,
        reason=raw.reason,
        preload_content=False,
        decode_content=raw.decode_content,
        original_response=raw._original_response,  # noqa: SLF001 - sessions take cookies from there
        enforce_content_length=False,  # `raw` has checked it
    )


def _decoded(raw: HTTPResponse, body: bytes, max_bytes: int) -> bytes | None:
    copy = HTTPResponse(io.BytesIO(body), headers=raw.headers, preload_content=False, enforce_content_length=False)
    with contextlib.suppress(HTTPError):
        return copy.read(max_bytes + 1, decode_content=True)
    return None


class _Parts(io.RawIOBase):
    """The parts of a body as a file. To close it closes the response that the parts come from."""

    def __init__(self, parts: Iterator[bytes], raw: HTTPResponse) -> None:
        self._parts, self._raw, self._left = parts, raw, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = next(self._parts, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def read1(self, size: int = -1) -> bytes | None:
        return self.read(MAX_READ_AHEAD if size < 0 else size)  # urllib3 expects one part

    def close(self) -> None:
        super().close()
        self._raw.close()
        self._raw.release_conn()


def _is_read(answer: object) -> bool:
    return getattr(answer, "_content", False) is not False


def when_released(answer: object, settle: Callable[[], None]) -> bool:
    """Call `settle` when urllib3 gives the connection back: after the last byte, or when the response is closed."""
    if not isinstance(answer, Response) or answer.raw is None or _is_read(answer):
        return False
    raw = weakref.ref(answer.raw)
    give_back = vars(answer.raw).get("release_conn") or functools.partial(_release, raw)  # there may be two bulkheads

    def release_conn() -> None:
        # The body refers to this function, and not the other way round: if the application drops a response without
        # closing it, reference counting frees the body, this function and `settle`.
        give_back()
        settle()

    answer.raw.release_conn = release_conn  # type: ignore[method-assign]  # both ends of a body come here
    return True


def _release(raw: weakref.ref[Any]) -> None:
    body = raw()
    if body is not None:
        type(body).release_conn(body)


def shut_down_read(raw: Any) -> None:
    """End a read of the body in another thread, for which `close` would wait.

    A body that was read to its end has given its connection back, which may serve another call by now. urllib3 2.3
    still knows its socket, and would shut it down.
    """
    if raw._connection is None:  # noqa: SLF001 - urllib3 has no public name for it
        return
    if hasattr(raw, "shutdown"):  # urllib3 2.3
        raw.shutdown()
    else:
        raw._connection.sock.shutdown(socket.SHUT_RD)  # noqa: SLF001 - older versions have no public name for it
