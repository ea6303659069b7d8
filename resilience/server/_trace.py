"""W3C Trace Context and Baggage: the headers of a caller, ignored if they break the specification.

Sources: https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ("BAGGAGE", "TRACEPARENT", "TRACESTATE", "Trace", "baggage_of", "trace_id_of", "trace_of", "tracestate_of")

TRACEPARENT, TRACESTATE, BAGGAGE = "traceparent", "tracestate", "baggage"

_MAX_STATES, _MAX_STATE_LENGTH, _LARGE_STATE = 32, 512, 128
_MAX_BAGS, _MAX_BAGGAGE_LENGTH = 64, 8192
_KNOWN_FLAGS = 0x03
"""Sampled, and random trace id. The others have no meaning yet: a service that changes the parent id clears them."""
_NO_TRACE, _NO_PARENT = "0" * 32, "0" * 16
_OWS = " \t"

_traceparent = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL).fullmatch
_state = re.compile(
    r"(?P<key>[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
).fullmatch
_TOKEN, _OCTETS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_bag = re.compile(
    rf"{_TOKEN}[ \t]*=[ \t]*{_OCTETS}(?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*{_OCTETS})?)*", re.ASCII
).fullmatch


class Trace(NamedTuple):
    """The trace that a request belongs to, and the span that made the request."""

    trace_id: str
    parent_id: str
    flags: int


def trace_of(traceparent: str) -> Trace | None:
    """Return the parts of a `traceparent`, None if it is malformed (Trace Context, 3.2)."""
    found = _traceparent(traceparent)
    if found is None or not trace_id_of(traceparent):
        return None
    _, trace_id, parent_id, flags, _ = found.groups()
    return Trace(trace_id, parent_id, int(flags, 16) & _KNOWN_FLAGS)


def trace_id_of(traceparent: str) -> str:
    """Return the trace id of a `traceparent`, "" if it is malformed. Most requests need no other part."""
    found = _traceparent(traceparent)
    if found is None:
        return ""
    version, trace_id, parent_id, _, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return ""
    return trace_id


def tracestate_of(text: str) -> str:
    """Return the members of a `tracestate`, "" if it is malformed or has more than 32 (3.3.1).

    If it has more than 512 characters, large members are left out first, then the last members (3.3.1.5).
    """
    if len(text) > _MAX_STATE_LENGTH * _MAX_STATES:
        return ""
    members = [stripped for member in text.split(",") if (stripped := member.strip(_OWS))]
    keys = {found["key"] for member in members if (found := _state(member))}
    if len(keys) != len(members) or len(members) > _MAX_STATES:  # malformed, or one key twice
        return ""
    if len(",".join(members)) > _MAX_STATE_LENGTH:
        members = [member for member in members if len(member) <= _LARGE_STATE]
    return _as_many_as_fit(members, _MAX_STATE_LENGTH)


def baggage_of(text: str) -> str:
    """Return the well-formed members of a `baggage`: the first 64, and of these as many as fit into 8192 bytes."""
    if len(text) > _MAX_BAGGAGE_LENGTH * 2:
        return ""
    members = [stripped for member in text.split(",") if _bag(stripped := member.strip(_OWS))]
    return _as_many_as_fit(members[:_MAX_BAGS], _MAX_BAGGAGE_LENGTH)


def _as_many_as_fit(members: list[str], max_length: int) -> str:
    while members and len(",".join(members)) > max_length:
        members.pop()
    return ",".join(members)
