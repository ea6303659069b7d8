"""Request id, caller and timeout, as request headers give them; and requests that no limit applies to.

A client can write anything into a header and a path. Each function here accepts what can do no harm, and ignores the
rest: nothing in a header makes a request fail.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from resilience._support.fork import renew_after_fork
from resilience.options import Duration, Refused

__all__ = (
    "REQUEST_ID",
    "REQUEST_TIMEOUT",
    "ExcludedPaths",
    "identity_of",
    "is_preflight",
    "new_span_id",
    "request_id_of",
    "shortest",
    "timeout_of",
)

REQUEST_ID = "x-request-id"
REQUEST_TIMEOUT = "request-timeout"
"""Read in addition to the configured `deadline_header`."""

_is_valid_id = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch
_is_valid_name = re.compile(r"(?!.*,)[!-~](?:[ -~]{0,254}[!-~])?").fullmatch

_ID_BYTES, _IDS_PER_CALL = 16, 128
_SPAN_ID_LENGTH = 16
_MAX_TIMEOUT_TEXT = 32
_TIMEOUT = Duration(maximum=86_400)


class _IdSupply:
    """Ids from the random numbers of the kernel, many at a time: one system call per request would be measurable.

    The kernel's, because an application may seed `random` and would repeat the ids. A forked process throws the ids
    away that its parent may use as well.
    """

    def __init__(self) -> None:
        self.ready: list[str] = []
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Throw the parent's ids away."""
        self.ready = []

    def draw(self) -> str:
        """Return a new id, and put more into `ready`, from where threads take them without a lock: `pop` is atomic."""
        ids = os.urandom(_ID_BYTES * _IDS_PER_CALL).hex(" ", _ID_BYTES).split()
        last = ids.pop()
        self.ready = ids  # if two threads are here at once, one batch is lost, and no id is used twice
        return last


_ids = _IdSupply()


def request_id_of(header: str | None) -> str:
    """Return the id in a header if it is safe in a log and in a header, else a new one: 32 hexadecimal characters."""
    if header and _is_valid_id(header):
        return header
    try:
        return _ids.ready.pop()
    except IndexError:
        return _ids.draw()


def new_span_id() -> str:
    """Return a parent id for an outgoing call: 16 hexadecimal characters that are not all 0."""
    drawn = request_id_of(None)
    return drawn[:_SPAN_ID_LENGTH] if int(drawn[:_SPAN_ID_LENGTH], 16) else "1".rjust(_SPAN_ID_LENGTH, "0")


def identity_of(header: str | None) -> str | None:
    """Return the name of a caller: 1 to 256 printable ASCII characters without a comma; None for any other text.

    A text with a comma may be two headers in one, and the second may be written by the caller itself.
    """
    return header if header and _is_valid_name(header) else None


def timeout_of(header: str | None) -> float | None:
    """Return the seconds that a header states, 0 if its sender waits no longer; None if it is no valid duration."""
    return None if header is None or len(header) > _MAX_TIMEOUT_TEXT else _parsed_timeout(header)


@lru_cache(maxsize=256)
def _parsed_timeout(text: str) -> float | None:
    try:
        return _TIMEOUT.parse(text)
    except Refused:
        return None


def shortest(*timeouts: float | None) -> float | None:
    """Return the shortest of some timeouts, None if all of them are None."""
    return min([seconds for seconds in timeouts if seconds is not None], default=None)


class Headers(Protocol):
    """The headers of a request, which find names in any case."""

    def __contains__(self, name: str, /) -> bool: ...


_PREFLIGHT_HEADERS = ("origin", "access-control-request-method")


def is_preflight(method: str, headers: Headers) -> bool:
    """Return whether a request is a CORS preflight: a browser asks whether it may send a request, before it sends it.

    A preflight carries no credentials and no headers of the page, so no client can be charged for it. If it is refused,
    the browser does not send the request itself, and the page sees a network error in place of a 429.

    Source: Fetch standard, "CORS-preflight request", https://fetch.spec.whatwg.org/#cors-preflight-request
    """
    return method == "OPTIONS" and all(name in headers for name in _PREFLIGHT_HEADERS)


_SEPARATOR = r"(?:[/\\]|%(?:25)*(?:2f|5c))"
_has_dots = re.compile(rf"{_SEPARATOR}(?:\.|%(?:25)*2e){{1,2}}(?:{_SEPARATOR}|[;?#]|$)", re.IGNORECASE).search
"""Finds a segment `.` or `..`, also if it is encoded once more, or followed by a parameter (`..;`)."""


class ExcludedPaths:
    """The paths of the option `exclude_paths`, and all paths below them.

    A path with a dot segment is below none of them: `/static/../login` begins with `/static/`, but a route for any
    path, or the service behind such a route, resolves it to `/login`. Browsers resolve dot segments before they send a
    path.
    """

    __slots__ = ("below", "paths")

    def __init__(self, paths: Iterable[str]) -> None:
        stripped = [path.rstrip("/") for path in paths]
        self.paths = frozenset(path or "/" for path in stripped)
        # `/` means the root page alone, often the page that a load balancer asks for: every path is below the root.
        self.below = tuple(f"{path}/" for path in stripped if path)

    def __contains__(self, path: str) -> bool:
        return path in self.paths or (path.startswith(self.below) and not _has_dots(path))
