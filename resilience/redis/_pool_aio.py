"""The connections of an event loop. A task waits for a free connection, never for connecting to end.

`_pool_machine.py` decides which task gets which connection, and `_pool.py` is the pool of threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from resilience.redis._errors import failure_of, of_redis
from resilience.redis._pool_machine import Link, LinkMachine, NotAskedError

if TYPE_CHECKING:
    from types import TracebackType

    from redis.asyncio.connection import AbstractConnection

    from resilience.redis._options import RedisOptions

    LinkFuture = asyncio.Future[Link[AbstractConnection]]

__all__ = ("AsyncConnectionPool", "LoopTimeout")

T = TypeVar("T")
STEPS = 2
LOOKS = 4
"""Turns of the loop from the last step to expiry. News takes three: socket to stream, stream to task, task to end."""


class LoopTimeout:
    """`async with LoopTimeout(seconds):` raises `TimeoutError` after `seconds` in which the loop ran.

    `asyncio.timeout` counts the time on the clock. A handler that keeps the loop for longer than the timeout lets it
    expire while the reply lies in the socket: the loop serves the timer before the task that would read. Here the time
    is counted in `STEPS` steps, and a step that ends late counts no more than any other. After the last step the loop
    looks at its sockets, and runs the tasks that have news, before the timeout expires. So a loop that stands still
    prolongs the timeout by as long, `STEPS` times at most.
    """

    __slots__ = ("_handle", "_left", "_loop", "_step", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._step = seconds / STEPS
        self._left = STEPS + LOOKS
        self._timeout = asyncio.timeout(None)
        self._handle: asyncio.Handle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._next()

    def _next(self) -> None:
        self._left -= 1
        if self._left >= LOOKS:
            self._handle = self._loop.call_later(self._step, self._next)
        elif self._left:
            self._handle = self._loop.call_soon(self._next)
        else:
            self._handle = None
            self._timeout.reschedule(self._loop.time())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        await self._timeout.__aexit__(kind, error, traceback)


class AsyncConnectionPool:
    """At most `options.max_connections` connections to Redis, shared by the tasks of the running event loop.

    Connecting runs in a task of its own, one attempt at a time, for at most `options.connect_timeout`. A caller waits
    for a connection for at most half of `options.timeout`; the answer has the rest.

    Args:
        options: The timeouts and the number of connections.
        connect: Returns a new connection, when awaited.
    """

    def __init__(self, options: RedisOptions, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self._timeout = options.timeout
        self._patience = options.timeout / 2
        self._connect_timeout = options.connect_timeout
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._links: LinkMachine[AbstractConnection, LinkFuture] = LinkMachine(options.max_connections)
        self._connecting: asyncio.Task[Link[AbstractConnection]] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # a loop keeps no task alive by itself

    async def run(self, use: Callable[[AbstractConnection], Awaitable[T]], patience: float | None = None) -> T:
        """Return `await use(connection)`.

        Args:
            use: Exchanges commands and replies.
            patience: How many seconds to wait for a connection. The default is half of the timeout, and what a caller
                has waited is missing for the answer. A task of our own may wait longer, and the answer has its time.

        Raises:
            NotAskedError: No connection was free in time.
            Exception: The error of connecting, or that of `use`.
        """
        link = self._links.take()
        if link is not None and (answer := await self._use(link, use, 0.0)) is not None:
            return answer
        if (link := self._links.take()) is not None:
            answer = await self._use(link, use, 0.0)
        else:
            since = time.monotonic()
            link = await self._await_link(self._patience if patience is None else patience)
            waited = min(time.monotonic() - since, self._patience) if patience is None else 0.0
            answer = await self._use(link, use, waited)
        if answer is None:
            raise NotAskedError("the connection was closed since its last use")
        return answer

    async def _await_link(self, patience: float) -> Link[AbstractConnection]:
        waiting: LinkFuture = self._loop.create_future()
        self._links.join(waiting, time.monotonic(), patience)
        self._grow()
        try:
            async with LoopTimeout(patience):
                return await waiting
        except TimeoutError:
            reason = self._links.leave(waiting)
            if not waiting.cancelled():  # served at the last moment, or it is the error of connecting
                return waiting.result()
            raise reason or NotAskedError from None
        except BaseException:
            self._links.leave(waiting)
            if not waiting.cancelled() and waiting.done() and waiting.exception() is None:
                self._hand_over(waiting.result())
            raise

    async def _use(
        self, link: Link[AbstractConnection], use: Callable[[AbstractConnection], Awaitable[T]], waited: float
    ) -> T | None:
        """Return the answer, or None if the server had closed the connection since its last use."""
        link.is_in_step = False
        try:
            async with LoopTimeout(self._timeout - waited):
                answer = await use(link.connection)
            link.is_in_step = True
        except Exception as error:
            if link.was_closed(failure_of(error), waited):
                self._links.renew()  # the other connections are as old
                return None
            raise
        finally:
            if (next_one := self._links.release(link)) is not None:
                self._settle(next_one, link)
            if stale := self._links.stale():
                await _close(stale)
                self._grow()
        return answer

    def _hand_over(self, link: Link[AbstractConnection]) -> None:
        if (next_one := self._links.hand_over(link)) is not None:
            self._settle(next_one, link)

    def _settle(self, waiting: LinkFuture, link: Link[AbstractConnection]) -> None:
        if waiting.done():  # cancelled, but its task has not run since
            self._hand_over(link)
        else:
            waiting.set_result(link)

    def _grow(self) -> None:
        """Start an attempt to connect if callers wait for one."""
        if self._links.begin_connecting(time.monotonic()):
            attempt = asyncio.Task(self._open(), loop=self._loop, context=Context())  # no caller's context goes along
            attempt.add_done_callback(self._opened)
            self._connecting = attempt  # a loop keeps no task alive by itself

    async def _open(self) -> Link[AbstractConnection]:
        epoch = self._links.epoch
        async with LoopTimeout(self._connect_timeout):
            return Link(await self._connect(), epoch)

    def _opened(self, attempt: asyncio.Task[Link[AbstractConnection]]) -> None:
        self._connecting = None
        error = asyncio.CancelledError() if attempt.cancelled() else attempt.exception()
        if error is None:
            if (first := self._links.connected(attempt.result())) is not None:
                self._settle(first, attempt.result())
        else:
            cause = of_redis(error) if isinstance(error, Exception) else NotAskedError("connecting was cancelled")
            if isinstance(cause.__cause__, RuntimeError):  # asyncio has no thread to resolve the name of the host in
                cause = NotAskedError("no thread can be started to connect")
            for waiting in self._links.failed(cause, time.monotonic()):
                if not waiting.done():
                    waiting.set_exception(cause)
        if not self._loop.is_closed():
            if stale := self._links.stale():  # the pool was renewed or closed meanwhile
                self._begin(_close(stale))
            self._grow()

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do `work` in a task that is in the context of no caller."""
        task = asyncio.Task(work, loop=self._loop, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def ask_soon(
        self,
        use: Callable[[AbstractConnection], Awaitable[object]],
        patience: float,
        heard: Callable[[BaseException | None], None],
    ) -> bool:
        """Have a task of the loop run `use`; returns False if the loop is not running. For any thread; never blocks.

        Args:
            use: Exchanges commands and replies.
            patience: How many seconds the task waits for a connection.
            heard: Called in the loop with the error, or with None. Never called if the loop stops before the end.
        """

        def begin() -> None:
            self._begin(self.run(use, patience)).add_done_callback(ended)

        def ended(task: asyncio.Task[object]) -> None:
            heard(NotAskedError("the task was cancelled") if task.cancelled() else task.exception())

        try:
            is_running = self._loop.is_running()
            if is_running:
                self._loop.call_soon_threadsafe(begin)
        except RuntimeError:  # the loop was closed meanwhile
            return False
        return is_running

    def renew(self) -> None:
        """Use no connection again that exists now; the next call connects anew."""
        self._links.renew()

    async def aclose(self) -> None:
        """Close the idle connections now, and the others after their use."""
        if (attempt := self._connecting) is not None:
            attempt.cancel()
            await asyncio.wait({attempt})  # it may have connected already: `_opened` has run then
        await _close(self._links.close())


async def _close(links: Iterable[Link[AbstractConnection]]) -> None:
    for link in links:
        with contextlib.suppress(Exception):
            await link.connection.disconnect(nowait=True)
