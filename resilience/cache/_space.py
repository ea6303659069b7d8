"""The entries of one function, and a call that found none of them fresh."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from resilience._support.sharing import Keys
from resilience.cache._machine import Entry

__all__ = ("MOST_UNTOLD", "Miss", "Space")

MOST_UNTOLD = 128
"""Hits after which the store is told, at the latest."""


class Space:
    """Entries by key, for one function: two functions with the same arguments do not meet.

    Looked up without a lock, since finding a key may run the user's `__hash__` and `__eq__`; what an entry is worth is
    said by the entry.
    """

    __slots__ = ("__weakref__", "entries", "keys")

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.entries: dict[Hashable, Entry] = {}

    def with_arguments(self, key: Hashable) -> Iterator[Entry]:
        """Take out the entries of calls whose arguments make `key`."""
        for known in self._keys_with(key):
            entry = self.entries.pop(known, None)
            if entry is not None:
                yield entry

    def _keys_with(self, key: Hashable) -> list[Any]:
        if not self.keys.leading_args:
            return [key]
        known: list[Any] = list(self.entries)
        return [each for each in known if each[1] == key]  # whichever function stands first


class Miss:
    """One call on its way, and what it may fall back on."""

    __slots__ = ("entry", "epoch", "key", "space", "stripe")

    def __init__(self, space: Space, key: Hashable, stripe: int, epoch: int) -> None:
        self.space, self.key, self.stripe, self.epoch = space, key, stripe, epoch
        self.entry: Entry | None = space.entries.get(key)
