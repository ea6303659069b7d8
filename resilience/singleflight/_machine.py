"""Who waits for a call under way, and who makes it next where it was given up. Pure; not thread-safe."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ("Flight",)

W = TypeVar("W")


class Flight(Generic[W]):
    """One call under way and its waiters of type W (hashable, each waiting once), first come first served."""

    __slots__ = ("__weakref__", "_waiters", "epoch", "is_over")

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        """Callers of a later epoch must not join."""
        self.is_over = False
        self._waiters: dict[W, None] = {}

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return len(self._waiters)

    def join(self, waiter: W) -> bool:
        """Wait for the outcome; False where there is nothing to wait for any more."""
        if not self.is_over:
            self._waiters[waiter] = None
        return not self.is_over

    def leave(self, waiter: W) -> bool:
        """Wait no longer; False where the waiter is being told at this moment."""
        if waiter not in self._waiters:
            return False
        del self._waiters[waiter]
        return True

    def land(self) -> list[W]:
        """End the flight and return those to be told how."""
        self.is_over, waiters = True, list(self._waiters)
        self._waiters.clear()
        return waiters

    def hand_over(self) -> W | None:
        """Return the waiter that makes the call now that its caller is gone; without one the flight is over."""
        for waiter in self._waiters:
            del self._waiters[waiter]
            return waiter
        self.is_over = True
        return None
