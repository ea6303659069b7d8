"""Bounded keys: a client that chooses keys cannot decide how much memory they take."""

from __future__ import annotations

import hashlib

__all__ = ("LONGEST_KEY", "bounded_key")

LONGEST_KEY = 256


def bounded_key(key: str) -> str:
    """Return `key`, or its hash if it is longer than `LONGEST_KEY` characters."""
    if len(key) <= LONGEST_KEY:
        return key
    return "blake2b:" + hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
