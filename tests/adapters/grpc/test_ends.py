"""Rare ends: waiting readers, many cancellations, other interceptors, streams that other threads send."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_shop import KINDS, Running, Tasks, Threads

from resilience import Deadline, Resilience
from resilience_grpc import aio_server_interceptors, server_interceptors
from resilience_grpc._method_names import is_infrastructure
from resilience_grpc.server._aio_deadline import TaskDeadlines
from resilience_grpc.server._handlers import HandlerCache


class Open:
    """Streamed requests that stop and never end by themselves."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.over = threading.Event()

    def __iter__(self) -> Iterator[str]:
        yield from self.texts
        self.over.wait(10)


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_readers_whose_client_leaves(serve: Any, stack: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A handler waiting for the next request of a client that leaves ends at once, and the log has no error."""
    shop = serve(stack)
    requests = Open("ok")
    call = getattr(shop.channel, kind)(f"/shop.Orders/{kind}", str.encode, bytes.decode)
    answer = call(iter(requests)) if kind.endswith("stream") else call.future(iter(requests))
    assert shop.busy()
    while "names" not in shop.shop.seen:
        time.sleep(0.005)
    with caplog.at_level(logging.INFO):
        answer.cancel()
        requests.over.set()
        assert shop.settled()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert shop.call(kind, "ok")[-1] == "ok!"


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_readers_past_their_deadline(serve: Any, stack: str, kind: str) -> None:
    """A handler that waits for the next request ends when its client no longer waits."""
    shop = serve(stack)
    requests = Open("ok")
    call = getattr(shop.channel, kind)(f"/shop.Orders/{kind}", str.encode, bytes.decode)
    answer = call(iter(requests), timeout=0.3) if kind.endswith("stream") else call.future(iter(requests), timeout=0.3)
    assert shop.busy()
    assert shop.settled()
    assert answer.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    requests.over.set()


def test_many_cancellations_leave_nothing_behind(serve: Any, stack: str) -> None:
    """Whenever clients leave, the count of requests in flight returns to 0, and every place is freed."""
    settings = {"SERVER__MAX_CONCURRENT_REQUESTS": "6", "SERVER__DEADLINE": "50ms"}
    shop = serve(stack, settings, threads=6)
    chance = random.Random(7)
    with futures.ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda seed: _meddle(shop, random.Random(seed)), [chance.random() for _ in range(8)]))
    assert shop.settled()
    time.sleep(0.1)
    shop.shop.release.set()
    calls = [shop.start("unary_unary", "wait") for _ in range(6)]
    assert [call.result() for call in calls] == ["wait!"] * 6
    assert shop.settled()


def _meddle(shop: Running, chance: random.Random) -> None:
    for _ in range(12):
        kind, text = chance.choice(KINDS), chance.choice(["ok", "app", "abort", "sleep0.005", "sleep0.1", "forever"])
        call = shop.start(kind, text, timeout=chance.choice([0.004, 0.03, 1]))
        time.sleep(chance.random() * 0.02)
        if chance.random() < 0.7:
            call.cancel()
        else:
            call.code()


def test_waiting_for_a_thread_is_not_work(serve: Any) -> None:
    """On grpc.aio a plain function whose client leaves before there is a thread for it never begins."""
    shop = serve("aio-plain", threads=1)
    first = shop.start("unary_unary", "wait")
    assert shop.shop.waits.wait(5)
    second = shop.start("unary_unary", "never")
    assert shop.busy(2)
    second.cancel()
    while shop.toolkit.lifecycle.in_flight == 2:
        time.sleep(0.005)
    shop.shop.release.set()
    assert first.result() == "wait!"
    assert shop.settled()
    assert shop.shop.seen["names"] == ["wait"]


def test_a_bad_key_is_a_fault(serve: Any, stack: str) -> None:
    """If the key function fails, the client gets INTERNAL without the text."""

    def key(servicer: Any) -> str:
        raise ValueError("secret")

    shop = serve(stack, {"SERVER__RATE_LIMIT": "1/hour"}, key=key)
    failed = shop.failure("unary_unary", "ok")
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in repr(failed.trailing_metadata()) + failed.details()
    assert shop.settled()


def test_work_that_is_left_behind_has_no_deadline(serve: Any) -> None:
    """A task that an RPC has started and not awaited is not cut short by the RPC's deadline."""
    seen: list[float] = []
    kept: list[asyncio.Task[None]] = []

    class Leaving(Tasks):
        async def unary_unary(self, text: str, servicer: Any) -> str:
            kept.append(asyncio.create_task(self.later()))
            return text

        async def later(self) -> None:
            await asyncio.sleep(0.05)
            deadline = Deadline.current()
            assert deadline is not None
            seen.append(deadline.remaining())

    shop = serve("aio", {"SERVER__DEADLINE": "1s"}, shop=Leaving())
    shop.call("unary_unary", "ok")
    patience = time.monotonic() + 3
    while not seen and time.monotonic() < patience:
        time.sleep(0.005)
    assert seen == [float("inf")]


class Inner(grpc.ServerInterceptor):
    """Returns a new handler for every call."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        return handler and grpc.unary_unary_rpc_method_handler(
            lambda message, servicer: handler.unary_unary(message, servicer) + b"+",
        )


def test_other_interceptors(serve: Any) -> None:
    """Interceptors behind ours work as before, also if they make a new handler for every call."""
    toolkit = Resilience()
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, interceptors=[*server_interceptors(toolkit), Inner()])
        handler: Any = grpc.unary_unary_rpc_method_handler(lambda message, servicer: message)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {"Read": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            read: Any = channel.unary_unary("/shop.Orders/Read")
            assert [read(b"a"), read(b"b")] == [b"a+", b"b+"]
        server.stop(0).wait()


@pytest.mark.parametrize("text", ["ok", "refused", "crash"])
def test_streams_that_are_pushed(serve: Any, text: str) -> None:
    """A stream whose responses other threads send is counted until grpcio reports its end."""
    shop = Threads()
    senders: list[Any] = []
    sent = threading.Event()

    def push(message: str, servicer: Any, send: Any) -> None:
        if message == "crash":
            raise ValueError("secret")
        senders.append(send)
        send("one")
        sent.set()

    push.experimental_non_blocking = True  # type: ignore[attr-defined]  # grpcio's own way of marking one
    shop.unary_stream = push  # type: ignore[assignment,method-assign]  # as above
    authenticate = (lambda servicer: None) if text == "refused" else None
    served = serve("sync", shop=shop, authenticate=authenticate)
    call = served.start("unary_stream", text)
    if text == "ok":
        assert next(call) == "one"
        assert served.toolkit.lifecycle.in_flight == 1
        assert sent.wait(5)  # the client may have it sooner, and grpcio waits for ever where two are sent at once
        senders[0]("two")
        senders[0](None)
        assert list(call) == ["two"]
    else:
        with pytest.raises(grpc.RpcError):
            next(call)
        assert "secret" not in call.details()
    assert served.settled()


def test_infrastructure_is_infrastructure() -> None:
    """Health and reflection, in every version, are infrastructure. Names that look alike are not."""
    for method in ("/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
        assert is_infrastructure(method)
    for method in ("/grpc.health.v1.HealthOfOrders/Check", "/shop.grpc.reflection./X", "/grpc.healthy/Check"):
        assert not is_infrastructure(method)


def test_methods_are_remembered_within_bounds() -> None:
    """A guarded handler is built once for each handler. Names that clients make up do not fill the memory."""
    first: Any = grpc.unary_unary_rpc_method_handler(Threads().unary_unary)
    second: Any = grpc.unary_unary_rpc_method_handler(Threads().unary_unary)
    handlers = HandlerCache(lambda name, handler: grpc.unary_unary_rpc_method_handler(Threads().unary_unary))
    assert handlers.guarded("/a", first) is handlers.guarded("/a", first)
    assert handlers.guarded("/a", second) is not handlers.guarded("/a", first)
    for number in range(3000):
        handlers.guarded(f"/{number}", first)
    assert len(handlers._guarded) <= 1024


class Delegating(Tasks):
    """A task whose work is done by a thread, which goes on without it."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[bool] = []

    async def unary_unary(self, text: str, servicer: Any) -> str:
        await asyncio.to_thread(self._work)
        return text

    def _work(self) -> None:
        self.release.wait(5)
        deadline = Deadline.current()
        assert deadline is not None
        self.left.append(deadline.expired)


def test_what_goes_on_late_has_no_time(serve: Any) -> None:
    """A thread that works on after the deadline has ended its RPC has no new time."""
    shop = serve("aio", {"SERVER__DEADLINE": "50ms"}, shop=Delegating())
    assert shop.failure("unary_unary", "x").code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert shop.settled()
    shop.shop.release.set()
    patience = time.monotonic() + 5
    while not shop.shop.left:
        assert time.monotonic() < patience
        time.sleep(0.005)
    assert shop.shop.left == [True]


async def test_a_task_deadline_knows_its_own_cancellation() -> None:
    """`finish` says whether the deadline has cancelled the task, and not another cancellation."""
    deadlines = TaskDeadlines()

    async def work(*, cancelled_by_others: bool) -> bool:
        task = asyncio.current_task()
        assert task is not None
        deadline = deadlines.start(Deadline.after(0.02))
        if cancelled_by_others:
            asyncio.get_running_loop().call_later(0.001, task.cancel)
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError as error:
            return deadline.finish(error)
        raise AssertionError

    assert await work(cancelled_by_others=False)
    assert await asyncio.create_task(work(cancelled_by_others=True)) is False


async def test_a_finished_task_deadline_cancels_nothing() -> None:
    """A task that finishes in time is not cancelled."""
    deadlines, complaints = TaskDeadlines(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    deadline = deadlines.start(Deadline.after(0.02))
    assert not deadline.finish()
    await asyncio.sleep(0.05)
    assert complaints == []


def test_the_stacks_have_their_own() -> None:
    """Each stack has interceptors of its own class."""
    (threads,), (tasks,) = server_interceptors(Resilience()), aio_server_interceptors(Resilience())
    assert isinstance(threads, grpc.ServerInterceptor)
    assert isinstance(tasks, grpc.aio.ServerInterceptor)


class Slow(Tasks):
    async def unary_stream(self, text: str, servicer: Any) -> AsyncIterator[str]:
        for _ in range(100):
            yield text
            await asyncio.sleep(0.02)


class SlowInThreads(Threads):
    def unary_stream(self, text: str, servicer: Any) -> Iterator[str]:
        for _ in range(100):
            yield text
            time.sleep(0.02)


@pytest.mark.parametrize(("deadline", "timeout"), [("100ms", 10), ("10s", 0.1), ("", 0.1)])
def test_a_stream_that_its_deadline_ends_is_no_fault(
    serve: Any, stack: str, deadline: str, timeout: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that the server's or the client's deadline ends gets DEADLINE_EXCEEDED, and the log has no error."""
    shop = serve(stack, {"SERVER__DEADLINE": deadline}, shop=Slow() if stack == "aio" else SlowInThreads())
    with caplog.at_level(logging.INFO):
        failed = shop.failure("unary_stream", "x", timeout=timeout)
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert shop.settled()
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []
