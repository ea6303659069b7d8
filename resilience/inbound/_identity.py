"""Which request this is: ids that callers send are used only when they cannot do harm in a log or a header."""

from __future__ import annotations

import os
import re

__all__ = ("REQUEST_ID", "TRACEPARENT", "request_id_of", "trace_id_of")

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"

_is_sane = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch
_traceparent = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL).fullmatch

_NO_TRACE, _NO_PARENT = "0" * 32, "0" * 16


def request_id_of(offered: str | None) -> str:
    """Return the caller's id where it is sane, else a new one: 32 hexadecimal characters."""
    if offered and _is_sane(offered):
        return offered
    # The kernel's randomness needs no reseeding after a fork and no seed of the application's can repeat it.
    return os.urandom(16).hex()


def trace_id_of(traceparent: str | None) -> str:
    """Return the trace id of a W3C `traceparent`, or "" where it is missing or malformed (Trace Context, 3.2)."""
    found = _traceparent(traceparent) if traceparent else None
    if found is None:
        return ""
    version, trace_id, parent_id, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return ""
    return trace_id
