"""Connections that notice when a pool lends them twice, lends them after their end, or loses them."""

from __future__ import annotations

import asyncio
import threading

__all__ = ("Lent", "Maker")


class Lent:
    """A connection. `use` and `leave` are its borrower's; a borrower that finds another one in it fails."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.is_closed = self.is_aborted = False
        self.user: object = None
        self._lock = threading.Lock()

    def use(self) -> None:
        """Begin a use."""
        with self._lock:
            assert not self.is_closed, "a closed connection was lent"
            assert self.user is None, "a connection was lent twice"
            self.user = object()

    def leave(self) -> None:
        """End a use."""
        with self._lock:
            self.user = None

    def close(self) -> None:
        """Close it, once and unused."""
        assert not self.is_closed, "a connection was closed twice"
        assert self.user is None, "a connection was closed while in use"
        self.is_closed = True

    def abort(self) -> None:
        """End it at once."""
        self.is_aborted = True


class Maker:
    """Makes connections and keeps them all. `failures` is how many of the next attempts fail."""

    def __init__(self, failures: int = 0) -> None:
        self.made: list[Lent] = []
        self.failures = failures
        self.attempts = 0

    def __call__(self) -> Lent:
        """Connect."""
        self.attempts += 1
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionRefusedError("down")
        connection = Lent(len(self.made))
        self.made.append(connection)
        return connection

    async def aconnect(self) -> Lent:
        """Connect, with two moments at which another task runs."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self()

    @property
    def open(self) -> list[Lent]:
        """The connections that nobody has closed."""
        return [connection for connection in self.made if not connection.is_closed]
