"""Which request this is: ids that callers send are used only when they cannot do harm in a log or a header."""

from __future__ import annotations

import os
import re

from resilience._fork import renew_after_fork

__all__ = ("REQUEST_ID", "TRACEPARENT", "request_id_of", "trace_id_of")

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"

_is_sane = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch
_traceparent = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL).fullmatch

_ID_BYTES, _AT_ONCE = 16, 128
_NO_TRACE, _NO_PARENT = "0" * 32, "0" * 16


class _Supply:
    """Ids from the kernel's randomness, fetched many at a time: a system call per request is felt.

    The kernel's, because a seed the application sets must not repeat them; and never a parent's left-overs in a fork.
    """

    def __init__(self) -> None:
        self.ready: list[str] = []
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Throw away what the parent may use as well."""
        self.ready = []

    def draw(self) -> str:
        """Return an id nobody has had, and have more `ready`. Taking one off there is atomic: threads need no lock."""
        ready = os.urandom(_ID_BYTES * _AT_ONCE).hex(" ", _ID_BYTES).split()
        last = ready.pop()
        self.ready = ready  # of two threads here at once, one batch is lost and none is used twice
        return last


_supply = _Supply()


def request_id_of(offered: str | None) -> str:
    """Return the caller's id where it is sane, else a new one: 32 hexadecimal characters."""
    if offered and _is_sane(offered):
        return offered
    try:
        return _supply.ready.pop()
    except IndexError:
        return _supply.draw()


def trace_id_of(traceparent: str | None) -> str:
    """Return the trace id of a W3C `traceparent`, or "" where it is missing or malformed (Trace Context, 3.2)."""
    found = _traceparent(traceparent) if traceparent else None
    if found is None:
        return ""
    version, trace_id, parent_id, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return ""
    return trace_id
