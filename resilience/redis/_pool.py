"""The connections of blocking code. A caller waits for a free connection, never for connecting to end.

`_pool_machine.py` decides which caller gets which connection. This module adds threads, the lock and the I/O, and
`_pool_aio.py` adds tasks and the I/O. The two are no twins. Here an interrupt may strike between any two instructions,
so each link is put away in `finally` and each claim is one operation; there only an `await` may raise, so no lock is
needed, and a future carries the link.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from resilience.redis._errors import failure_of, is_of_redis, of_redis
from resilience.redis._exchange import limit
from resilience.redis._pool_machine import Link, LinkMachine, NotAskedError

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.redis._options import RedisOptions

__all__ = ("ConnectionPool",)

T = TypeVar("T")


class LinkRequest:
    """One call of a thread: the link it uses, or the reason why it has none."""

    __slots__ = ("_arrival", "error", "link")

    def __init__(self) -> None:
        self.link: Link[AbstractConnection] | None = None
        self.error: Exception | None = None
        self._arrival: threading.Lock | None = None

    def prepare(self) -> None:
        """Make `wait` block from now on."""
        self._arrival = threading.Lock()
        self._arrival.acquire()

    def wait(self, seconds: float) -> None:
        """Block until `settle`, for `seconds` at most."""
        if self._arrival is not None:
            self._arrival.acquire(timeout=seconds)

    def settle(self, link: Link[AbstractConnection] | None, error: Exception | None = None) -> None:
        """Wake the thread, with its link or with the reason."""
        self.link, self.error = link, error
        if self._arrival is not None:
            self._arrival.release()


class ConnectionPool:
    """At most `options.max_connections` connections to Redis, shared by the threads of a process.

    Connecting runs in a background thread, one attempt at a time, for at most `options.connect_timeout` a step. A
    caller waits for a connection for at most half of `options.timeout`; the answer has the rest.

    Args:
        options: The timeouts and the number of connections.
        connect: Returns a new connection, blocking.
    """

    def __init__(self, options: RedisOptions, connect: Callable[[], AbstractConnection]) -> None:
        self._timeout = options.timeout
        self._patience = options.timeout / 2
        self._connect = connect
        self._links: LinkMachine[AbstractConnection, LinkRequest] = LinkMachine(options.max_connections)
        # Guards the machine; never held during I/O by its own steps. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    def run_if_free(self, use: Callable[[AbstractConnection], T]) -> T | None:
        """Return `use(connection)`, or None if no connection is free or the free one was closed since its last use."""
        request = LinkRequest()
        try:
            with self._lock:
                request.link = link = self._links.take()
            return None if link is None else self._use(link, use, 0.0)
        finally:
            if request.link is not None:
                self._take_back(request.link)

    def run(self, use: Callable[[AbstractConnection], T], patience: float | None = None) -> T:
        """Return `use(connection)`, after a wait for a connection.

        Args:
            use: Exchanges commands and replies.
            patience: How many seconds to wait for a connection. The default is half of the timeout, and what a caller
                has waited is missing for the answer. A thread of our own may wait longer, and the answer has its time.

        Raises:
            NotAskedError: No connection was free in time.
            Exception: The error of connecting, or that of `use`.
        """
        request, since = LinkRequest(), time.monotonic()
        request.prepare()
        try:
            with self._lock:
                request.link = self._links.take()
                if request.link is None:
                    self._links.join(request, since, self._patience if patience is None else patience)
                stale = self._links.stale()
            _close(stale)
            if request.link is not None:
                answer = self._use(request.link, use, 0.0)
            else:
                # May take longer than it should, if the process stood still.
                link = self._await_link(request, self._patience if patience is None else patience)
                waited = min(time.monotonic() - since, self._patience) if patience is None else 0.0
                answer = self._use(link, use, waited)
            if answer is None:
                raise NotAskedError("the connection was closed since its last use")
            return answer
        finally:
            self._leave(request)

    def _await_link(self, request: LinkRequest, patience: float) -> Link[AbstractConnection]:
        self._grow()
        request.wait(patience)
        with self._lock:
            reason = self._links.leave(request)
        if request.link is None:
            raise request.error or reason or NotAskedError
        return request.link

    def _leave(self, request: LinkRequest) -> None:
        with self._lock:
            self._links.leave(request)
        if request.link is not None:
            self._take_back(request.link)

    def _use(self, link: Link[AbstractConnection], use: Callable[[AbstractConnection], T], waited: float) -> T | None:
        """Return the answer, or None if the server had closed the connection since its last use."""
        link.is_in_step = False
        try:
            if waited:
                limit(link.connection, self._timeout - waited)
            answer = use(link.connection)
            if waited:
                limit(link.connection, self._timeout)
        except Exception as error:
            if link.was_closed(failure_of(error), waited):
                self._links.renew()  # the other connections are as old
                return None
            raise
        link.is_in_step = True
        return answer

    def _take_back(self, link: Link[AbstractConnection]) -> None:
        with self._lock:
            next_one = self._links.release(link)
            if next_one is not None:
                next_one.settle(link)
            stale = self._links.stale()
        if stale:
            _close(stale)
            self._grow()

    def _grow(self) -> None:
        """Start an attempt to connect if callers wait for one."""
        if sys.is_finalizing():  # no thread starts any more: starting one would never return
            return
        is_due, claim = False, [None]  # the thread takes the claim, or an interrupt here that comes before it
        try:
            with self._lock:
                is_due = self._links.begin_connecting(time.monotonic())
            if is_due:
                attempt = (self._links.epoch, claim)
                threading.Thread(target=self._add, args=attempt, name="resilience-redis-connect", daemon=True).start()
        except RuntimeError:  # the system starts no more threads: this says nothing about Redis
            if is_due and _takes(claim):
                self._failed(NotAskedError("no thread can be started to connect"))
        except BaseException:
            if is_due and _takes(claim):
                self._failed(NotAskedError("interrupted"))
            raise

    def _add(self, epoch: object, claim: list[None]) -> None:
        if not _takes(claim):
            return
        try:
            link = Link(self._connect(), epoch)
        except Exception as error:  # noqa: BLE001 - a caller gets it
            self._failed(of_redis(error))
            return
        with self._lock:
            first = self._links.connected(link)
            if first is not None:
                first.settle(link)
            stale = self._links.stale()
        _close(stale)
        self._grow()

    def _failed(self, error: Exception) -> None:
        with self._lock:
            for request in self._links.failed(error, time.monotonic()):
                request.settle(None, error)

    def renew(self) -> None:
        """Use no connection again that exists now; the next call connects anew. Never blocks."""
        self._links.renew()

    def close(self) -> None:
        """Close the idle connections now, and the others after their use."""
        with self._lock:
            idle = self._links.close()
        _close(idle)


def _takes(claim: list[None]) -> bool:
    """Take the one claim, by an operator: no interrupt comes between the claim and its owner."""
    try:
        del claim[-1]
    except IndexError:
        return False
    return True


def _close(links: Iterable[Link[AbstractConnection]]) -> None:
    for link in links:
        try:
            link.connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        except Exception as error:
            if not is_of_redis(error):
                raise
