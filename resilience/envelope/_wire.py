"""From details and headers as programs hold them to bytes and lines that are safe to send."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import logging
import math
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from resilience.errors import shown

__all__ = ("JSON_TYPE", "PROBLEM_TYPE", "encoded", "is_header", "retry_after_line", "safe_headers")

_log = logging.getLogger("resilience")

JSON_TYPE = "application/json"
"""The media type of an envelope."""
PROBLEM_TYPE = "application/problem+json"
"""The media type of an RFC 9457 problem."""

_DEEPEST = 16
_MOST_BITS = 2048
"""Digits of a whole number. Python refuses to write some thousand digits; a setting can lower its limit."""
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset({"content-length", "content-type", "transfer-encoding", "retry-after"})
"""Headers that describe our body or that we work out ourselves."""


def encoded(body: Mapping[str, object]) -> bytes:
    """Return `body` as JSON; whatever JSON has no form for becomes text, and never an exception.

    ASCII throughout, so that even half a surrogate pair in a message can be sent.
    """
    try:
        return json.dumps(body, default=_plain, allow_nan=False, separators=(",", ":")).encode()
    except Exception:  # noqa: BLE001 - NaN, keys that are not text, cycles, values that raise: rare enough to look twice
        return json.dumps(_tidy(body, 0), allow_nan=False, separators=(",", ":")).encode()


_FORMS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (dt.date | dt.time, lambda value: value.isoformat()),
    (dt.timedelta, lambda value: value.total_seconds()),
    (uuid.UUID | decimal.Decimal, str),
    (enum.Enum, lambda value: value.value),
    (Mapping, dict),
    (set | frozenset, lambda value: sorted(value, key=repr)),
)


def _plain(value: object) -> object:
    """Return a JSON form of `value`: its type's name where showing more could show too much (L16)."""
    for kinds, form in _FORMS:
        if isinstance(value, kinds):
            return form(value)
    return _named(value)


def _tidy(value: object, depth: int) -> object:
    """Return `value` rebuilt from JSON types, cut off at a depth that is certainly a mistake."""
    if depth > _DEEPEST:
        return "..."
    try:
        return _rebuilt(value, depth)
    except Exception:  # noqa: BLE001 - the value's own code may raise anything
        return _named(value)


def _rebuilt(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        return {str(_scalar(key)): _tidy(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_tidy(item, depth + 1) for item in value]
    return _scalar(value)


def _scalar(value: object) -> object:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() <= _MOST_BITS else _named(value)
    if value is None or isinstance(value, str):
        return value
    plain = _plain(value)
    return plain if isinstance(plain, str | float) else _named(value)


def _named(value: object) -> str:
    return f"<{type(value).__name__}>"


def retry_after_line(seconds: float) -> str:
    """Return whole seconds for a Retry-After header, rounded up: coming too early is refused again."""
    return str(math.ceil(seconds))


def is_header(name: object, value: object) -> bool:
    """Return whether both can be sent as a header: text of which none could start a new line."""
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return bool(_NAME.fullmatch(name) and _VALUE.fullmatch(value))


def safe_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Return the headers an error may set itself: one that cannot be sent is dropped and logged."""
    safe = {}
    for name, value in headers.items():
        if not is_header(name, value):
            _log.warning("an error's header %s was dropped: its name or value is not valid in HTTP", shown(name))
        elif name.lower() not in _OURS:
            safe[name] = value
    return safe
