"""Windows in the memory of this process."""

from __future__ import annotations

import threading

from cachetools import TLRUCache

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._store import checked_cost, stored_key
from resilience.ratelimit.windows._decision import WindowDecision
from resilience.ratelimit.windows._machine import Found, KeyWindow, window_of

__all__ = ("MemoryWindows", "WindowTable")


class WindowTable:
    """The windows of one name. Beyond `max_keys`, the one that was used least recently is forgotten.

    Args:
        max_keys: The largest number of windows.
        clock: Returns seconds that never go back. Windows that count nothing any more are forgotten by it.
    """

    __slots__ = ("__weakref__", "lock", "windows")

    def __init__(self, max_keys: int, clock: Clock) -> None:
        self.windows: TLRUCache[str, KeyWindow] = TLRUCache(
            max_keys, ttu=lambda _key, window, _now: window.until, timer=clock
        )
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep the windows, under a new lock that no thread holds."""
        self.lock = threading.RLock()  # re-entrant, for finalizers that make calls

    def after_test(self) -> None:
        """Forget all calls."""
        with self.lock:
            self.windows.clear()


class MemoryWindows:
    """The windows of one name, strategy and rate.

    Args:
        strategy: How calls are counted.
        quota: The amount and the period.
        clock: Returns seconds that never go back.
        table: The windows of the name.
        rate: The rate whose windows these are; that of `quota`, or of the limit of which `quota` is a share.
    """

    def __init__(self, strategy: str, quota: Quota, clock: Clock, table: WindowTable, rate: str) -> None:
        self._strategy, self._quota, self._clock, self._table = strategy, quota, clock, table
        self._start = f"{strategy}\0{rate}\0"
        self.allowed = self.refused = 0

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:  # noqa: ARG002 - a window gives no turns
        """Count a call of `cost` if it fits."""
        decision = self._decide(key, cost, pays=True)
        if decision.allowed:
            self.allowed += 1
        else:
            self.refused += 1
        return decision

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:  # noqa: ARG002 - a window gives no turns
        """Count a call of `cost` if it fits; never suspends."""
        return self.take(key, cost)

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether a call of `cost` would fit now, counting nothing."""
        return self._decide(key, cost, pays=False)

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether a call of `cost` would fit now; never suspends."""
        return self.peek(key, cost)

    def look(self, key: str = "") -> Decision:
        """Return the state of a window, counting nothing."""
        return self._decide(key, 1, pays=False)

    def _decide(self, key: str, cost: int, *, pays: bool) -> WindowDecision:
        stored, quota = self._start + stored_key(key), self._quota
        checked_cost(cost)
        windows = self._table.windows
        with self._table.lock:
            window = windows.get(stored) or window_of(self._strategy)
            fits = cost <= quota.burst
            found = window.decide(quota, self._clock(), min(cost, quota.burst), pays=pays and fits)
            if pays and fits and found.allowed:
                windows[stored] = window  # again, because it counts for longer now
        return WindowDecision.from_window(quota, cost, found if fits else Found(False, *found[1:]))

    def give_back(self, key: str, decision: Decision) -> None:
        """Do nothing: no call waits for a window."""

    def reset(self, key: str = "") -> None:
        """Forget the calls of `key`."""
        with self._table.lock:
            self._table.windows.pop(self._start + stored_key(key), None)

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self.allowed = self.refused = 0
