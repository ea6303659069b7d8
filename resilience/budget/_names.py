"""The budgets of this process that have a name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from resilience._support.fork import renew_after_fork
from resilience._support.names import fold

__all__ = ("KNOWN",)


class _Known:
    """One budget a name; `-`, `.`, `/`, `_` and case make no difference.

    One that code has said something about is kept for good: whoever says it need not hold it. Others are forgotten with
    the last policy or toolkit that uses them.
    """

    def __init__(self) -> None:
        self._budgets: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._kept: dict[str, Any] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock, which another thread may have held at the moment of the fork."""
        self._lock = threading.RLock()  # guards the names; re-entrant, for finalizers

    def find(self, name: str, make: Callable[[str], Any]) -> Any:
        """Return the budget of this name; `make` makes one where there is none."""
        with self._lock:
            found = self._budgets.get(fold(name))
            if found is None:
                found = self._budgets.setdefault(fold(name), make(name))
            return found

    def keep(self, name: str, budget: Any) -> None:
        """Hold on to a budget of this name."""
        self._kept[fold(name)] = budget


KNOWN = _Known()
