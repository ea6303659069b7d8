"""The time for which a server asked its client to wait: on an error, in a header, or in a result."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, timedelta
from typing import Any

from resilience.errors import leaves, said_by

__all__ = ("RETRY_AFTER_MAX", "asked_by", "in_seconds", "longest")

_SECONDS = re.compile(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*", re.ASCII)
_MAX_TEXT = 64
RETRY_AFTER_MAX = 300.0
"""The longest wait, in seconds, that another service may ask for. The option `retry_after_max` overrides it.

Without a limit, a bad node that sends an epoch instead of seconds would keep a circuit open, or a caller asleep, for
years.
"""
Wall = Callable[[], float]


def asked_by(outcome: object, wall: Wall = time.time) -> float | None:
    """Return the seconds that an error or result asks for. None: it asks for nothing. Below 0: do not call again.

    The time is read from `retry_after` (our own errors have it), then from the `Retry-After` header of
    `response.headers` or `headers` (httpx, requests, aiohttp and urllib have them). The header holds seconds or an HTTP
    date (RFC 9110, 10.2.3). An exception group asks for the longest time that an error in it asks for.
    """
    if isinstance(outcome, BaseExceptionGroup):
        return longest(asked_by(each, wall) for each in leaves(outcome))
    try:  # most errors have none of these attributes
        is_silent = getattr(outcome, "retry_after", None) is getattr(outcome, "response", None) is None
        if is_silent and getattr(outcome, "headers", None) is None:
            return None
    except Exception:  # noqa: BLE001, S110 - a property raised: `said_by` takes each attribute on its own
        pass
    stated = in_seconds(said_by(outcome, "retry_after"))
    if stated is not None:
        return stated
    response = said_by(outcome, "response")
    for headers in (None if response is None else said_by(response, "headers"), said_by(outcome, "headers")):
        text = None if headers is None else _header(headers, "Retry-After")
        if text is not None and (found := _parsed(text, _header(headers, "Date"), wall)) is not None:
            return found
    return None


def longest(waits: Iterable[float | None]) -> float | None:
    """Return the longest of several waits; a negative one if there is one; None if none is known."""
    known = [wait for wait in waits if wait is not None]
    return min(known, default=None) if any(wait < 0 for wait in known) else max(known, default=None)


def in_seconds(asked: object, wall: Wall = time.time) -> float | None:
    """Return a number, a timedelta or the text of a header as seconds; None for any other value."""
    if isinstance(asked, str):
        return _parsed(asked, None, wall)
    if isinstance(asked, timedelta):
        return asked.total_seconds()
    if isinstance(asked, bool) or not isinstance(asked, int | float) or asked != asked:  # noqa: PLR0124 - NaN
        return None
    return float(asked) if abs(asked) <= _MAX_FLOAT else math.inf if asked > 0 else -math.inf


_MAX_FLOAT = 1e300


def _header(headers: Any, name: str) -> str | None:
    for spelling in (name, name.lower()):
        with contextlib.suppress(Exception):  # it only resembles a mapping
            text = headers.get(spelling)
            if isinstance(text, str) and len(text) <= _MAX_TEXT:
                return text
    return None


def _parsed(text: str, date: str | None, wall: Wall) -> float | None:
    """Return the seconds that a header means. A date counts from the `Date` of the server, so clocks may differ."""
    if len(text) > _MAX_TEXT:
        return None
    if match := _SECONDS.fullmatch(text):
        return float(match[1])
    until = _moment(text)
    if until is None:
        return None
    since = None if date is None else _moment(date)
    return max(0.0, until - (wall() if since is None else since))


def _moment(text: str) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - few servers send dates

    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
