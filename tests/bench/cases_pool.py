"""Pools: what it costs to borrow a connection and to give it back, alone, in a crowd, and beside a long queue.

The connections are objects without I/O, so the figures are those of the pools. The tables with threads count time that
passes, not CPU time of one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Self

import samples
from harness import Case, Contender, Effort, Sample, Session, Unit, peer

from resilience import AsyncPool, Pool

__all__ = ("CASES",)

THREADS, CONNECTIONS = 32, 4


class Connection:
    """A connection without I/O, with the methods that the pools compared here ask for."""

    def close(self) -> None:
        """Do nothing."""


async def connect() -> Connection:
    """Connect at once."""
    return Connection()


class HandOff:
    """The hand-written pool to compare with: fair, direct hand-off, and nothing besides."""

    def __init__(self, size: int) -> None:
        self._idle = [Connection() for _ in range(size)]
        self._waiting: deque[tuple[threading.Lock, list[Connection]]] = deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """Borrow."""
        connection = self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    def acquire(self) -> Connection:
        """Take an idle connection, or wait for one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            latch, box = threading.Lock(), list[Connection]()
            latch.acquire()
            self._waiting.append((latch, box))
        latch.acquire()
        return box[0]

    def release(self, connection: Connection) -> None:
        """Give it to the first that waits."""
        with self._lock:
            if self._waiting:
                latch, box = self._waiting.popleft()
                box.append(connection)
                latch.release()
            else:
                self._idle.append(connection)


Borrow = Callable[[], AbstractContextManager[Any]]


def _ours(_session: Session, size: int = CONNECTIONS) -> Borrow:
    return Pool(Connection, maximum_pool_size=size, connection_timeout=60).connection


def _hand_off(_session: Session, size: int = CONNECTIONS) -> Borrow:
    return HandOff(size).connection


def _queue(_session: Session, size: int = CONNECTIONS) -> Borrow:
    connections: queue.Queue[Connection] = queue.Queue()
    for _ in range(size):
        connections.put(Connection())

    @contextlib.contextmanager
    def borrow() -> Iterator[Connection]:
        connection = connections.get()
        try:
            yield connection
        finally:
            connections.put(connection)

    return borrow


class _DbapiConnection(Connection):
    def rollback(self) -> None:
        """Do nothing."""


def _sqlalchemy(_session: Session, size: int = CONNECTIONS) -> Borrow:
    pool = peer("sqlalchemy.pool", "sqlalchemy").QueuePool(_DbapiConnection, pool_size=size, max_overflow=0, timeout=60)

    @contextlib.contextmanager
    def borrow() -> Iterator[Any]:
        connection = pool.connect()
        try:
            yield connection
        finally:
            connection.close()

    return borrow


def _redis(_session: Session, size: int = CONNECTIONS) -> Borrow:
    redis = peer("redis")

    class Dummy(redis.Connection):  # type: ignore[misc,name-defined]  # a class of a library that may be missing
        def connect(self) -> None:
            """Do nothing."""

        def can_read(self, timeout: float = 0) -> bool:
            return False

        def should_reconnect(self) -> bool:
            return False

    pool = redis.BlockingConnectionPool(connection_class=Dummy, max_connections=size, timeout=60)

    @contextlib.contextmanager
    def borrow() -> Iterator[Any]:
        connection = pool.get_connection()
        try:
            yield connection
        finally:
            pool.release(connection)

    return borrow


def _psycopg(session: Session, size: int = CONNECTIONS) -> Borrow:
    psycopg, psycopg_pool = peer("psycopg"), peer("psycopg_pool", "psycopg-pool")
    idle = psycopg.pq.TransactionStatus.IDLE

    class Dummy:
        _pool = None
        closed = False

        class pgconn:  # noqa: N801 - as psycopg names it
            transaction_status = idle

        @classmethod
        def connect(cls, *_arguments: object, **_named: object) -> Dummy:
            return cls()

        def close(self) -> None:
            """Do nothing."""

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_exit: object) -> None:
            """Do nothing."""

    pool = psycopg_pool.ConnectionPool("", connection_class=Dummy, min_size=size, max_size=size, open=True, timeout=60)
    pool.wait()
    session.stack.callback(pool.close)

    @contextlib.contextmanager
    def borrow() -> Iterator[Any]:
        connection = pool.getconn()
        try:
            yield connection
        finally:
            pool.putconn(connection)

    return borrow


def _alone(build: Callable[[Session], Borrow]) -> Callable[[Session], Sample]:
    def prepared(session: Session) -> Sample:
        borrow = build(session)

        def once() -> None:
            with borrow():
                pass

        once()
        return samples.calls(once)

    return prepared


def _crowded(build: Callable[[Session], Borrow], fairness: dict[str, str], name: str) -> Callable[[Session], Sample]:
    """Return a sample of `THREADS` threads that use `CONNECTIONS` connections for 0.1 ms each."""

    def prepared(session: Session) -> Sample:
        borrow = build(session)

        def sample(number: int) -> float:
            seconds, turns, waits = 0.5, [0] * THREADS, list[list[float]]([] for _ in range(THREADS))
            begin, is_over = threading.Barrier(THREADS + 1), threading.Event()

            def use(which: int) -> None:
                begin.wait()
                while not is_over.is_set():
                    since = time.monotonic()
                    with borrow():
                        waits[which].append(time.monotonic() - since)
                        time.sleep(0.0001)
                    turns[which] += 1

            threads = [threading.Thread(target=use, args=(which,), daemon=True) for which in range(THREADS)]
            for thread in threads:
                thread.start()
            begin.wait()
            time.sleep(seconds)
            is_over.set()
            done = sum(turns)
            for thread in threads:
                thread.join()
            every = sorted(wait for each in waits for wait in each)
            half, most = every[len(every) // 2], every[int(len(every) * 0.99)]
            fairness[name] = (
                f"turns per thread {min(turns)} to {max(turns)}; wait median {half * 1e3:.1f} ms, "
                f"p99 {most * 1e3:.1f} ms, longest {every[-1] * 1e3:.0f} ms"
            )
            return seconds * 1e9 / max(1, done) if number else 0.0

        return sample

    return prepared


def _queued(waiting: int) -> Callable[[Session], Sample]:
    """Return a sample of hand-overs of one connection while `waiting` tasks wait in the queue."""

    def prepared(session: Session) -> Sample:
        loop = session.new_loop()
        pool: AsyncPool[Connection] = AsyncPool(connect, maximum_pool_size=1, max_waiting=2000, connection_timeout=600)

        async def borrow(turns: int) -> None:
            for _ in range(turns):
                async with pool.connection():
                    pass

        async def crowd(number: int) -> float:
            turns = max(1, number // waiting)
            lease = await pool.acquire()
            tasks = [asyncio.ensure_future(borrow(turns)) for _ in range(waiting)]
            await asyncio.sleep(0)
            begin = time.thread_time_ns()
            await lease.release()
            await asyncio.gather(*tasks)
            return (time.thread_time_ns() - begin) / (turns * waiting)

        return lambda number: loop.run_until_complete(crowd(max(number, waiting)))

    return prepared


def _awaiting(build: Callable[[], Callable[[], Any]]) -> Callable[[Session], Sample]:
    def prepared(session: Session) -> Sample:
        borrow = build()

        async def once() -> None:
            async with borrow():
                pass

        return samples.awaits(session, _ignoring(once))

    return prepared


def _ignoring(function: Callable[[], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def called(*_arguments: object) -> None:
        await function()

    return called


def _our_tasks() -> Callable[[], Any]:
    return AsyncPool(connect, maximum_pool_size=CONNECTIONS).connection


def _async_queue() -> Callable[[], Any]:
    connections: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        connections.put_nowait(Connection())

    @contextlib.asynccontextmanager
    async def borrow() -> AsyncIterator[Connection]:
        connection = await connections.get()
        try:
            yield connection
        finally:
            connections.put_nowait(connection)

    return borrow


FAIRNESS: dict[str, str] = {}
"""What the crowds of the last sample saw, by contender."""
PEERS = (
    ("hand-written fair hand-off", _hand_off),
    ("queue.Queue", _queue),
    ("SQLAlchemy QueuePool", _sqlalchemy),
    ("redis-py BlockingConnectionPool", _redis),
    ("psycopg_pool.ConnectionPool", _psycopg),
)

CASES = (
    Case(
        "pool",
        "A connection borrowed and given back, blocking, nobody else",
        Contender("no pool", lambda _session: samples.calls(lambda: None)),
        (
            Contender("resilience", _alone(_ours), "`with pool.connection():`", budget=1000),
            *(Contender(name, _alone(build)) for name, build in PEERS),
        ),
    ),
    Case(
        "aio-pool",
        "A connection borrowed and given back, awaiting, nobody else",
        Contender("no pool", _awaiting(lambda: contextlib.nullcontext)),
        (
            Contender("resilience", _awaiting(_our_tasks), "`async with pool.connection():`", budget=1200),
            Contender("asyncio.Queue", _awaiting(_async_queue)),
        ),
    ),
    Case(
        "pool-crowd",
        "32 threads on 4 connections, each used for 0.1 ms",
        Contender("hand-written fair hand-off", _crowded(_hand_off, FAIRNESS, "hand-written fair hand-off")),
        (
            Contender("resilience", _crowded(_ours, FAIRNESS, "resilience"), "first come, first served", budget=0.9),
            *(Contender(name, _crowded(build, FAIRNESS, name)) for name, build in PEERS[1:]),
        ),
        unit=Unit.SHARE,
        note="`python tests/bench/cases_pool.py` prints how fair each one is. A pool that is not fair is fast here: "
        "the thread that gives a connection back takes it again, and others wait for seconds.",
        largest=1,
    ),
    Case(
        "pool-queue",
        "A connection handed over to the next task, with more and more tasks in the queue",
        Contender("10 tasks wait", _queued(10)),
        (Contender("100 tasks wait", _queued(100)), Contender("1,000 tasks wait", _queued(1000))),
        smallest=1000,
    ),
)


if __name__ == "__main__":
    with Session(Effort.quick()) as session:
        for contender in (CASES[2].bare, *CASES[2].contenders):
            contender.build(session)(1)
            print(f"{contender.name:32} {FAIRNESS[contender.name]}")
