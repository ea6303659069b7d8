"""The body of an answer of requests, looked into while all of it stays there to be read."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from typing import Any

from requests.models import Response
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from resilience_http._exchange import SMALL

__all__ = ("body_of",)


def body_of(answer: Response, most: int) -> bytes | None:
    """Return a body as it is meant (decoded), None for one of more than `most` bytes, or one that breaks off.

    No more than that is read of a stream. Its reader gets every byte, and an error, where it stands.
    """
    raw = answer.raw
    is_read = getattr(answer, "_content", False) is not False  # requests has no other word for it
    if is_read or not isinstance(raw, HTTPResponse):
        return answer.content
    begun, rest = _begun(raw, most)
    answer.raw = _resumed(raw, itertools.chain(begun, rest))
    return None if rest else _decoded(raw, b"".join(begun), most)


def _begun(raw: HTTPResponse, most: int) -> tuple[list[bytes], Any]:
    """Return what was read of a body, and what is to follow."""
    begun: list[bytes] = []
    parts, size = raw.stream(SMALL, decode_content=False), 0
    try:
        for part in parts:
            begun.append(part)
            size += len(part)
            if size > most:
                return begun, parts
    except HTTPError as error:
        return begun, map(_raise, [error])
    return begun, ()


def _raise(error: Exception) -> bytes:
    raise error


def _resumed(raw: HTTPResponse, parts: Iterator[bytes]) -> HTTPResponse:
    """Return an answer with the same head as `raw`, whose body is `parts`."""
    return HTTPResponse(
        _Parts(parts, raw),
        headers=raw.headers,
        status=raw.status,
        version=raw.version,
        reason=raw.reason,
        preload_content=False,
        decode_content=raw.decode_content,
        original_response=raw._original_response,  # noqa: SLF001 - sessions take cookies from there
        enforce_content_length=False,  # `raw` has seen to that
    )


def _decoded(raw: HTTPResponse, body: bytes, most: int) -> bytes | None:
    copy = HTTPResponse(io.BytesIO(body), headers=raw.headers, preload_content=False, enforce_content_length=False)
    with contextlib.suppress(HTTPError):
        return copy.read(most + 1, decode_content=True)
    return None


class _Parts(io.RawIOBase):
    """Parts of a body as a file; the answer they come from ends with it."""

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
        return self.read(SMALL if size < 0 else size)  # of one part, as urllib3 expects of a file

    def close(self) -> None:
        super().close()
        self._raw.close()
        self._raw.release_conn()
