"""Keys and costs as callers give them."""

from __future__ import annotations

from resilience._support.keys import bounded_key
from resilience.errors import ConfigurationError, Problem

__all__ = ("LONGEST", "checked_cost", "checked_key", "stored_key")

LONGEST = 256
_MOST = 1_000_000_000


def stored_key(key: str) -> str:
    """Return the key to store: a long one is replaced by its hash, so that clients cannot choose how much we keep."""
    checked_key(key)
    return bounded_key(key)


def checked_key(key: object) -> None:
    """Raise `ConfigurationError` for a key that is no text."""
    if not isinstance(key, str):
        raise ConfigurationError([Problem("key", key, "text")])


def checked_cost(cost: object) -> None:
    """Raise `ConfigurationError` for a cost that is no whole number from 1 on."""
    if not isinstance(cost, int) or isinstance(cost, bool) or not 1 <= cost <= _MOST:
        raise ConfigurationError([Problem("cost", cost, f"a whole number from 1 to {_MOST:,}")])
