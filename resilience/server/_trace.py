"""W3C Trace Context and Baggage: what a caller says about the trace, taken only where it keeps to the specification.

https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ("BAGGAGE", "TRACEPARENT", "TRACESTATE", "Trace", "baggage_of", "trace_id_of", "trace_of", "tracestate_of")

TRACEPARENT, TRACESTATE, BAGGAGE = "traceparent", "tracestate", "baggage"

_MOST_STATES, _LONGEST_STATE, _LARGE_STATE = 32, 512, 128
_MOST_BAGS, _LONGEST_BAGGAGE = 64, 8192
_KNOWN_FLAGS = 0x03
"""Sampled, and random trace id: whoever changes the parent id sets the others, which nobody knows yet, to 0."""
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
    """The trace a request belongs to, and the span that made it."""

    trace_id: str
    parent_id: str
    flags: int


def trace_of(traceparent: str) -> Trace | None:
    """Return what a `traceparent` says, None where it is malformed (Trace Context, 3.2)."""
    found = _traceparent(traceparent)
    if found is None or not trace_id_of(traceparent):
        return None
    _, trace_id, parent_id, flags, _ = found.groups()
    return Trace(trace_id, parent_id, int(flags, 16) & _KNOWN_FLAGS)


def trace_id_of(traceparent: str) -> str:
    """Return the trace id alone, "" where the `traceparent` is malformed: all that every traced request needs."""
    found = _traceparent(traceparent)
    if found is None:
        return ""
    version, trace_id, parent_id, _, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return ""
    return trace_id


def tracestate_of(text: str) -> str:
    """Return the members of a `tracestate`, "" where it is malformed or has more than 32 (3.3.1).

    Beyond 512 characters large members go first, then those at the end (3.3.1.5).
    """
    if len(text) > _LONGEST_STATE * _MOST_STATES:
        return ""
    members = [stripped for member in text.split(",") if (stripped := member.strip(_OWS))]
    keys = {found["key"] for member in members if (found := _state(member))}
    if len(keys) != len(members) or len(members) > _MOST_STATES:  # malformed, or one key twice
        return ""
    if len(",".join(members)) > _LONGEST_STATE:
        members = [member for member in members if len(member) <= _LARGE_STATE]
    return _as_many_as_fit(members, _LONGEST_STATE)


def baggage_of(text: str) -> str:
    """Return the well-formed members of a `baggage`: the first 64, and of these as many as fit into 8192 bytes."""
    if len(text) > _LONGEST_BAGGAGE * 2:
        return ""
    members = [stripped for member in text.split(",") if _bag(stripped := member.strip(_OWS))]
    return _as_many_as_fit(members[:_MOST_BAGS], _LONGEST_BAGGAGE)


def _as_many_as_fit(members: list[str], longest: int) -> str:
    while members and len(",".join(members)) > longest:
        members.pop()
    return ",".join(members)
