"""The call objects of `grpc.aio`, guarded."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_upstream import Seen, Upstream, answering, failing, hanging

from resilience import (
    AppError,
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    Fallback,
    Hedge,
    Pipeline,
    Resilience,
    Retry,
    Timeout,
)
from resilience.errors import ResilienceError
from resilience.server import RequestContext
from resilience_grpc import aio_client_interceptors

UNAVAILABLE, CANCELLED, OK = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK
GET, LIST, PUT, CHAT = (f"/shop.Orders/{name}" for name in ("Get", "List", "Put", "Chat"))
Connect = Callable[..., Any]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture
async def connect(upstream: Upstream) -> AsyncIterator[Connect]:
    channels: list[Any] = []

    def connected(*policies: Any, around: Any = (), inside: Any = (), **named: Any) -> Any:
        guards = aio_client_interceptors(
            Resilience(), idempotent=["*"], pipeline=Pipeline("orders", *policies), **named
        )
        channels.append(
            grpc.aio.insecure_channel(
                upstream.target,
                options=[("grpc.enable_retries", 0)],
                interceptors=[*around, *guards, *inside],
            )
        )
        return channels[-1]

    yield connected
    for channel in channels:
        await channel.close()


def quick(attempts: int = 3) -> Retry:
    return Retry(attempts, wait_initial=0.001, wait_max=0.002)


async def patiently(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


async def ended(upstream: Upstream, number: int = 0) -> bool:
    """Wait until a call has ended at the server."""
    await patiently(lambda: len(upstream.seen) > number)
    return await asyncio.to_thread(upstream.seen[number].wait_until_ended)


def announcing(*answers: bytes) -> Any:
    """Send metadata before and after the responses."""

    def announce(seen: Seen) -> Iterator[bytes]:
        seen.context.send_initial_metadata((("ahead", "1"),))
        seen.context.set_trailing_metadata((("behind", "2"),))
        yield from answers

    return announce


async def reported(call: Any) -> tuple[Any, ...]:
    ahead, behind = await call.initial_metadata(), await call.trailing_metadata()
    return await call.code(), found(ahead, "ahead"), found(behind, "behind"), await call.details()


def found(metadata: Any, name: str) -> Any:
    return next((value for key, value in metadata if key == name), None)


async def messages(*each: bytes) -> AsyncIterator[bytes]:
    for message in each:
        yield message


def endless(seen: Seen) -> Iterator[bytes]:
    while not seen.ended.wait(0.01):
        yield b"more"


@pytest.mark.parametrize("method", [GET, PUT])
async def test_the_call_tells_of_the_attempt_that_answered(upstream: Upstream, connect: Connect, method: str) -> None:
    """Code and metadata are those of the RPC whose response it is, asked before or after it has come."""
    upstream.script = [failing()] if method == GET else []
    upstream.otherwise = announcing(b"fine")
    channel, seen = connect(quick()), list[Any]()
    call = channel.unary_unary(GET)(b"") if method == GET else channel.stream_unary(PUT)(messages(b"a"))
    call.add_done_callback(seen.append)
    assert not call.done()
    assert await reported(call) == (OK, "1", "2", "")
    assert await call == b"fine"
    assert await call == b"fine"
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    await patiently(lambda: seen == [call])
    call.add_done_callback(seen.append)
    assert seen == [call, call]


async def test_what_a_policy_gave_has_a_call_object_too(upstream: Upstream, connect: Connect) -> None:
    """A response that no server has sent comes with a call object with status OK."""
    upstream.otherwise = failing()
    call, seen = connect(Fallback(b"default")).unary_unary(GET)(b""), list[Any]()
    call.add_done_callback(seen.append)
    assert await call == b"default"
    assert await reported(call) == (OK, None, None, "")
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    assert await call.debug_error_string() == ""
    await call.wait_for_connection()
    await patiently(lambda: seen == [call])
    breaker = CircuitBreaker()
    breaker.open()
    assert await connect(Fallback(b"default"), breaker).stream_unary(PUT)(messages(b"a")) == b"default"


@pytest.mark.parametrize("method", [GET, PUT])
async def test_a_failed_call_can_be_asked_why(upstream: Upstream, connect: Connect, method: str) -> None:
    """Awaiting the call raises the error. The call object reports the same error."""
    upstream.otherwise = failing(trailing=(("behind", "2"),))
    channel = connect(CircuitBreaker(2))
    for _ in range(2):
        call = channel.unary_unary(GET)(b"") if method == GET else channel.stream_unary(PUT)(messages(b"a"))
        with pytest.raises(AppError):
            await call
        assert await reported(call) == (UNAVAILABLE, None, "2", "down")
        assert (call.done(), call.cancelled()) == (True, False)
    refused = channel.unary_unary(GET)(b"") if method == GET else channel.stream_unary(PUT)(messages(b"a"))
    assert await refused.code() is UNAVAILABLE
    with pytest.raises(CircuitOpenError) as caught:
        await refused
    error: Any = caught.value
    assert isinstance(error, grpc.aio.AioRpcError)
    assert pickle.loads(pickle.dumps(error)).code() is UNAVAILABLE


@pytest.mark.parametrize("how", ["task", "call", "wait_for", "timeout"])
@pytest.mark.parametrize("method", [GET, PUT, LIST, CHAT])
async def test_cancelling_reaches_the_server(upstream: Upstream, connect: Connect, method: str, how: str) -> None:
    """Any way to cancel a call cancels its attempt at the server. No policy counts it, and it keeps no place."""
    upstream.otherwise = hanging()
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(1)
    channel = connect(quick(), breaker, bulkhead)
    calls: list[Any] = []

    async def ask() -> Any:
        if method == GET:
            calls.append(channel.unary_unary(GET)(b""))
        elif method == PUT:
            calls.append(channel.stream_unary(PUT)(messages(b"a")))
        else:
            calls.append(channel.unary_stream(LIST)(b"") if method == LIST else channel.stream_stream(CHAT)(messages()))
            return [answer async for answer in calls[0]]
        return await calls[0]

    task: asyncio.Future[Any]
    if how == "wait_for":
        task = asyncio.ensure_future(asyncio.wait_for(ask(), 0.1))
    elif how == "timeout":

        async def timed() -> None:
            async with asyncio.timeout(0.1):
                await ask()

        task = asyncio.ensure_future(timed())
    else:
        task = asyncio.ensure_future(ask())
        await patiently(lambda: len(upstream.seen) == 1)
        assert bulkhead.concurrent_calls == 1
        task.cancel() if how == "task" else calls[0].cancel()
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await task
    if how in {"task", "call"} or upstream.seen:  # it may have been cancelled on its way
        assert await ended(upstream)
    await patiently(lambda: bulkhead.concurrent_calls == 0)
    assert breaker.current_state == "closed"
    assert len(upstream.seen) <= 1
    if how == "call":
        assert calls[0].cancelled()


async def test_cancelling_during_a_wait_between_attempts(upstream: Upstream, connect: Connect) -> None:
    """A call cancelled while its retry waits makes no other attempt."""
    upstream.otherwise = failing(trailing=(("grpc-retry-pushback-ms", "200"),))
    call = connect(quick()).unary_unary(GET)(b"")
    await patiently(lambda: len(upstream.seen) == 1)
    await asyncio.sleep(0.05)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is CANCELLED
    await asyncio.sleep(0.25)
    assert len(upstream.seen) == 1


async def test_hedged_attempts_are_cancelled_with_their_call(upstream: Upstream, connect: Connect) -> None:
    """Cancelling a hedged call cancels every attempt. Nothing goes on in the background."""
    upstream.otherwise = hanging()
    hedge, before = Hedge(0.02, max_hedges=2), asyncio.all_tasks()
    call = connect(hedge).unary_unary(GET)(b"")
    await patiently(lambda: len(upstream.seen) == 3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert all([await ended(upstream, number) for number in range(3)])
    await patiently(lambda: asyncio.all_tasks() == before)
    assert hedge.snapshot()["lingering"] == 0


async def test_nothing_is_left_behind(upstream: Upstream, connect: Connect) -> None:
    """After calls of every kind that end in every way, no task of ours is left."""
    channel = connect(quick(2), Hedge(0.05), CircuitBreaker(100), Bulkhead(10), Timeout(5))
    await channel.unary_unary(GET)(b"")
    before = len(asyncio.all_tasks())
    for behaviour in (answering(b"one", b"two"), failing(), failing(grpc.StatusCode.NOT_FOUND), failing(after=(b"x",))):
        upstream.otherwise = behaviour
        with contextlib.suppress(grpc.RpcError):
            await channel.unary_unary(GET)(b"")
        with contextlib.suppress(grpc.RpcError):
            await channel.stream_unary(PUT)(messages(b"a"))
        for call in (channel.unary_stream(LIST)(b""), channel.stream_stream(CHAT)(messages(b"a"))):
            with contextlib.suppress(grpc.RpcError):
                _ = [answer async for answer in call]
    del call
    gc.collect()
    await patiently(lambda: len(asyncio.all_tasks()) == before)


async def test_messages_can_be_written(upstream: Upstream, connect: Connect) -> None:
    """`write` and `done_writing` work through the policies, with `read` and with an awaited response."""
    channel = connect(CircuitBreaker(1), Bulkhead(2))
    put = channel.stream_unary(PUT)()
    for message in (b"a", b"b"):
        await put.write(message)
    await put.done_writing()
    assert await put == b"fine"
    assert upstream.seen[0].requests == [b"a", b"b"]

    def echo(iterator: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        yield from (request.upper() for request in iterator)

    handler = grpc.method_handlers_generic_handler("echo.Echo", {"Say": grpc.stream_stream_rpc_method_handler(echo)})
    upstream.serve(handler)
    chat = channel.stream_stream("/echo.Echo/Say")()
    await chat.wait_for_connection()
    for word in (b"one", b"two"):
        await chat.write(word)
        assert await chat.read() == word.upper()
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF
    assert await chat.code() is OK
    with pytest.raises(asyncio.InvalidStateError):
        await chat.write(b"late")


async def test_writing_to_a_refused_call_says_that_it_is_over(upstream: Upstream, connect: Connect) -> None:
    """A call that a policy has refused takes no messages, and reports the refusal."""
    breaker = CircuitBreaker()
    breaker.open()
    for call in (connect(breaker).stream_unary(PUT)(), connect(breaker).stream_stream(CHAT)()):
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"a")
        assert await call.code() is UNAVAILABLE
    assert upstream.seen == []


@pytest.mark.parametrize("style", ["iterate", "read"])
async def test_streams_are_read_in_either_style(upstream: Upstream, connect: Connect, style: str) -> None:
    """`async for` and `read` return the responses of the attempt that has any, and then the end."""
    upstream.script = [failing(), failing()]
    upstream.otherwise = announcing(b"one", b"two")
    call, seen = connect(quick()).unary_stream(LIST)(b""), list[Any]()
    call.add_done_callback(seen.append)
    if style == "iterate":
        assert [answer async for answer in call] == [b"one", b"two"]
    else:
        assert [await call.read(), await call.read(), await call.read()] == [b"one", b"two", grpc.aio.EOF]
    assert await reported(call) == (OK, "1", "2", "")
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    await patiently(lambda: seen == [call])
    assert upstream.attempts == [None, "1", "2"]


@pytest.mark.parametrize("ask", ["code", "details", "initial_metadata", "trailing_metadata", "debug_error_string"])
async def test_a_stream_that_fails_can_be_asked_why(upstream: Upstream, connect: Connect, ask: str) -> None:
    """Whichever member is used first, all attempts are made, and reading raises the error."""
    upstream.otherwise = failing(trailing=(("behind", "2"),))
    call, seen = connect(quick()).unary_stream(LIST)(b""), list[Any]()
    call.add_done_callback(seen.append)
    await getattr(call, ask)()
    assert len(upstream.seen) == 3
    assert await reported(call) == (UNAVAILABLE, None, "2", "down")
    with pytest.raises(AppError):
        await call.read()
    assert call.done()
    assert seen == [call]


async def test_a_stream_sends_metadata_ahead(upstream: Upstream, connect: Connect) -> None:
    """Initial metadata are there before the first response, for streams that can and cannot be repeated."""

    def announce(seen: Seen) -> Iterator[bytes]:
        seen.context.send_initial_metadata((("ahead", "1"),))
        seen.ended.wait(5)
        yield from ()

    upstream.otherwise = announce
    for call in (connect().unary_stream(LIST)(b""), connect().stream_stream(CHAT)(messages(b"a"))):
        async with asyncio.timeout(5):
            assert found(await call.initial_metadata(), "ahead") == "1"
        assert not call.done()
        call.cancel()


async def test_a_stream_that_is_left_ends(upstream: Upstream, connect: Connect) -> None:
    """A stream left half-way ends with `cancel`, even if the call object lives on, and frees its place."""
    upstream.otherwise = endless
    bulkhead = Bulkhead(1)
    channel = connect(bulkhead)
    call = channel.unary_stream(LIST)(b"")
    async for _ in call:
        break
    assert bulkhead.concurrent_calls == 1
    assert call.cancel()
    await patiently(lambda: bulkhead.concurrent_calls == 0)
    assert await ended(upstream)
    async with asyncio.timeout(5):
        assert await call.code() is CANCELLED


async def iterated(call: Any) -> None:
    async for _ in call:
        break


async def interrupted(call: Any) -> None:
    with contextlib.suppress(TimeoutError):
        async for _ in call:  # the call has reached the server before it is left
            async with asyncio.timeout(0.05):
                await asyncio.sleep(5)


async def read_once(call: Any) -> None:
    await call.read()


@pytest.mark.parametrize("collector", ["here", "elsewhere"])
@pytest.mark.parametrize(
    ("leave", "method", "requests"),
    [
        (iterated, LIST, b""),
        (interrupted, LIST, b""),
        (read_once, LIST, b""),
        (iterated, CHAT, [b"a"]),
        (read_once, CHAT, [b"a"]),
    ],
)
async def test_a_stream_nobody_holds_ends(
    upstream: Upstream, connect: Connect, leave: Any, method: str, requests: Any, collector: str
) -> None:
    """A call left half-way is cancelled when its object is collected, in whichever thread."""
    upstream.otherwise = endless
    loop, complaints = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    bulkhead = Bulkhead(9)
    channel = connect(quick(), bulkhead)
    start = channel.unary_stream(LIST) if method == LIST else channel.stream_stream(CHAT)
    for _ in range(3):
        await leave(start(requests))
    if collector == "elsewhere":
        await asyncio.to_thread(gc.collect)
    # More than once: grpcio's own task may still hold a call when the first collection comes.
    await patiently(lambda: (gc.collect(), bulkhead.concurrent_calls)[1] == 0)
    assert [await ended(upstream, number) for number in range(3)] == [True] * 3
    assert complaints == []


@pytest.mark.realtime
async def test_a_stream_somebody_waits_for_goes_on(upstream: Upstream, connect: Connect) -> None:
    """A call with a done callback is not cancelled while it is in flight."""
    upstream.otherwise = endless
    over: list[Any] = []
    bulkhead = Bulkhead(9)
    call = connect(bulkhead).unary_stream(LIST)(b"", timeout=2)
    call.add_done_callback(over.append)
    await iterated(call)
    del call
    gc.collect()
    await asyncio.sleep(0.05)
    assert (over, bulkhead.concurrent_calls) == ([], 1)
    await patiently(lambda: len(over) == 1)
    over.pop().cancel()
    await patiently(lambda: bulkhead.concurrent_calls == 0)


async def test_a_stream_that_has_ended_unread_gives_its_place_back(upstream: Upstream, connect: Connect) -> None:
    """Cancelling a call that has ended, but was not read to its end, frees its place."""
    upstream.otherwise = endless
    bulkhead = Bulkhead(1)
    call = connect(bulkhead).unary_stream(LIST)(b"", timeout=0.2)
    await call.read()
    await patiently(call.done)
    assert bulkhead.concurrent_calls == 1
    assert not call.cancel()
    await patiently(lambda: bulkhead.concurrent_calls == 0)


async def test_a_channel_is_closed_over_its_calls(upstream: Upstream, connect: Connect) -> None:
    """Closing a channel ends all calls on it, whatever they wait for."""
    upstream.otherwise = hanging()
    channel = connect(quick(), Bulkhead(9))
    calls = [
        channel.unary_stream(LIST)(b""),
        channel.stream_stream(CHAT)(messages(b"a")),
        channel.stream_unary(PUT)(messages(b"a")),
        channel.unary_unary(GET)(b""),
    ]
    await patiently(lambda: len(upstream.seen) == 4)
    async with asyncio.timeout(5):
        await channel.close()
    for call in calls:
        async with asyncio.timeout(5):
            assert await call.code() is CANCELLED


async def test_unread_errors_are_not_reported(upstream: Upstream, connect: Connect) -> None:
    """asyncio logs nothing about a call that fails and is never awaited."""
    upstream.otherwise = failing()
    loop, complaints = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    channel = connect()
    for _ in range(2):
        put, listing = channel.stream_unary(PUT)(messages(b"a")), channel.unary_stream(LIST)(b"")
        await put.code()
        await listing.code()
        del put, listing
    gc.collect()
    await asyncio.sleep(0)
    assert [context for context in complaints if "resilience" in str(context)] == []


async def test_given_arguments_reach_grpc(upstream: Upstream, connect: Connect) -> None:
    """`wait_for_ready`, credentials and metadata (where the compression is) are passed on to every attempt."""
    seen: list[Any] = []

    class Last(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            details = client_call_details
            sent = [(name if isinstance(name, str) else name.decode(), value) for name, value in details.metadata]
            seen.append((details.wait_for_ready, details.credentials, details.timeout, dict(sent)))
            return await continuation(client_call_details, request)

    upstream.script = [failing()]
    channel = connect(quick(), inside=[Last()])
    await channel.unary_unary(GET)(b"", wait_for_ready=True, compression=grpc.Compression.Gzip, metadata=(("k", "v"),))
    sent = {"k": "v", "grpc-internal-encoding-request": "gzip"}
    assert seen == [(True, None, None, sent), (True, None, None, {**sent, "grpc-previous-rpc-attempts": "1"})]


class _Outer(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor of the user, which awaits the call object of grpc.aio."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        self.seen.append(await call.code())
        return call


@pytest.mark.parametrize("place", ["around", "inside"])
async def test_interceptors_of_others_see_what_they_are_used_to(
    upstream: Upstream, connect: Connect, place: str
) -> None:
    """An interceptor outside of ours gets a call that has ended. An interceptor inside gets each attempt."""
    other = _Outer()
    channel = connect(quick(2), **{place: [other]})
    upstream.script = [failing()]
    assert await channel.unary_unary(GET)(b"") == b"fine"
    assert other.seen == ([OK] if place == "around" else [UNAVAILABLE, OK])


class _OuterStreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        self.calls.append(await continuation(client_call_details, request_iterator))
        return self.calls[-1]


class _OuterUnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.calls.append(await continuation(client_call_details, request))
        return self.calls[-1]


class _OuterUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.calls.append(await continuation(client_call_details, request))
        return self.calls[-1]


async def _read(call: Any) -> Any:
    return [each async for each in call]


@pytest.mark.parametrize("how", ["failed", "refused"])
@pytest.mark.parametrize(
    ("other", "start", "end"),
    [
        (_OuterUnary, lambda channel: channel.unary_unary(GET)(b""), lambda call: call),
        (_OuterStreamUnary, lambda channel: channel.stream_unary(PUT)(iter([b""])), lambda call: call),
        (_OuterUnaryStream, lambda channel: channel.unary_stream(LIST)(b""), _read),
        (_OuterUnaryStream, lambda channel: channel.unary_stream(LIST)(b""), lambda call: call.read()),
    ],
    ids=["unary_unary", "stream_unary", "unary_stream", "read"],
)
async def test_an_interceptor_before_ours_gets_the_failed_call(
    upstream: Upstream, connect: Connect, other: Any, start: Any, end: Any, how: str
) -> None:
    """As without ours: `await continuation(...)` raises nothing; the call says how it ended, and awaiting it raises."""
    breaker, is_refused = CircuitBreaker(1), how == "refused"
    upstream.otherwise = failing()
    seen, bare = other(), other()
    channels, error = [connect(breaker, around=[seen])], None
    if is_refused:
        breaker.open()
    else:  # grpcio's own behaviour is the reference
        channels.append(grpc.aio.insecure_channel(upstream.target, interceptors=[bare]))
    for channel in channels:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await end(start(channel))
        error = error or caught.value
    call = seen.calls[0]
    if is_refused or other is not _OuterUnaryStream:  # a stream that began has been read to its end
        with pytest.raises(CircuitOpenError if is_refused else grpc.aio.AioRpcError) as again:
            await end(call)
        assert again.value is error
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is UNAVAILABLE
    assert (await call.code(), await call.details()) == (UNAVAILABLE, error.details())
    assert list(await call.initial_metadata()) == []
    assert isinstance(await call.debug_error_string(), str)
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    done: list[Any] = []
    call.add_done_callback(done.append)
    assert len(done) == 1
    if not is_refused:
        assert (await bare.calls[0].code(), bare.calls[0].done()) == (await call.code(), call.done())
        await channels[1].close()


class _Eager(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor of the user, which waits for the response and raises its error."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await (await continuation(client_call_details, request))


async def test_errors_raised_by_other_interceptors_are_understood(upstream: Upstream, connect: Connect) -> None:
    """An attempt that an inner interceptor made to the end is retried, scored and decoded like any other."""
    breaker = CircuitBreaker(1)
    channel = connect(quick(), breaker, inside=[_Eager()])
    upstream.otherwise = failing(grpc.StatusCode.NOT_FOUND)
    for _ in range(2):
        with pytest.raises(ResilienceError) as caught:
            await channel.unary_unary(GET)(b"")
        assert caught.value.code == "NOT_FOUND"
    assert breaker.current_state == "closed"
    breaker.close()
    upstream.script = [failing()]
    upstream.otherwise = answering(b"fine")
    assert await connect(quick(), inside=[_Eager()]).unary_unary(GET)(b"") == b"fine"


@pytest.mark.realtime
async def test_the_context_of_the_task_counts(upstream: Upstream, connect: Connect) -> None:
    """Deadline and request id are those of the task that makes the call, for each of many at once."""
    channel = connect(quick(), Timeout(5))

    async def ask(number: int) -> None:
        with RequestContext(f"r-{number}"), Deadline.after(2 + number):
            await channel.unary_unary(GET)(str(number).encode())
            _ = [answer async for answer in channel.unary_stream(LIST)(str(number).encode())]

    await asyncio.gather(*[ask(number) for number in range(5)])
    for seen in upstream.seen:
        number = int(seen.requests[0])
        assert seen.metadata["x-request-id"] == f"r-{number}"
        most = number + 2 if seen.method == "List" else min(number + 2, 5)
        assert most - 1 < seen.remaining < most * 1.02  # on the wire a timeout has few digits, rounded up


def test_several_loops_share_the_policies(upstream: Upstream) -> None:
    """One set of interceptors serves channels on loops of several threads, with one state."""
    breaker = CircuitBreaker(fail_max=10_000)
    interceptors = aio_client_interceptors(Resilience(), pipeline=Pipeline("orders", breaker, Bulkhead(100)))
    done: list[bytes] = []

    async def ask() -> None:
        channel: Any
        async with grpc.aio.insecure_channel(upstream.target, interceptors=interceptors) as channel:
            done.extend(await asyncio.gather(*[channel.unary_unary(GET)(b"") for _ in range(20)]))

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == [b"fine"] * 60
