"""An interrupt at any point of a blocking decision leaves the limiter as good as new."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable

import pytest
from interrupts import KINDS, TimeLimitError, every_interrupt, every_signal, in_another_thread
from redis.connection import AbstractConnection
from redis_process import RedisProcess

from resilience.events import Event
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection
from resilience.redis._exchange import exchange, packed

pytestmark = [pytest.mark.redis, pytest.mark.realtime]

# An Exception that strikes `Thread.start` after the thread has begun makes that thread end with a KeyError of its own.
_STDLIB = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
Subject = tuple[Callable[[], object], Callable[[], object]]


def _opened(server: RedisProcess) -> RedisConnection:
    # Two connections: while the exception is being handled, its traceback may hold the one that was in use.
    return RedisConnection.from_url(server.url, outage="deny", timeout=2, max_connections=2)


def _serves(connection: RedisConnection, limiter: TokenBucket) -> None:
    """Check that another thread is served by Redis within a second."""
    start = time.monotonic()
    while not in_another_thread(lambda: limiter.acquire("k"), 5):
        assert time.monotonic() - start < 1, "refused"
    assert time.monotonic() - start < 1, "waited"
    pool = connection.pool._links
    while not (pool._connecting_since is None or pool._waiting or pool._used):  # it goes on in the background
        assert time.monotonic() - start < 10, "connecting is marked for good"
        time.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupts(redis_server: RedisProcess, kind: type[BaseException]) -> None:
    """No interrupt of a call that has its connection takes the connection away, or leaves a lock taken."""

    def make() -> Subject:
        connection = _opened(redis_server)
        limiter = TokenBucket("1000000/second", store=RedisStore(connection))
        assert limiter.acquire("k")

        def check() -> None:
            with contextlib.closing(connection):
                _serves(connection, limiter)

        return (lambda: limiter.acquire("k")), check

    # About a hundred on 3.11; from 3.12 on fewer instructions are traced.
    assert list(every_interrupt(make, kind))


@_STDLIB
@pytest.mark.parametrize("kind", KINDS)
def test_signals_while_connecting(redis_server: RedisProcess, kind: type[BaseException]) -> None:
    """Wherever a signal strikes in a call that connects, or waits in line, the next call has its connection."""

    def make() -> Subject:
        connection = _opened(redis_server)
        limiter = TokenBucket("1000000/second", store=RedisStore(connection))

        def check() -> None:
            with contextlib.closing(connection):
                _serves(connection, limiter)

        return (lambda: limiter.acquire("k")), check

    assert list(every_signal(make, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_no_reply_reaches_another_caller(redis_server: RedisProcess, kind: type[BaseException]) -> None:
    """Wherever an interrupt strikes in an exchange, the next caller gets its own reply."""
    numbers = iter(range(100_000))

    def echo(connection: RedisConnection) -> bool:
        text = b"%d" % next(numbers)

        def talk(link: AbstractConnection) -> list[object]:
            return exchange(link, (packed(b"ECHO", text), packed(b"ECHO", text + b"!")))

        replies = connection.pool.run_if_free(talk) or connection.pool.run(talk)
        assert replies == [text, text + b"!"]
        return True

    def make() -> Subject:
        connection = _opened(redis_server)
        echo(connection)

        def check() -> None:
            with contextlib.closing(connection):
                for _ in range(3):
                    in_another_thread(lambda: echo(connection), 5)

        return (lambda: echo(connection)), check

    assert list(every_interrupt(make, kind))


@_STDLIB
@pytest.mark.parametrize("kind", KINDS)
def test_interrupts_of_threads_that_ask_together(redis_server: RedisProcess, kind: type[BaseException]) -> None:
    """An interrupt of a thread that shares a round trip costs no other thread its decision."""

    def make() -> Subject:
        # Three connections: one is held, and the traceback may hold another one.
        connection = RedisConnection.from_url(redis_server.url, outage="deny", timeout=2, max_connections=3)
        limiter = TokenBucket("1000000/second", store=RedisStore(connection))
        assert limiter.acquire("k")
        is_held, may_end = threading.Event(), threading.Event()

        def hold(_link: AbstractConnection) -> bool:
            is_held.set()
            may_end.wait(0.002)
            return True

        def call() -> None:
            other = threading.Thread(target=connection.pool.run_if_free, args=(hold,), daemon=True)
            other.start()
            try:
                is_held.wait(5)
                limiter.acquire("k")  # finds no connection free: it opens a batch, and waits
            finally:
                other.join(5)

        def check() -> None:
            with contextlib.closing(connection):
                _serves(connection, limiter)

        return call, check

    assert list(every_signal(make, kind))


def test_a_time_limit_is_no_outage(redis_server: RedisProcess) -> None:
    """A time limit that strikes a decision reaches the caller, and Redis is asked again at once."""
    events: list[Event] = []

    def make() -> Subject:
        connection = _opened(redis_server)
        store = RedisStore(connection)
        store.events.subscribe(events.append)
        limiter = TokenBucket("1000000/second", store=store)
        assert limiter.acquire("k")

        def check() -> None:
            decided.append(sys.exc_info()[0] is None)
            assert not events, "an outage"
            assert not store.outage.is_down
            connection.close()

        return (lambda: limiter.acquire("k")), check

    decided: list[bool] = []
    assert list(every_interrupt(make, TimeLimitError))
    assert decided.count(True) == 1, "a time limit was swallowed"  # the last call, which ran through
