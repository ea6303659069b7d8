"""The connections of an event loop. A task waits for a connection that is free, never for connecting to end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, TypeVar

from resilience.clock import monotonic
from resilience.redis._bound_aio import LoopBound
from resilience.redis._errors import of_redis
from resilience.redis._exchange import was_closed
from resilience.redis._places import Link, NotAskedError, Places

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from resilience.redis._options import RedisOptions

    Given = asyncio.Future[Link[AbstractConnection]]

__all__ = ("AsyncConnectionPool",)

T = TypeVar("T")


class AsyncConnectionPool:
    """At most `options.max_connections` connections to Redis, shared by the tasks of an event loop.

    Connecting runs in a task of its own, one attempt at a time, for at most `options.connect_timeout`. A caller waits
    for a connection for at most half of `options.timeout`; the answer has the rest.
    """

    def __init__(
        self,
        options: RedisOptions,
        connect: Callable[[], Awaitable[AbstractConnection]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._timeout = options.timeout
        self._patience = options.timeout / 2
        self._connect_timeout = options.connect_timeout
        self._connect = connect
        self._loop = loop
        self._places: Places[AbstractConnection, Given] = Places(options.max_connections, self._patience)
        self._connecting: asyncio.Task[Link[AbstractConnection]] | None = None

    async def ask(self, talk: Callable[[AbstractConnection], Awaitable[T]]) -> T:
        """Return `await talk(connection)`.

        Raises `NotAskedError` if no connection is free in time, the error of connecting, or that of the exchange.
        """
        link = self._places.take()
        if link is not None and (answer := await self._use(link, talk, 0.0)) is not None:
            return answer
        if (link := self._places.take()) is not None:
            answer = await self._use(link, talk, 0.0)
        else:
            since = monotonic()
            link = await self._wait()
            answer = await self._use(link, talk, min(monotonic() - since, self._patience))
        if answer is None:
            raise NotAskedError("the connection was closed since its last use")
        return answer

    async def _wait(self) -> Link[AbstractConnection]:
        given: Given = self._loop.create_future()
        self._places.join(given, monotonic())
        self._grow()
        try:
            async with LoopBound(self._patience):
                return await given
        except TimeoutError:
            reason = self._places.leave(given)
            if not given.cancelled():  # served at the last moment, or it is the error of connecting
                return given.result()
            raise reason or NotAskedError from None
        except BaseException:
            self._places.leave(given)
            if not given.cancelled() and given.done() and given.exception() is None:
                self._hand_over(given.result())
            raise

    async def _use(
        self, link: Link[AbstractConnection], talk: Callable[[AbstractConnection], Awaitable[T]], waited: float
    ) -> T | None:
        """Return the answer, or None if the server had closed the connection since its last use."""
        link.is_in_step = False
        try:
            async with LoopBound(self._timeout - waited):
                answer = await talk(link.connection)
            link.is_in_step = True
        except Exception as error:
            if was_closed(link, error, waited):
                self._places.renew()  # the other connections are as old
                return None
            raise
        finally:
            if (next_one := self._places.release(link)) is not None:
                self._settle(next_one, link)
            if stale := self._places.stale():
                await _close(stale)
                self._grow()
        return answer

    def _hand_over(self, link: Link[AbstractConnection]) -> None:
        if (next_one := self._places.hand_over(link)) is not None:
            self._settle(next_one, link)

    def _settle(self, given: Given, link: Link[AbstractConnection]) -> None:
        if given.done():  # cancelled, but its task has not run since
            self._hand_over(link)
        else:
            given.set_result(link)

    def _grow(self) -> None:
        """Start an attempt to connect if callers wait for one."""
        if self._places.begin_connecting(monotonic()):
            attempt = asyncio.Task(self._open(), loop=self._loop, context=Context())  # no caller's context goes along
            attempt.add_done_callback(self._opened)
            self._connecting = attempt  # a loop keeps no task alive by itself

    async def _open(self) -> Link[AbstractConnection]:
        epoch = self._places.epoch
        async with LoopBound(self._connect_timeout):
            return Link(await self._connect(), epoch)

    def _opened(self, attempt: asyncio.Task[Link[AbstractConnection]]) -> None:
        self._connecting = None
        error = asyncio.CancelledError() if attempt.cancelled() else attempt.exception()
        if error is None:
            if (first := self._places.connected(attempt.result())) is not None:
                self._settle(first, attempt.result())
        else:
            cause = of_redis(error) if isinstance(error, Exception) else ConnectionError("connecting was cancelled")
            if isinstance(cause.__cause__, RuntimeError):  # asyncio has no thread to resolve the name of the host in
                cause = NotAskedError("no thread can be started to connect")
            for given in self._places.failed(cause, monotonic()):
                if not given.done():
                    given.set_exception(cause)
        if not self._loop.is_closed():
            self._grow()

    def renew(self) -> None:
        """Use no connection again that exists now; the next call connects anew."""
        self._places.renew()

    async def aclose(self) -> None:
        """Close the idle connections now, and the others after their use."""
        if self._connecting is not None:
            self._connecting.cancel()
        await _close(self._places.close())


async def _close(links: Iterable[Link[AbstractConnection]]) -> None:
    for link in links:
        with contextlib.suppress(Exception):
            await link.connection.disconnect(nowait=True)
