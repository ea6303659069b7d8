"""Which connection of a pool goes to which caller, and when another one is made.

Pure: the shells pass in the time and hold the lock. A *link* is a connection that is ready for commands. It is idle or
in use. Callers that find no idle link wait in one queue, first come, first served. There is at most one attempt to
connect at a time. It has a bound of its own and belongs to no caller: a caller that stops waiting does not end it.

Links belong to an epoch, and `renew` begins a new one after a link has failed. No link of a past epoch is used again:
it is closed when a caller returns it, or finds it idle. A server that went away, or was replaced by another one of the
same name, is thus left by all links, and the name is resolved anew. `renew` is one assignment, so it needs no lock.

A caller that gets no link is not a proof that the server is away:

- all links are in use by other callers: `NotAskedError`
- the first link is still being connected: `StillConnectingError`; after `patience` seconds no caller waits for it
- the last attempt to connect has failed and there is no link: the error of that attempt
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar
from weakref import WeakSet

__all__ = ("Link", "NotAskedError", "Places", "StillConnectingError")

C = TypeVar("C")
W = TypeVar("W")

ATTEMPT_INTERVAL = 1.0
"""Seconds between two attempts to add a link to links that work, and the age up to which a failed attempt is news."""


class NotAskedError(Exception):
    """The server was not asked, or not for long enough: this process had no connection free for the caller."""


class StillConnectingError(NotAskedError):
    """There is no connection yet; connecting goes on in the background."""


class Link(Generic[C]):
    """A connection that is ready for commands.

    `is_new` until the first use has ended; `is_in_step` while no reply is outstanding.
    """

    __slots__ = ("__weakref__", "connection", "epoch", "is_in_step", "is_new")

    def __init__(self, connection: C, epoch: object) -> None:
        self.connection = connection
        self.epoch = epoch
        self.is_in_step = True
        self.is_new = True


class Places(Generic[C, W]):
    """The links of a pool of at most `maximum`, and the callers `W` that wait for one."""

    __slots__ = (
        "_connecting_since",
        "_failure",
        "_idle",
        "_maximum",
        "_patience",
        "_stale",
        "_used",
        "_waiting",
        "epoch",
    )

    def __init__(self, maximum: int, patience: float) -> None:
        self.epoch = object()
        """The epoch of links whose connecting begins now."""
        self._maximum = maximum
        self._patience = patience
        self._idle: list[Link[C]] = []
        self._used: WeakSet[Link[C]] = WeakSet()  # a link that an interrupt has lost gives its place back
        self._waiting: deque[W] = deque()
        self._connecting_since: float | None = None
        self._failure: tuple[Exception, float] | None = None
        self._stale: list[Link[C]] = []

    def take(self) -> Link[C] | None:
        """Return an idle link, or None."""
        while self._idle:
            link = self._idle.pop()
            if link.epoch is self.epoch:
                self._used.add(link)
                return link
            self._stale.append(link)
        return None

    def join(self, caller: W, now: float) -> None:
        """Let `caller` wait for a link. Raises the reason if waiting is of no use."""
        since, failure = self._connecting_since, self._failure
        if since is not None:
            if not self._used and now - since >= self._patience:
                raise StillConnectingError("connecting takes longer than a call may wait")
        elif failure is not None and not self._used:
            self._failure = None
            if now - failure[1] < ATTEMPT_INTERVAL:
                raise failure[0]
        self._waiting.append(caller)

    def leave(self, caller: W) -> Exception | None:
        """Return why `caller` got no link in its time, or None if it has been served meanwhile."""
        try:
            self._waiting.remove(caller)
        except ValueError:
            return None
        if self._used:
            return NotAskedError("every connection is in use")
        return StillConnectingError("connecting takes longer than a call may wait")

    def begin_connecting(self, now: float) -> bool:
        """Return whether the shell has to start an attempt to connect now."""
        if (
            not self._waiting
            or self._connecting_since is not None
            or len(self._used) + len(self._idle) >= self._maximum
        ):
            return False
        if self._used and self._failure is not None and now - self._failure[1] < ATTEMPT_INTERVAL:
            return False
        self._connecting_since = now
        return True

    def connected(self, link: Link[C]) -> W | None:
        """Note that connecting has ended well; returns the caller that has the link now, if any."""
        self._connecting_since = self._failure = None
        self._used.add(link)
        return self.hand_over(link)

    def failed(self, error: Exception, now: float) -> list[W]:
        """Note that connecting has failed; returns the callers that can only fail with it."""
        self._connecting_since = None
        self._failure = (error, now)
        if self._used:
            return []
        callers, self._waiting = list(self._waiting), deque()
        if callers:
            self._failure = None
        return callers

    def release(self, link: Link[C]) -> W | None:
        """Take a link back after its use; returns the caller that has it now, if any."""
        link.is_new = False
        if link.is_in_step:
            return self.hand_over(link)
        self._put_away(link)
        return None

    def hand_over(self, link: Link[C]) -> W | None:
        """Give a link to the caller that has waited longest, and return that caller; else let the link be idle."""
        if link.epoch is not self.epoch:
            self._put_away(link)
        elif self._waiting:
            return self._waiting.popleft()
        else:
            self._used.discard(link)
            self._idle.append(link)
        return None

    def _put_away(self, link: Link[C]) -> None:
        self._used.discard(link)
        self._stale.append(link)

    def renew(self) -> None:
        """Begin a new epoch."""
        self.epoch = object()

    def stale(self) -> list[Link[C]]:
        """Return the links that are of no use any more, for the shell to close."""
        if not self._stale:
            return []  # not the list itself: the caller looks at it when others may add to it
        stale, self._stale = self._stale, []
        return stale

    def close(self) -> list[Link[C]]:
        """Begin a new epoch; returns all links that are not in use, for the shell to close."""
        self.renew()
        idle, self._idle = self._idle, []
        return idle + self.stale()
