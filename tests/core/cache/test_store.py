"""The store against a model: which entries it keeps, which it removes, and when."""

import math
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience.cache._machine import CacheEntry, EntryStore

MOST = 4


class StoreModel(RuleBasedStateMachine):
    """Never more than the bound, nothing past its time, and the least recently used entry is evicted first."""

    def __init__(self) -> None:
        super().__init__()
        self.store = EntryStore(MOST)
        self.now = 0.0
        self.kept: list[CacheEntry] = []  # least recently used first
        self.home: dict[Any, CacheEntry] = {}
        self.evicted = 0

    def expired(self) -> list[CacheEntry]:
        gone = [entry for entry in self.kept if entry.expires_at <= self.now]
        self.kept = [entry for entry in self.kept if entry.expires_at > self.now]
        return gone

    @rule(ttl=st.integers(1, 5), stale=st.integers(0, 5))
    def keep(self, ttl: int, stale: int) -> None:
        entry = CacheEntry(self.home, object(), None)
        assert entry.fresh_until < self.now or self.now == 0
        expected = self.expired()
        if len(self.kept) == MOST:
            expected.append(self.kept.pop(0))
            self.evicted += 1
        gone = self.store.add(entry, self.now + ttl, self.now + ttl + stale, self.now)
        assert sorted(map(id, gone)) == sorted(map(id, expected))
        self.kept.append(entry)

    @precondition(lambda self: self.kept)
    @rule(position=st.integers(0, MOST - 1))
    def touch(self, position: int) -> None:
        entry = self.kept[position % len(self.kept)]
        oldest = self.kept[0]
        self.store.mark_used([entry, oldest, entry])
        for used in (oldest, entry):
            self.kept.remove(used)
            self.kept.append(used)

    @precondition(lambda self: self.kept)
    @rule(position=st.integers(0, MOST - 1))
    def drop(self, position: int) -> None:
        entry = self.kept.pop(position % len(self.kept))
        self.store.remove(entry)
        self.store.remove(entry)
        assert entry.fresh_until < self.now or self.now == 0

    @rule()
    def touch_what_is_gone(self) -> None:
        self.store.mark_used([CacheEntry(self.home, 1, None)])

    @rule(seconds=st.integers(0, 6))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        assert sorted(map(id, self.store.expire(self.now))) == sorted(map(id, self.expired()))

    @invariant()
    def agrees(self) -> None:
        assert self.store.evicted == self.evicted
        assert len(self.kept) <= MOST


TestStore = StoreModel.TestCase


def test_an_entry_leaves_its_own_place_only() -> None:
    """An entry removes itself from its index, and no successor that has its place there."""
    home: dict[Any, CacheEntry] = {}
    old, new = CacheEntry(home, "key", 1), CacheEntry(home, "key", 2)
    home["key"] = old
    home["key"] = new
    old.remove_from_index()
    assert home == {"key": new}
    new.remove_from_index()
    new.remove_from_index()
    assert home == {}


def test_an_entry_answers_only_while_the_store_has_it() -> None:
    """An entry that the store does not have is neither fresh nor good in place of an error, at any time."""
    store, entry = EntryStore(MOST), CacheEntry({}, "key", 1)
    assert (entry.fresh_until, entry.expires_at) == (-math.inf, -math.inf)
    store.add(entry, 1.0, 2.0, 0.0)
    assert (entry.fresh_until, entry.expires_at) == (1.0, 2.0)
    store.remove(entry)
    assert (entry.fresh_until, entry.expires_at) == (-math.inf, -math.inf)


def test_every_eviction_counts() -> None:
    """The store counts the entries that it removed before their time."""
    store = EntryStore(1)
    for number in range(4):
        store.add(CacheEntry({}, number, None), 10.0, 10.0, 0.0)
    assert (store.size, store.evicted) == (1, 3)


def test_the_use_of_an_entry_that_has_gone_is_ignored() -> None:
    """A thread may report the use of an entry that another thread has removed meanwhile."""
    store = EntryStore(MOST)
    kept, gone = CacheEntry({}, "kept", 1), CacheEntry({}, "gone", 2)
    for entry in (kept, gone):
        store.add(entry, 1.0, 1.0, 0.0)
    store.remove(gone)
    store.mark_used([gone, kept])
    assert store.size == 1
