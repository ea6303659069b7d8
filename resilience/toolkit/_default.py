"""The toolkit of this process, for clients that are given none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from resilience._support.fork import renew_after_fork

__all__ = ("KeptWhileEqual",)

T = TypeVar("T")


class KeptWhileEqual(Generic[T]):
    """Keeps one object for as long as the variables that it was made from are in force.

    A program that makes a client for each request makes no toolkit for each request: circuits, limits and connections
    stay. A forked child has the object of its parent, with the circuits as they were.
    """

    def __init__(self) -> None:
        self._made: tuple[object, T] | None = None
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.RLock()  # re-entrant: the loader warns, and a hook for warnings may make a client

    def after_test(self) -> None:
        """Forget the object: the next test makes its own."""
        self.forget()

    def get(self, variables: object, make: Callable[[], T]) -> T:
        """Return the object made from these variables, or make it."""
        with self._lock:
            if self._made is None or self._made[0] != variables:
                self._made = variables, make()
            return self._made[1]

    def forget(self, thing: T | None = None) -> None:
        """Let the next call of `get` make another object: if `thing` is the kept one, or is None."""
        with self._lock:
            if self._made is not None and (thing is None or thing is self._made[1]):
                self._made = None
