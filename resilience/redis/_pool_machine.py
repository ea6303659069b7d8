"""Which connection of a pool goes to which caller, and when the pool connects once more.

The machine is pure: the two pools (`_pool.py` for threads, `_pool_aio.py` for tasks) pass in the time, hold the lock
and do the I/O.

Links. A *link* is a connection that is ready for commands. It is idle or in use. Callers that find no idle link wait in
one queue, first come, first served. The pool holds links in use by weak references: a link that an interrupt has lost
is collected as garbage, and its place in the pool is free again.

Connecting. There is at most one attempt to connect at a time. The attempt belongs to no caller and has a bound of its
own: a caller that stops waiting does not end it. An attempt starts only if a caller waits and the pool has room.

Epochs. Each link belongs to the epoch in which its connecting began. `renew` begins a new epoch, after a link has
failed or at an outage. No link of a past epoch is used again: the pool closes it when a caller returns it, or finds it
idle. So all links leave a server that was shut down or demoted, and the host name is resolved anew. `renew` is one
assignment and needs no lock.

Steps. A link is *in step* while no reply is outstanding on it. A link that comes back out of step is closed: its next
reply would belong to an earlier caller.

A caller that gets no link does not prove that the server is down. There are three reasons:

- all links are in use by other callers: `NotAskedError`
- the first link is still being connected: `StillConnectingError`. Once a caller could have waited for its
  whole patience in vain, later callers do not wait for that attempt
- the last attempt to connect has failed and there is no link: the error of that attempt
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar
from weakref import WeakSet

from resilience.redis._errors import ExchangeFailure

__all__ = ("Link", "LinkMachine", "NotAskedError", "StillConnectingError")

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

    Attributes:
        connection: The connection of redis-py.
        epoch: The epoch of the pool in which its connecting began.
        is_new: True until the first use has ended.
        is_in_step: True while no reply is outstanding.
    """

    __slots__ = ("__weakref__", "connection", "epoch", "is_in_step", "is_new")

    def __init__(self, connection: C, epoch: object) -> None:
        self.connection = connection
        self.epoch = epoch
        self.is_in_step = True
        self.is_new = True

    def was_closed(self, failure: ExchangeFailure, waited: float) -> bool:
        """Whether the server had closed this link before the exchange that ended with `failure`.

        Raises:
            NotAskedError: The reply was late because the caller had `waited` for the link.
        """
        if self.is_new:
            return False
        if failure is ExchangeFailure.LATE and waited:
            raise NotAskedError("the wait for a connection left too little time for an answer")
        return failure is ExchangeFailure.CLOSED


class LinkMachine(Generic[C, W]):
    """The links `C` of a pool, and the callers `W` that wait for one.

    Args:
        maximum: The largest number of links.
    """

    __slots__ = (
        "_connecting_since",
        "_failure",
        "_idle",
        "_maximum",
        "_stale",
        "_used",
        "_waiting",
        "epoch",
    )

    def __init__(self, maximum: int) -> None:
        self.epoch = object()
        """The epoch of links whose connecting begins now."""
        self._maximum = maximum
        self._idle: list[Link[C]] = []
        self._used: WeakSet[Link[C]] = WeakSet()
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

    def join(self, caller: W, now: float, patience: float) -> None:
        """Add `caller` to the queue. Raises the reason if waiting for `patience` seconds is of no use."""
        since, failure = self._connecting_since, self._failure
        if since is not None:
            if not self._used and now - since >= patience:
                raise StillConnectingError("connecting takes longer than a call may wait")
        elif failure is not None and not self._used:
            self._failure = None
            if now - failure[1] < ATTEMPT_INTERVAL:
                raise failure[0]
        self._waiting.append(caller)

    def leave(self, caller: W) -> Exception | None:
        """Remove `caller` from the queue; returns why it got no link, or None if it has been served meanwhile."""
        try:
            self._waiting.remove(caller)
        except ValueError:
            return None
        if self._used:
            return NotAskedError("every connection is in use")
        return StillConnectingError("connecting takes longer than a call may wait")

    def begin_connecting(self, now: float) -> bool:
        """Return whether the pool has to start an attempt to connect now."""
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
        """Record that connecting has succeeded; returns the caller that has the link now, if any."""
        self._connecting_since = self._failure = None
        self._used.add(link)
        return self.hand_over(link)

    def failed(self, error: Exception, now: float) -> list[W]:
        """Record that connecting has failed; returns the callers that fail with it: all, if there is no other link."""
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
        self._discard(link)
        return None

    def hand_over(self, link: Link[C]) -> W | None:
        """Give a link to the caller that has waited longest, and return that caller; else the link becomes idle."""
        if link.epoch is not self.epoch:
            self._discard(link)
        elif self._waiting:
            return self._waiting.popleft()
        else:
            self._used.discard(link)
            self._idle.append(link)
        return None

    def _discard(self, link: Link[C]) -> None:
        self._used.discard(link)
        self._stale.append(link)

    def renew(self) -> None:
        """Begin a new epoch."""
        self.epoch = object()

    def stale(self) -> list[Link[C]]:
        """Return the links that the pool has to close now. Each link is returned once."""
        if not self._stale:
            return []  # not the list itself: another thread may add to it while the caller reads it
        stale, self._stale = self._stale, []
        return stale

    def close(self) -> list[Link[C]]:
        """Begin a new epoch; returns all links that are not in use, for the pool to close."""
        self.renew()
        idle, self._idle = self._idle, []
        return idle + self.stale()
