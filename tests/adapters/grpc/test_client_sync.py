"""The call objects of `grpc`, guarded."""

from __future__ import annotations

import gc
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_upstream import Seen, Upstream, answering, failing, hanging

from resilience import (
    AppError,
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    Hedge,
    Pipeline,
    Resilience,
    Retry,
    Timeout,
)
from resilience.server import RequestContext
from resilience_grpc import client_interceptors

UNAVAILABLE, CANCELLED, OK = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK
GET, LIST, PUT, CHAT = (f"/shop.Orders/{name}" for name in ("Get", "List", "Put", "Chat"))
Connect = Callable[..., Any]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture
def connect(upstream: Upstream) -> Iterator[Connect]:
    channels: list[Any] = []

    def connected(*policies: Any, around: Any = (), inside: Any = (), **named: Any) -> Any:
        named.setdefault("pipeline", Pipeline("orders", *policies))
        guards = client_interceptors(Resilience(), idempotent=["*"], **named)
        bare = grpc.insecure_channel(upstream.target, options=[("grpc.enable_retries", 0)])
        channels.append(bare)
        return grpc.intercept_channel(bare, *around, *guards, *inside)

    yield connected
    for channel in channels:
        channel.close()


def quick(attempts: int = 3) -> Retry:
    return Retry(attempts, wait_initial=0.001, wait_max=0.002)


def patiently(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


def announcing(*answers: bytes) -> Any:
    """Send metadata before and after the responses."""

    def announce(seen: Seen) -> Iterator[bytes]:
        seen.context.send_initial_metadata((("ahead", "1"),))
        seen.context.set_trailing_metadata((("behind", "2"),))
        yield from answers

    return announce


def reported(call: Any) -> tuple[Any, ...]:
    return call.code(), dict(call.initial_metadata()).get("ahead"), dict(call.trailing_metadata()).get("behind")


@pytest.mark.parametrize("hedges", [False, True])
def test_with_call_tells_of_the_attempt_that_answered(upstream: Upstream, connect: Connect, *, hedges: bool) -> None:
    """Code and metadata are those of the RPC whose response it is, not of an earlier attempt."""
    upstream.script = [failing(), announcing(b"fine")]
    channel = connect(quick(), *([Hedge(5)] if hedges else []))
    response, call = channel.unary_unary(GET).with_call(b"")
    assert (response, *reported(call), call.details()) == (b"fine", OK, "1", "2", "")
    upstream.script = [announcing(b"fine")]
    response, call = channel.stream_unary(PUT).with_call(iter([b"a"]))
    assert (response, *reported(call)) == (b"fine", OK, "1", "2")


def test_what_a_policy_gave_has_a_call_object_too(upstream: Upstream, connect: Connect) -> None:
    """A response that no server has sent comes with a call object with status OK."""
    upstream.otherwise = failing()
    channel = connect(Fallback(b"default"))
    response, call = channel.unary_unary(GET).with_call(b"")
    assert (response, *reported(call), call.details(), call.result(), call.exception()) == (
        b"default",
        OK,
        None,
        None,
        "",
        b"default",
        None,
    )
    assert (call.done(), call.is_active(), call.cancel(), call.cancelled(), call.running()) == (
        True,
        False,
        False,
        False,
        False,
    )
    assert (call.traceback(), call.time_remaining(), call.add_callback(print)) == (None, None, False)
    seen: list[Any] = []
    call.add_done_callback(seen.append)
    assert seen == [call]
    future = channel.unary_unary(GET).future(b"")
    assert (future.result(5), future.code()) == (b"default", OK)


@pytest.mark.parametrize("later", [PUT, GET])
def test_a_future_is_a_call_under_way(upstream: Upstream, connect: Connect, later: str) -> None:
    """`future` returns at once; result, code and metadata are there when it has ended, and callbacks are called."""
    upstream.otherwise = announcing(b"fine")
    release = threading.Event()

    def held(seen: Seen) -> Iterator[bytes]:
        release.wait(5)
        yield from announcing(b"fine")(seen)

    upstream.script = [held] if later == PUT else [failing(), held]
    channel, seen = connect(quick()), queue.SimpleQueue[Any]()
    begin = channel.stream_unary(PUT).future if later == PUT else channel.unary_unary(GET).future
    future = begin(iter([b"a"]) if later == PUT else b"a", metadata=(("k", "v"),))
    future.add_done_callback(seen.put)
    assert future.add_callback(lambda: seen.put("callback"))
    assert (future.done(), future.running(), future.is_active(), future.cancelled()) == (False, True, True, False)
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(grpc.FutureTimeoutError):
        future.exception(timeout=0.01)
    release.set()
    assert future.result(timeout=5) == b"fine"
    assert (*reported(future), future.details(), future.exception(), future.traceback()) == (
        OK,
        "1",
        "2",
        "",
        None,
        None,
    )
    assert [seen.get(timeout=5), seen.get(timeout=5)] == [future, "callback"]
    assert (future.done(), future.cancel(), future.time_remaining()) == (True, False, None)
    assert upstream.seen[-1].metadata["k"] == "v"


def test_a_future_fails_with_the_errors_of_calls(upstream: Upstream, connect: Connect) -> None:
    """`result` raises the error, `exception` returns it, and the error has the status and metadata of the call."""
    upstream.otherwise = failing(trailing=(("behind", "2"),))
    future = connect(quick()).unary_unary(GET).future(b"")
    with pytest.raises(AppError) as caught:
        future.result(timeout=5)
    assert future.exception() is caught.value
    assert future.traceback() is not None
    assert (future.code(), future.details(), dict(future.trailing_metadata())) == (UNAVAILABLE, "down", {"behind": "2"})
    assert len(upstream.seen) == 3


def test_a_future_that_is_refused_says_so(upstream: Upstream, connect: Connect) -> None:
    """A refusal is the error of the future, of both families. Nothing is raised when the future is made."""
    breaker = CircuitBreaker()
    breaker.open()
    future = connect(breaker).unary_unary(GET).future(b"")
    assert isinstance(future.exception(5), CircuitOpenError)
    assert future.code() is UNAVAILABLE
    broken = connect().unary_unary(GET, request_serializer=lambda _request: 1 / 0).future(b"")
    assert isinstance(broken.exception(5), Exception)
    assert broken.code() is grpc.StatusCode.INTERNAL
    assert upstream.seen == []


def test_a_future_can_be_cancelled(upstream: Upstream, connect: Connect) -> None:
    """Cancelling ends the attempt in flight at the server, and any wait between attempts."""
    upstream.otherwise = hanging()
    bulkhead = Bulkhead(1)
    future = connect(quick(), bulkhead).unary_unary(GET).future(b"")
    patiently(lambda: len(upstream.seen) == 1)
    assert future.cancel()
    assert upstream.seen[0].wait_until_ended()
    assert (future.cancelled(), future.done(), future.code()) == (True, True, CANCELLED)
    for ask in (future.result, future.exception):
        with pytest.raises(grpc.FutureCancelledError):
            ask()
    assert dict(future.trailing_metadata()) == {}
    patiently(lambda: bulkhead.concurrent_calls == 0)


def test_many_futures_need_no_threads(upstream: Upstream, connect: Connect) -> None:
    """One thread of ours drives a hundred calls in flight, retries included."""
    channel = connect(quick(50), CircuitBreaker(1000))
    channel.unary_unary(GET).future(b"").result(5)
    upstream.script = [failing()] * 50
    before = threading.active_count()
    futures = [channel.unary_unary(GET).future(b"") for _ in range(100)]
    assert threading.active_count() <= before + 20  # the server's own
    assert [future.result(10) for future in futures] == [b"fine"] * 100


@pytest.mark.realtime
def test_a_future_has_the_callers_context(upstream: Upstream, connect: Connect) -> None:
    """Deadline and request id are those of the caller, though the attempts are made by another thread."""
    with RequestContext("r-1"), Deadline.after(2):
        future = connect().unary_unary(GET).future(b"")
    assert future.result(5) == b"fine"
    assert upstream.seen[0].metadata["x-request-id"] == "r-1"
    assert upstream.seen[0].remaining < 2


def test_a_future_is_hedged(upstream: Upstream, connect: Connect) -> None:
    """A late future has a second attempt, and the one that lost is cancelled at the server."""
    upstream.script = [hanging()]
    future = connect(Hedge(0.02), Timeout(5)).unary_unary(GET).future(b"")
    assert future.result(5) == b"fine"
    assert upstream.seen[0].wait_until_ended()
    assert upstream.attempts == [None, "1"]


def test_an_interrupt_cancels_the_attempts(upstream: Upstream, connect: Connect) -> None:
    """KeyboardInterrupt in the caller leaves no attempt of a race behind."""
    upstream.otherwise = hanging()

    def acceptable(_result: Any) -> bool:
        raise KeyboardInterrupt

    hedge = Hedge(0.02, acceptable=acceptable)
    upstream.script = [hanging(), answering(b"fine")]
    with pytest.raises(KeyboardInterrupt):
        connect(hedge).unary_unary(GET)(b"")
    assert all(seen.wait_until_ended() for seen in upstream.seen)
    patiently(lambda: hedge.snapshot()["busy_threads"] == 0)


def test_given_arguments_reach_grpc(upstream: Upstream, connect: Connect) -> None:
    """`wait_for_ready`, compression and credentials are passed on untouched to every attempt."""
    seen: list[Any] = []

    class Last(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            details = client_call_details
            seen.append((details.wait_for_ready, details.compression, details.credentials, details.method))
            return continuation(client_call_details, request)

    upstream.script = [failing()]
    channel = connect(quick(), inside=[Last()])
    channel.unary_unary(GET)(b"", wait_for_ready=True, compression=grpc.Compression.Gzip)
    assert seen == [(True, grpc.Compression.Gzip, None, GET)] * 2
    upstream.script = [hanging()]
    assert connect(Hedge(0.02)).unary_unary(GET)(b"", wait_for_ready=True, compression=grpc.Compression.Gzip) == b"fine"


class _Outer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """An interceptor of the user, which looks at the call objects of grpcio."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        outcome = continuation(client_call_details, request)
        self.seen.append((outcome.code(), outcome.done(), outcome.cancelled(), outcome.exception() is None))
        return outcome

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return iter(list(continuation(client_call_details, request)))


@pytest.mark.parametrize("place", ["around", "inside"])
def test_interceptors_of_others_see_what_they_are_used_to(upstream: Upstream, connect: Connect, place: str) -> None:
    """An interceptor outside of ours gets errors as call objects. One inside may return a plain iterator."""
    other = _Outer()
    channel = connect(quick(2), **{place: [other]})
    assert channel.unary_unary(GET)(b"") == b"fine"
    upstream.otherwise = failing()
    with pytest.raises(grpc.RpcError):
        channel.unary_unary(GET)(b"")
    failed = (UNAVAILABLE, True, False, False)
    assert other.seen == [(OK, True, False, True), *[failed] * (1 if place == "around" else 2)]
    upstream.otherwise = answering(b"one")
    assert list(channel.unary_stream(LIST)(b"")) == [b"one"]


def test_an_error_is_an_outcome(upstream: Upstream, connect: Connect) -> None:
    """Our errors have all members of grpcio's own, and cross processes."""
    upstream.otherwise = failing()
    with pytest.raises(grpc.RpcError) as caught:
        connect().unary_unary(GET)(b"")
    error: Any = caught.value
    assert (error.done(), error.running(), error.cancel(), error.cancelled(), error.is_active()) == (
        True,
        False,
        False,
        False,
        False,
    )
    assert (error.time_remaining(), error.add_callback(print), error.exception()) == (None, False, error)
    assert error.traceback() is error.__traceback__
    assert "down" in error.debug_error_string()
    seen: list[Any] = []
    error.add_done_callback(seen.append)
    assert seen == [error]
    with pytest.raises(grpc.RpcError):
        error.result()
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.code, back.code(), str(back), repr(back)) == (
        type(error),
        error.code,
        UNAVAILABLE,
        "UNAVAILABLE: down",
        "<AppError UNAVAILABLE: down>",
    )
    assert (dict(back.details), back.details()) == ({}, "down")


def test_a_stream_begins_at_once(upstream: Upstream, connect: Connect) -> None:
    """The server is called when the call is made, not when a response is read."""
    upstream.otherwise = announcing(b"one", b"two")
    for method in (LIST, CHAT):
        upstream.seen.clear()
        call = connect().unary_stream(LIST)(b"") if method == LIST else connect().stream_stream(CHAT)(iter([b"a"]))
        patiently(lambda: len(upstream.seen) == 1)
        assert dict(call.initial_metadata())["ahead"] == "1"
        assert (next(call), next(call), next(call, None)) == (b"one", b"two", None)
        assert (*reported(call), call.done(), call.is_active(), call.exception(), call.result()) == (
            OK,
            "1",
            "2",
            True,
            False,
            None,
            None,
        )
        assert (call.debug_error_string() is not None, call.cancel(), call.time_remaining()) == (True, False, None)


def test_a_stream_can_be_asked_before_it_is_read(upstream: Upstream, connect: Connect) -> None:
    """Asking for the status makes other attempts if they are needed, and loses no response."""
    upstream.script = [failing(), failing(), announcing(b"one")]
    call = connect(quick()).unary_stream(LIST)(b"")
    seen: list[Any] = []
    call.add_done_callback(seen.append)
    assert call.add_callback(lambda: seen.append("callback"))
    assert (call.done(), call.cancelled(), call.time_remaining()) == (False, False, None)
    assert reported(call) == (OK, "1", "2")
    assert list(call) == [b"one"]
    patiently(lambda: seen == [call, "callback"])
    assert call.result() is None


@pytest.mark.parametrize("ask", ["code", "initial_metadata", "exception"])
def test_a_stream_that_fails_can_be_asked_why(upstream: Upstream, connect: Connect, ask: str) -> None:
    """Whichever member is used first, all attempts are made, and each read raises the error."""
    upstream.otherwise = failing(trailing=(("behind", "2"),))
    call = connect(quick()).unary_stream(LIST)(b"")
    seen: list[Any] = []
    call.add_done_callback(seen.append)
    getattr(call, ask)()
    assert len(upstream.seen) == 3
    assert (call.code(), call.details(), dict(call.trailing_metadata())) == (UNAVAILABLE, "down", {"behind": "2"})
    for _ in range(2):
        with pytest.raises(AppError):
            next(call)
    with pytest.raises(AppError):
        call.result()
    call.add_done_callback(seen.append)
    assert seen == [call, call]


def test_a_stream_that_is_refused_raises_when_it_is_read(upstream: Upstream, connect: Connect) -> None:
    """As in grpcio, the call object is returned first. It reports and raises the refusal."""
    breaker = CircuitBreaker()
    breaker.open()
    for call in (connect(breaker).unary_stream(LIST)(b""), connect(breaker).stream_stream(CHAT)(iter([]))):
        assert (call.code(), call.done(), call.cancel()) == (UNAVAILABLE, True, False)
        with pytest.raises(CircuitOpenError):
            next(call)
    assert upstream.seen == []


@pytest.mark.parametrize("is_read", [False, True])
def test_a_stream_can_be_cancelled(upstream: Upstream, connect: Connect, *, is_read: bool) -> None:
    """Cancelling ends the call at the server and frees its place. The next read raises CANCELLED."""

    def endless(seen: Seen) -> Iterator[bytes]:
        yield b"one"
        seen.ended.wait(5)

    bulkhead, breaker = Bulkhead(1), CircuitBreaker(1)
    upstream.otherwise = endless
    call = connect(bulkhead, breaker).unary_stream(LIST)(b"")
    if is_read:
        assert next(call) == b"one"
    patiently(lambda: len(upstream.seen) == 1)
    assert bulkhead.concurrent_calls == 1
    call.cancel()
    assert upstream.seen[0].wait_until_ended()
    assert (bulkhead.concurrent_calls, breaker.current_state) == (0, "closed")
    assert (call.cancelled(), call.done(), call.code(), call.cancel()) == (True, True, CANCELLED, False)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is CANCELLED


def test_a_stream_is_cancelled_under_its_reader(upstream: Upstream, connect: Connect) -> None:
    """A thread that waits for a response gets CANCELLED when another thread cancels the call."""
    upstream.otherwise = hanging()
    bulkhead = Bulkhead(1)
    call, told_to = connect(quick(), bulkhead).unary_stream(LIST)(b""), queue.SimpleQueue[Any]()

    def read() -> None:
        try:
            next(call)
        except grpc.RpcError as error:
            told_to.put(error)

    reader = threading.Thread(target=read)
    reader.start()
    patiently(lambda: len(upstream.seen) == 1)
    time.sleep(0.05)
    call.cancel()
    assert told_to.get(timeout=5).code() is CANCELLED
    reader.join(5)
    assert (bulkhead.concurrent_calls, len(upstream.seen)) == (0, 1)


def test_a_stream_nobody_finishes_ends(upstream: Upstream, connect: Connect) -> None:
    """A stream that is left half-way ends at the server and frees its place."""

    def endless(seen: Seen) -> Iterator[bytes]:
        while not seen.ended.wait(0.01):
            yield b"more"

    upstream.otherwise = endless
    bulkhead = Bulkhead(1)
    for _ in connect(bulkhead).unary_stream(LIST)(b""):
        assert bulkhead.concurrent_calls == 1
        break
    gc.collect()
    assert upstream.seen[0].wait_until_ended()
    assert bulkhead.concurrent_calls == 0


def test_a_conversation_goes_both_ways(upstream: Upstream, connect: Connect) -> None:
    """Requests are sent while responses are read, through breaker and bulkhead."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def handle(iterator: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        yield from (request.upper() for request in iterator)

    handler = grpc.method_handlers_generic_handler("echo.Echo", {"Say": grpc.stream_stream_rpc_method_handler(handle)})
    upstream.serve(handler)
    call = connect(Bulkhead(1), CircuitBreaker(1)).stream_stream("/echo.Echo/Say")(iter(requests.get, None))
    for word in (b"one", b"two"):
        requests.put(word)
        assert next(call) == word.upper()
    requests.put(None)
    assert next(call, None) is None
    assert call.code() is OK


@pytest.mark.realtime
def test_a_streams_deadline_is_the_calls(upstream: Upstream, connect: Connect) -> None:
    """The timeout of a stream holds from its begin to its end, whenever it is read."""
    upstream.otherwise = hanging()
    call = connect(quick()).unary_stream(LIST)(b"", timeout=0.2)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        next(call)
    assert time.monotonic() - begun < 4
    assert len(upstream.seen) == 1


def test_a_child_process_has_futures_too(upstream: Upstream, connect: Connect) -> None:
    """After a fork, the thread that drives futures is the child's own."""
    from resilience_grpc.client import _sync_futures  # noqa: PLC0415 - the law under test

    async def process() -> int:
        return os.getpid()

    assert _sync_futures.submit(process).result(5) == os.getpid()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, str(_sync_futures.submit(process).result(5)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 100)) == child
    os.close(read)
    os.close(write)
