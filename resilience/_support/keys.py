"""Keys of somebody else's choosing, bounded, so that clients cannot decide how much is kept."""

from __future__ import annotations

import hashlib

__all__ = ("LONGEST_KEY", "bounded_key")

LONGEST_KEY = 256


def bounded_key(key: str) -> str:
    """Return `key`, or its hash where it is longer than `LONGEST_KEY` characters."""
    if len(key) <= LONGEST_KEY:
        return key
    return "blake2b:" + hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
