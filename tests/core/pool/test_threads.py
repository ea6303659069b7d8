"""Threads that share a pool: fairness, servers and factories that hang, forks, and workers of every kind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest
from lent import Lent, Maker

from resilience import Pool, PoolClosedError, PoolError, PoolTimeoutError


def eventually(is_so: Callable[[], object], what: str = "it does not come about") -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.001)


@pytest.mark.realtime
def test_every_thread_gets_its_share() -> None:
    """32 threads on 4 connections for 3 s: the poorest thread has more than 0.9 of the turns of the richest (L20)."""
    turns, waits = [0] * 32, [0.0] * 32
    with Pool(Maker(), maximum_pool_size=4) as pool:
        begin, is_over = threading.Barrier(33), threading.Event()

        def borrow(number: int) -> None:
            begin.wait()
            while not is_over.is_set():
                since = time.monotonic()
                with pool.connection() as connection:
                    waits[number] = max(waits[number], time.monotonic() - since)
                    connection.use()
                    time.sleep(0.001)
                    connection.leave()
                turns[number] += 1

        threads = [threading.Thread(target=borrow, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        begin.wait()
        time.sleep(3)
        is_over.set()
        for thread in threads:
            thread.join()
        assert pool.snapshot()["created"] == 4
    sys.stdout.write(f"turns {min(turns)} to {max(turns)}, longest wait {max(waits) * 1000:.0f} ms\n")
    assert min(turns) / max(turns) > 0.9, (min(turns), max(turns), max(waits))


def test_a_storm_of_threads_loses_no_connection() -> None:
    """Threads that use, break, drop and outwait connections while an operator drains: each is lent to one at a time."""
    maker = Maker()
    errors: list[BaseException] = []
    with Pool(maker, maximum_pool_size=3, idle_timeout=0.05, max_lifetime=0.2) as pool:

        def borrow(number: int) -> None:
            try:
                for turn in range(150):
                    try:
                        with pool.connection(timeout=0 if (number + turn) % 7 == 0 else 20) as connection:
                            connection.use()
                            connection.leave()
                            if turn % 20 == 19:
                                raise ZeroDivisionError  # noqa: TRY301 - the error of a block
                    except (PoolTimeoutError, ZeroDivisionError):
                        continue
                    if turn % 50 == 49:
                        pool.acquire()  # dropped at once
            except BaseException as error:  # noqa: BLE001 - shown below
                errors.append(error)

        threads = [threading.Thread(target=borrow, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            pool.drain()
            pool.resize(2)
            pool.resize(3)
            time.sleep(0.01)
        assert errors == []
        eventually(lambda: pool.snapshot()["in_use"] == 0)
        leases = [pool.acquire() for _ in range(3)]
        assert len({lease.connection for lease in leases}) == 3
        for lease in leases:
            lease.release()
    eventually(lambda: not maker.open, "a connection was never closed")


# Connecting


def test_one_hung_connect_does_not_stop_the_others() -> None:  # noqa: C901 - one story
    """While one attempt hangs, the seven connections of the pool serve eight threads, and another can be made."""
    is_over, maker, turns = threading.Event(), Maker(), [0] * 8

    def connect() -> Lent:
        if maker.attempts == 7:
            maker.attempts += 1
            is_over.wait(30)
        return maker()

    with Pool(connect, maximum_pool_size=9, max_creating=3, connect_timeout=30) as pool:
        leases = [pool.acquire(timeout=10) for _ in range(7)]
        with pytest.raises(PoolTimeoutError):
            pool.acquire(timeout=0)
        eventually(lambda: maker.attempts == 8)
        for lease in leases:
            lease.release()
        begin = threading.Barrier(8)

        def borrow(number: int) -> None:
            begin.wait()
            for _ in range(50):
                with pool.connection(timeout=10):
                    time.sleep(0.0005)
                turns[number] += 1

        threads = [threading.Thread(target=borrow, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert turns == [50] * 8
        assert pool.snapshot()["creating"] == 1
        leases = [pool.acquire() for _ in range(7)]
        waiters = [threading.Thread(target=lambda: pool.acquire(timeout=10).release()) for _ in range(2)]
        for thread in waiters:
            thread.start()
        eventually(lambda: pool.snapshot()["total"] == 8, "nobody connects beside the attempt that hangs")
        is_over.set()
        for thread in waiters:
            thread.join(20)
        for lease in leases:
            lease.release()
        eventually(lambda: pool.snapshot()["creating"] == 0)


def test_a_connect_that_returns_late_is_closed() -> None:
    """After `connect_timeout` the attempt has failed; what it brings later is closed, and never lent."""
    is_over, maker = threading.Event(), Maker()

    def connect() -> Lent:
        is_over.wait(20)
        return maker()

    with Pool(connect, connect_timeout=0.02, maximum_pool_size=1) as pool:
        with pytest.raises(PoolTimeoutError, match="TimeoutError") as caught:
            pool.acquire(timeout=0.3)
        assert str(caught.value.__cause__) == "connect took longer than 0.02 s"
        pool.resize(1)
        is_over.set()
        eventually(lambda: any(connection.is_closed for connection in maker.made))


def test_a_connect_that_returns_after_close_is_closed() -> None:
    """A connection that comes when the pool is closed ends at once."""
    is_over, maker = threading.Event(), Maker()

    def connect() -> Lent:
        is_over.wait(20)
        return maker()

    pool = Pool(connect)
    with pytest.raises(PoolTimeoutError):
        pool.acquire(timeout=0)
    pool.close(timeout=0)
    is_over.set()
    eventually(lambda: maker.made and maker.made[0].is_closed)
    assert pool.snapshot()["total"] == 0


def test_close_ends_a_start_that_tries() -> None:
    """`start` in one thread ends with `PoolClosedError` when another thread closes the pool."""
    pool = Pool(Maker(failures=10_000), initialization_fail_timeout=60)
    errors: list[BaseException] = []

    def start() -> None:
        try:
            pool.start()
        except PoolError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    eventually(lambda: pool.snapshot()["connect_failures"])
    pool.close()
    thread.join(20)
    assert [type(error) for error in errors] == [PoolClosedError]


def test_a_finalizer_that_gives_back_in_the_midst_of_a_change() -> None:
    """A lease that is dropped while its own thread changes the pool comes back when the change is over."""
    maker = Maker()
    with Pool(maker, maximum_pool_size=2) as pool:
        held = [pool.acquire()]
        machine = pool._core.machine
        recycle = machine.recycle

        def drop_and_recycle(reason: str) -> None:
            held.clear()  # `__del__` runs here, under the lock of the pool
            with pytest.raises(PoolError, match="a finalizer or signal handler cannot borrow"):
                pool.acquire()
            recycle(reason)

        machine.recycle = drop_and_recycle  # type: ignore[method-assign]  # the moment of a garbage collection
        pool.drain()
        eventually(lambda: maker.made[0].is_closed)
        assert pool.snapshot()["lost"] == 1
        assert pool.snapshot()["in_use"] == 0


def test_more_connections_to_close_than_threads_to_close_them() -> None:
    """Connections that find no free thread are closed when one is free; none is left to the garbage collector."""
    is_over, maker = threading.Event(), Maker()

    def close(connection: Lent) -> None:
        is_over.wait(20)
        connection.close()

    with Pool(maker, close=close, maximum_pool_size=2) as pool:
        for _ in range(4):
            leases = [pool.acquire(timeout=10) for _ in range(2)]
            for lease in leases:
                lease.discard()
        is_over.set()
        eventually(lambda: len(maker.made) >= 8 and not maker.open)


@pytest.mark.realtime
def test_the_spike_of_hikaricp() -> None:
    """50 borrowers at once, 150 ms to connect, 2 ms to query: few connections are made, and nobody waits for long."""
    maker = Maker()

    def connect() -> Lent:
        time.sleep(0.15)
        return maker()

    waits: list[float] = []
    with Pool(connect, maximum_pool_size=50, minimum_idle=5, max_creating=3) as pool:
        pool.start()
        eventually(lambda: pool.snapshot()["idle"] == 5)
        begin = threading.Barrier(50)

        def request() -> None:
            begin.wait()
            since = time.monotonic()
            with pool.connection():
                waits.append(time.monotonic() - since)
                time.sleep(0.002)

        threads = [threading.Thread(target=request) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made = len(maker.made)
    sys.stdout.write(f"{made} connections, the last borrower waited {max(waits) * 1000:.0f} ms\n")
    assert made <= 8, "a connection for each borrower, though the old ones were soon back"
    assert max(waits) < 0.15, "a borrower waited for a new connection, though an old one was back before"


# Processes


SERVER = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
def serve(connection):
    while data := connection.recv(100):
        connection.sendall(data)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def ping(connection: socket.socket) -> None:
    connection.sendall(b"ping")
    if connection.recv(100) != b"ping":
        raise ConnectionResetError


def serving(port: int) -> subprocess.Popen[str]:
    """Start an echo server on this port."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.servers
def test_a_server_is_killed_and_comes_back_under_load() -> None:
    """Calls fail while it is away, and soon after its return all of them succeed again, on new connections."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    server = serving(port)
    done: list[float] = []
    is_over = threading.Event()

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=1)

    with Pool(connect, close=socket.socket.close, maximum_pool_size=3, connection_timeout=5) as pool:

        def call() -> None:
            while not is_over.is_set():
                try:
                    with pool.connection(timeout=0.2) as connection:
                        ping(connection)
                    done.append(time.monotonic())
                except (OSError, PoolTimeoutError):
                    time.sleep(0.001)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: len(done) > 100)
            server.kill()
            server.wait()
            eventually(lambda: pool.snapshot()["total"] == 0, "a dead connection stays in the pool")
            assert server.stdout is not None
            server.stdout.close()
            server = serving(port)
            back = len(done)
            eventually(lambda: len(done) > back + 100, "the pool does not connect again")
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()
        assert pool.snapshot()["in_use"] == 0
        assert pool.snapshot()["last_error"] is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_leaves_the_connections_of_its_parent_alone() -> None:
    """It uses, closes and resets none of them, has a working pool of its own, and the parent notices nothing."""
    touched = []

    def touch(connection: Lent) -> None:
        touched.append(connection)

    maker = Maker()
    with Pool(maker, maximum_pool_size=2, reset=touch, check=touch, close=touch, connection_timeout=5) as pool:
        idle = pool.acquire()
        held = pool.acquire()
        idle.release()
        touched.clear()
        mine = list(maker.made)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                held.release()
                del held
                leases = [pool.acquire(), pool.acquire()]
                is_new = not {lease.connection for lease in leases} & set(mine)
                code = 0 if is_new and not set(touched) & set(mine) and pool.snapshot()["total"] == 2 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert touched == []
        held.release()
        assert {pool.acquire().connection, pool.acquire().connection} == set(mine)


PREFORK = """
from resilience import Pool
import os
class Connection:
    def __init__(self): self.process = os.getpid()
    def close(self): pass
pool = Pool(Connection, maximum_pool_size=2)
with pool.connection(): pass
def app(environ, start_response):
    with pool.connection() as connection:
        is_mine = connection.process == os.getpid()
    start_response("200 OK", [])
    return [str(is_mine).encode()]
"""


@pytest.mark.servers
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_workers_of_gunicorn_do_not_share_connections(worker: str, tmp_path: os.PathLike[str]) -> None:
    """A pool that was made and used before the fork works in each worker, with connections of the worker."""
    pytest.importorskip("gunicorn")
    with open(os.path.join(tmp_path, "preforked.py"), "w") as file:  # noqa: PTH123, PTH118 - one line
        file.write(PREFORK)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-k", worker, "-b", f"127.0.0.1:{port}"]
    server = subprocess.Popen([*command, "preforked:app"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:

        def answer() -> bytes:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    received = b""
                    while data := connection.recv(1000):
                        received += data
                    return received
            except ConnectionError:
                return b""

        eventually(answer, "gunicorn does not answer")
        assert all(answer().endswith(b"True") for _ in range(20))
    finally:
        server.terminate()
        server.wait(20)


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent, time
from resilience import Pool, PoolExhaustedError
class Connection:
    def close(self): pass
pool = Pool(Connection, maximum_pool_size=2, connection_timeout=10)
turns = [0] * 8
def borrow(number):
    for _ in range(20):
        with pool.connection():
            time.sleep(0.001)
        turns[number] += 1
gevent.joinall([gevent.spawn(borrow, number) for number in range(8)], raise_error=True)
assert turns == [20] * 8, turns
leases = [pool.acquire(), pool.acquire()]
try:
    pool.acquire(timeout=0.01)
except PoolExhaustedError:
    print("exhausted")
for lease in leases:
    lease.release()
assert pool.snapshot()["created"] == 2, pool.snapshot()
pool.close()
print("done")
"""


@pytest.mark.servers
def test_greenlets_share_a_pool() -> None:
    """With the patches of gevent, greenlets borrow, wait, time out and close as threads do."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GREENLETS)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["exhausted", "done"], 0), done.stderr
