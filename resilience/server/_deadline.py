"""How long the caller waits."""

from __future__ import annotations

from functools import lru_cache

from resilience.options import Duration, Refused

__all__ = ("REQUEST_TIMEOUT", "patience_of", "sooner")

REQUEST_TIMEOUT = "request-timeout"
"""Understood besides the header that is configured."""

_LONGEST_TEXT = 32
_patience = Duration(maximum=86_400)


def patience_of(text: str | None) -> float | None:
    """Return the seconds a header asks for, 0 where its sender waits no more; None for what is no sensible duration."""
    return None if text is None or len(text) > _LONGEST_TEXT else _parsed(text)


@lru_cache(maxsize=256)
def _parsed(text: str) -> float | None:
    try:
        return _patience.parse(text)
    except Refused:
        return None


def sooner(*allowances: float | None) -> float | None:
    """Return the shortest allowance, or None where nobody is in a hurry."""
    named = [seconds for seconds in allowances if seconds is not None]
    return min(named) if named else None
