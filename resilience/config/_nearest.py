"""Which name was probably meant. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ("alike", "nearest")

_FLOOR = 0.6
"""Words less alike than this have nothing to do with one another."""


def alike(word: str, other: str) -> float:
    """Return how alike two words are, up to 1 for the same one; 0 where one cannot have been meant by the other."""
    ratio = difflib.SequenceMatcher(None, word, other).ratio()
    return ratio if ratio >= _FLOOR else 0.0


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the one of `known` that is most alike, "" where none is."""
    ratio, best = max(((alike(word, each), each) for each in known), default=(0.0, ""))
    return best if ratio else ""
