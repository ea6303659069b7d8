"""What only the clients of httpx2 and httpx show: streams, cancellation, hedges, connections left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest
from http_upstreams import Halting, Upstream
from stepped import Stepped

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    Hedge,
    Pipeline,
    Resilience,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
)
from resilience.retry import no_waits
from resilience.server import RequestContext
from resilience.timeout import Deadline
from resilience_http import per_host


def busy_connections(client: Any) -> int:
    """Return how many connections of the pool are neither idle nor closed."""
    guarded: Any = client._transport
    pool = guarded.inner._pool  # httpx shows it nowhere else
    return sum(not (connection.is_idle() or connection.is_closed()) for connection in pool.connections)


@pytest.mark.parametrize(
    "make", [lambda: Bulkhead(1), lambda: per_host(lambda _host: Bulkhead(1))], ids=["one", "per host"]
)
async def test_stream_holds_its_place(upstream: Upstream, make: Callable[[], Any], httpx: Any, transport: Any) -> None:
    """A streamed answer holds its place in a bulkhead until it is closed, read to the end or not."""
    async with httpx.AsyncClient(transport=transport(make())) as client:
        for is_read in (True, False):
            async with client.stream("GET", upstream.url) as response:
                with pytest.raises(BulkheadFullError):
                    await client.get(upstream.url)
                if is_read:
                    await response.aread()
                    assert (await client.get(upstream.url)).status_code == 200
        assert (await client.get(upstream.url)).status_code == 200


def test_blocking_stream_holds_its_place(upstream: Upstream, httpx: Any, guards: Any) -> None:
    """The same holds for a stream read in a thread."""
    guarded = guards.ResilienceTransport(resilience=Resilience(), pipeline=Pipeline("p", Bulkhead(1)))
    with httpx.Client(transport=guarded) as client:
        with client.stream("GET", upstream.url), pytest.raises(BulkheadFullError):
            client.get(upstream.url)
        assert client.get(upstream.url).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "first"), [("application/json", b" " * 1_100_000), ("application/zip", b"PK")]
)
async def test_envelopes_are_not_looked_for_without_end(
    serve: Callable[[Any], str], content_type: str, first: bytes, httpx: Any, transport: Any
) -> None:
    """What may be an envelope is read up to 1 MiB, anything else not at all; a stream goes on from its first byte."""
    bulkhead = Bulkhead(1)
    for is_read in (True, False):
        upstream = Halting(content_type, first, b"the end")
        async with (
            httpx.AsyncClient(transport=transport(bulkhead, raises_envelopes=True)) as client,
            client.stream("GET", serve(upstream)) as response,
        ):
            upstream.go_on.set()
            assert not bulkhead.is_idle
            assert not is_read or await response.aread() == first + b"the end"
        assert bulkhead.is_idle


def test_blocking_search_for_envelopes_has_an_end(serve: Callable[[Any], str], httpx: Any, guards: Any) -> None:
    """The same holds for a stream read in a thread."""
    upstream, bulkhead = Halting("application/json", b" " * 1_100_000, b"the end"), Bulkhead(1)
    guarded = guards.ResilienceTransport(None, Resilience(), pipeline=Pipeline("p", bulkhead), raises_envelopes=True)
    with httpx.Client(transport=guarded) as client, client.stream("GET", serve(upstream)) as response:
        upstream.go_on.set()
        assert not bulkhead.is_idle
        assert response.read() == b" " * 1_100_000 + b"the end"
    assert bulkhead.is_idle


def test_small_bodies_that_hold_much(serve: Callable[[Any], str], httpx: Any, guards: Any) -> None:
    """A small body that is large once it is decoded is no envelope, and still there as it came."""
    packed = gzip.compress(b" " * 50_000_000)
    upstream = Halting("application/json", packed, content_encoding="gzip")
    upstream.go_on.set()
    guarded = guards.ResilienceTransport(None, Resilience(), raises_envelopes=True)
    with httpx.Client(transport=guarded) as client, client.stream("GET", serve(upstream)) as response:
        assert b"".join(response.iter_raw()) == packed


@pytest.mark.realtime
async def test_stream_is_not_read_ahead(upstream: Upstream, httpx: Any, transport: Any) -> None:
    """A stream's first bytes are there before its last, and a Timeout of the attempt ends with the head."""
    upstream.drips = 40
    async with (
        httpx.AsyncClient(transport=transport(Timeout(1))) as client,
        client.stream("GET", upstream.url) as response,
    ):
        started = time.monotonic()
        parts = response.aiter_raw()
        assert await anext(parts)
        assert time.monotonic() - started < 1
        assert len(b"".join([part async for part in parts])) > 39
        assert time.monotonic() - started > 1.5


@pytest.fixture
def dripping_head() -> Iterator[str]:
    """Serve one request by a head that comes byte by byte, for four seconds."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
                connection.sendall(bytes([byte]))
                time.sleep(0.1)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(5)
    listener.close()


@pytest.mark.realtime
@pytest.mark.parametrize("how", ["deadline", "policy"])
async def test_dripping_head_meets_the_deadline(dripping_head: str, how: str, httpx: Any, transport: Any) -> None:
    """A head that keeps every read timeout, byte by byte, is not waited for past the deadline, whoever set it."""
    policies = [Timeout(0.3)] if how == "policy" else []
    started = time.monotonic()
    async with httpx.AsyncClient(transport=transport(*policies)) as client:
        with Deadline.after(0.3 if how == "deadline" else 5), pytest.raises(DeadlineExceededError) as caught:
            await client.get(dripping_head)
    assert time.monotonic() - started < 3
    assert isinstance(caught.value, httpx.TimeoutException) or how == "policy"


async def test_another_timeout_is_not_ours(httpx: Any, guards: Any) -> None:
    """A `TimeoutError` that comes out of the transport inside is handed on as it is."""

    class Raising(httpx.AsyncBaseTransport):  # type: ignore[misc]  # of either library
        async def handle_async_request(self, request: Any) -> Any:
            raise TimeoutError("mine")

    guarded = guards.AsyncResilienceTransport(Raising(), Resilience(), pipeline=Pipeline("p"))
    async with httpx.AsyncClient(transport=guarded) as client:
        with Deadline.after(5), pytest.raises(TimeoutError, match="mine"):
            await client.get("http://nowhere.example")


async def test_dripping_body_meets_the_deadline(upstream: Upstream, httpx: Any, transport: Any) -> None:
    """A body that keeps every read timeout, byte by byte, is broken off at the caller's deadline."""
    upstream.drips = 100
    context = RequestContext(deadline=Deadline.after(0.4))
    async with httpx.AsyncClient(transport=transport()) as client:
        with context, pytest.raises(DeadlineExceededError) as caught:
            await client.get(upstream.url)
        assert isinstance(caught.value, httpx.TimeoutException)
        assert busy_connections(client) == 0


async def test_consumed_bodies_are_not_sent_again(upstream: Upstream, httpx: Any, transport: Any) -> None:
    """A body that cannot be had twice makes the request one that is made once, in this colour too."""

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    upstream.answers(503)
    async with httpx.AsyncClient(transport=transport(Retry(3))) as client:
        assert (await client.put(upstream.url, content=body())).status_code == 503
    assert [sent for _, _, sent in upstream.seen] == [b"ab"]


@pytest.mark.realtime  # it cancels at moments in real time
@pytest.mark.everywhere
@pytest.mark.parametrize("wait", [0.0, 0.01, 0.05, 0.1, 0.15, 0.2])
async def test_cancellation_leaves_nothing(upstream: Upstream, wait: float, httpx: Any, transport: Any) -> None:
    """Cancelled at any moment, a request gives back its place and its connection."""
    upstream.drips = 2
    upstream.delay = 0.05
    upstream.answers(503, b"x" * 100_000)
    bulkhead = Bulkhead(1)
    async with httpx.AsyncClient(transport=transport(Retry(5, wait_initial=0.02), bulkhead, connections=1)) as client:
        task = asyncio.create_task(client.get(upstream.url))
        await asyncio.sleep(wait)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert bulkhead.is_idle
        assert busy_connections(client) == 0
        upstream.drips, upstream.delay = 0, 0.0
        assert (await client.get(upstream.url)).status_code in {200, 503}


class Racing:
    """The first answer fails once a second one is on its way, which succeeds; closing either takes a moment."""

    def __init__(self, library: Any, seconds: float = 0.01) -> None:
        self.library, self.seconds = library, seconds
        self.open: set[Held] = set()
        self._is_raced, self._has_failed = asyncio.Event(), asyncio.Event()
        self._statuses = iter((503, 200))

    async def handle_async_request(self, request: Any) -> Any:
        status = next(self._statuses)
        if status == 503:
            await self._is_raced.wait()
            self._has_failed.set()
        else:
            self._is_raced.set()
            await self._has_failed.wait()
        return self.library.Response(status, stream=Held(self))


class Held:
    """The body of an answer that holds a connection until it is really closed."""

    def __init__(self, racing: Racing) -> None:
        self._racing = racing
        racing.open.add(self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"x"

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(self._racing.seconds)
        self._racing.open.discard(self)


async def race(racing: Racing, bulkhead: Bulkhead, at: int, *, is_late: bool) -> bool:
    """Make a hedged request and cancel it at its await number `at`; says whether it came to that."""
    guards = importlib.import_module(f"resilience_http.{racing.library.__name__}")
    guarded = guards.AsyncResilienceTransport(racing, Resilience(), pipeline=Pipeline("p", Hedge(0.001), bulkhead))
    request = guarded.handle_async_request(racing.library.Request("GET", "http://mock.example"))
    stepped = Stepped(request, at, is_late=is_late)

    async def run() -> Any:
        return await stepped

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if task.cancelled():
        return True
    assert racing.open == {task.result().stream.stream}  # the winner's, and no other
    await task.result().aclose()
    return False


@pytest.mark.parametrize("is_late", [False, True])
async def test_cancelled_at_every_await(httpx: Any, *, is_late: bool) -> None:
    """Whichever await of a hedged request is cancelled, closing the loser included: nothing stays open or held."""
    at, was_cancelled = 0, True
    while was_cancelled:
        at += 1
        assert at < 100
        racing, bulkhead = Racing(httpx), Bulkhead(2)
        was_cancelled = await race(racing, bulkhead, at, is_late=is_late)
        assert (racing.open, bulkhead.is_idle) == (set(), True), at
        assert asyncio.all_tasks() == {asyncio.current_task()}, at
    assert at > 2


async def test_nobody_waits_for_ever_for_the_end(httpx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request, cancelled or not, waits a while for answers nobody wants, and no longer; they are closed later."""
    monkeypatch.setattr("resilience_http._transports._bodies_aio._CLOSE_TIMEOUT", 0.01)
    racing, bulkhead = Racing(httpx, seconds=0.3), Bulkhead(2)
    at = 1
    while await race(racing, bulkhead, at, is_late=False) and not racing.open:
        at, racing = at + 1, Racing(httpx, seconds=0.3)
    assert racing.open
    while racing.open:
        await asyncio.sleep(0.01)
    assert bulkhead.is_idle


async def test_cancelled_waits_leave_no_connection(upstream: Upstream, httpx: Any, transport: Any) -> None:
    """Cancelled while a retry waits, a request closes the failed answer it had not read yet."""
    upstream.answers(503, b"x" * 300_000, retry_after="9")
    async with httpx.AsyncClient(transport=transport(Retry(2))) as client:
        task = asyncio.create_task(client.get(upstream.url))
        async with asyncio.timeout(10):
            while not upstream.seen:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert busy_connections(client) == 0


def test_interrupted_waits_leave_no_connection(upstream: Upstream, httpx: Any, guards: Any) -> None:
    """The same holds for a thread that is interrupted while a retry waits."""

    class Interrupting:
        def sleep(self, _seconds: float, /) -> None:
            raise KeyboardInterrupt

        def asleep(self, _seconds: float, /) -> Awaitable[None]:
            raise AssertionError

    upstream.answers(503, b"x" * 300_000)
    pipeline = Pipeline("p", Retry(2), sleeper=Interrupting())
    with httpx.Client(
        transport=guards.ResilienceTransport(httpx.HTTPTransport(), Resilience(), pipeline=pipeline)
    ) as client:
        with pytest.raises(KeyboardInterrupt):
            client.get(upstream.url)
        assert busy_connections(client) == 0


@pytest.mark.realtime
async def test_waits_hold_no_connection(upstream: Upstream, httpx: Any, transport: Any) -> None:
    """While a retry waits, the failed answer's connection is free for others."""
    upstream.answers(503, b"x" * 1000, retry_after="0.3")
    retry = Retry(2, on=httpx.HTTPStatusError)
    async with httpx.AsyncClient(transport=transport(retry, connections=1)) as client:
        waiting = asyncio.create_task(client.get(upstream.url))
        await asyncio.sleep(0.15)
        assert len(upstream.seen) == 1
        assert (await client.get(upstream.url, timeout=httpx.Timeout(5, pool=0.05))).status_code == 200
        assert not waiting.done()
        assert (await waiting).status_code == 200


@pytest.mark.realtime
async def test_hedges_repeat_what_may_be(upstream: Upstream, httpx: Any, transport: Any) -> None:
    """A hedge makes a late idempotent request again, the loser leaves no connection behind; others are made once."""
    upstream.delay = 0.3
    async with httpx.AsyncClient(transport=transport(Hedge(0.05, budget=None))) as client:
        assert (await client.get(upstream.url)).status_code == 200
        assert len(upstream.seen) == 2
        assert busy_connections(client) == 0
        assert (await client.post(upstream.url)).status_code == 200
        assert len(upstream.seen) == 3


def test_late_answers_are_closed(upstream: Upstream, httpx: Any, guards: Any) -> None:
    """A thread that is past its timeout closes the answer it gets in the end: nobody else would."""
    arrived = threading.Event()

    class Late(httpx.HTTPTransport):  # type: ignore[misc]  # of either library
        def handle_request(self, request: Any) -> Any:
            request.extensions["timeout"].deadline = None  # as an inner transport would be that knows no timeouts
            response = super().handle_request(request)
            arrived.set()
            return response

    upstream.delay = 0.3
    guarded = guards.ResilienceTransport(Late(), Resilience(), pipeline=Pipeline("p", Timeout(0.1)))
    with httpx.Client(transport=guarded) as client:
        with pytest.raises(DeadlineExceededError):
            client.get(upstream.url)
        assert arrived.wait(5)
        patience = time.monotonic() + 5
        while busy_connections(client) and time.monotonic() < patience:
            time.sleep(0.01)
        assert busy_connections(client) == 0


async def test_mocks_can_be_inside(upstream: Upstream, httpx: Any, guards: Any) -> None:
    """Transports that are no network (mocks, applications in process) are guarded like any other."""
    statuses = iter([503, 200, 200])
    mock = httpx.MockTransport(lambda _request: httpx.Response(next(statuses), json={"a": 1}))
    bulkhead = Bulkhead(1)
    guarded = guards.AsyncResilienceTransport(mock, Resilience(), pipeline=Pipeline("p", Retry(2), bulkhead))
    async with httpx.AsyncClient(transport=guarded, base_url="http://mock.example") as client:
        with no_waits():
            assert (await client.get("/")).json() == {"a": 1}
        assert bulkhead.is_idle
        in_process = guards.AsyncResilienceTransport(httpx.ASGITransport(upstream), Resilience())
        async with httpx.AsyncClient(transport=in_process, base_url="http://app.example") as other:
            assert (await other.get("/")).status_code == 200


def test_blocking_mocks_can_be_inside(httpx: Any, guards: Any) -> None:
    """A mock's answer, which nobody closes because it was never open, holds no place."""
    mock = httpx.MockTransport(lambda _request: httpx.Response(200, json={"a": 1}))
    guarded = guards.ResilienceTransport(mock, Resilience(), pipeline=Pipeline("p", Bulkhead(1)))
    with httpx.Client(transport=guarded, base_url="http://mock.example") as client:
        for _ in range(2):
            assert client.get("/").json() == {"a": 1}


def test_auth_flows_are_untouched(upstream: Upstream, httpx: Any, guards: Any) -> None:
    """An authentication that answers a challenge makes its requests as ever, each guarded by itself."""

    class Answering(httpx.Auth):  # type: ignore[misc]  # of either library
        def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
            response = yield request
            assert response.status_code == 401
            request.headers["Authorization"] = "token"
            yield request

    upstream.answers(401)
    with httpx.Client(transport=guards.ResilienceTransport(resilience=Resilience()), auth=Answering()) as client:
        assert client.get(upstream.url).status_code == 200
    assert [headers.get("authorization") for _, headers, _ in upstream.seen] == [None, "token"]


def test_local_shortage_is_not_the_hosts_fault(upstream: Upstream, httpx: Any, guards: Any) -> None:
    """A pool of our own that has no connection left does not open the host's circuit."""
    inner = httpx.HTTPTransport(limits=httpx.Limits(max_connections=1))
    guarded = guards.ResilienceTransport(
        inner, Resilience.from_env({"RESILIENCE_PIPELINE__HTTP__BREAKER__FAIL_MAX": "1"})
    )
    with httpx.Client(transport=guarded, timeout=httpx.Timeout(5, pool=0.02)) as client:
        with client.stream("GET", upstream.url), pytest.raises(httpx.PoolTimeout):
            client.get(upstream.url)
        assert client.get(upstream.url).status_code == 200


async def test_both_colours_share_a_pipeline(upstream: Upstream, httpx: Any, guards: Any) -> None:
    """One pipeline may guard clients of both colours: what one learns the other knows."""
    shared = Pipeline("p", CircuitBreaker(fail_max=1))
    upstream.answers(500)
    async with httpx.AsyncClient(
        transport=guards.AsyncResilienceTransport(None, Resilience(), pipeline=shared)
    ) as client:
        assert (await client.get(upstream.url)).status_code == 500
    blocking = guards.ResilienceTransport(None, Resilience(), pipeline=shared)
    with httpx.Client(transport=blocking) as client, pytest.raises(Exception, match="open"):
        await asyncio.to_thread(client.get, upstream.url)


@pytest.mark.parametrize("word", ["1796022264", "31536000", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_bad_node_does_not_close_a_host_for_years(word: str, httpx: Any, guards: Any) -> None:
    """With a default transport, an epoch as `Retry-After` ends the retry at once, and opens the circuit for minutes."""
    mock = httpx.MockTransport(lambda _request: httpx.Response(503, headers={"Retry-After": word}))
    transport = guards.ResilienceTransport(mock, Resilience())
    with httpx.Client(transport=transport) as client:
        for _ in range(20):
            assert client.get("http://shop.example/").status_code == 503
        with pytest.raises(CircuitOpenError) as refused:
            client.get("http://shop.example/")
    assert refused.value.retry_after is not None
    assert 200 < refused.value.retry_after <= 300


def test_a_thread_pool_guards_requests_that_may_do_harm_too(httpx: Any, guards: Any) -> None:
    """A pool of threads chooses the functions it runs, but it never calls twice: a POST runs in it as a GET does."""
    names: list[str] = []

    def answer(_request: object) -> Any:
        names.append(threading.current_thread().name)
        return httpx.Response(200)

    guard = guards.ResilienceTransport(httpx.MockTransport(answer), pipeline=Pipeline("p", ThreadPoolBulkhead(2)))
    with httpx.Client(transport=guard) as client:
        for method in ("GET", "POST"):
            client.request(method, "http://shop.example/")
    assert threading.current_thread().name not in names
    assert len(names) == 2
