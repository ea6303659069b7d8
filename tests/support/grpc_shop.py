"""A service with a method of each kind, on either stack. Its messages are texts that name what the method does."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio

from resilience import AppError, CircuitOpenError, Deadline, RateLimitedError, Resilience
from resilience.envelope import Envelope, read_envelope
from resilience.server import current_request
from resilience_grpc import aio_server_interceptors, server_interceptors

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
STACKS = ("sync", "aio", "aio-plain")
"""`aio-plain`: plain functions on a server of grpc.aio, which runs them in threads."""

SERVICE = "shop.Orders"
LEFT: contextvars.ContextVar[str] = contextvars.ContextVar("left", default="nothing")
"""A value that an RPC leaves behind in its context."""


def encode(text: str | bytes) -> bytes:
    """Return the bytes to send. grpc.aio encodes a text by itself, and then calls its serializer."""
    return text if isinstance(text, bytes) else text.encode()


def decode(data: bytes) -> str:
    return data.decode()


def _raise(text: str) -> None:
    """Raise an error that a handler may get from elsewhere: an error of another service, or a group."""
    if text == "remote":
        said, _ = Envelope(code="THEIR_001", message="later", retry_after=31_536_000.0).render()
        raise read_envelope(503, said, {}) or AssertionError(said)
    if text == "group":
        inner = ExceptionGroup("secret", [RateLimitedError("secret", retry_after=4.0)])
        raise ExceptionGroup("secret", [inner, CircuitOpenError("secret", retry_after=1.5)])
    if text == "group-crash":
        raise ExceptionGroup("secret", [RateLimitedError("secret"), ValueError("secret")])
    if text == "group-exit":
        raise BaseExceptionGroup("secret", [SystemExit(3), ValueError("secret")])


class Shop:
    """The methods. `seen` has the facts that the last call saw, `running` the number of calls at work."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.running = 0
        self.waits = threading.Event()
        self.release = threading.Event()

    def act(self, text: str, servicer: Any) -> str:
        """Do the part that is the same on both stacks."""
        request, deadline = current_request(), Deadline.current()
        self.seen = {
            "request": request,
            "request_id": request and request.request_id,
            "user": request and request.user,
            "client": request and request.client,
            "trace_id": request and request.trace_id,
            "remaining": deadline and deadline.remaining(),
            "left": LEFT.get(),
            "names": [*self.seen.get("names", ()), text],
        }
        LEFT.set(text)
        if text == "app":
            raise AppError("SHOP_C001", "Sold out.", details={"left": 0}, http_status=409, grpc_status="ABORTED")
        if text == "crash":
            raise ValueError("secret")
        _raise(text)
        if text == "trailers":
            servicer.set_trailing_metadata((("mine", "1"),))
        if text == "code":
            servicer.set_code(grpc.StatusCode.NOT_FOUND)
            servicer.set_details("no such order")
        if text == "code-crash":
            servicer.set_code(grpc.StatusCode.NOT_FOUND)
            raise ValueError("secret")
        if text == "wrong-type":
            return None  # type: ignore[return-value]  # what a handler that forgets its return gives
        return f"{text}!"


class Threads(Shop):
    """Plain functions."""

    def _do(self, text: str, servicer: Any) -> str:
        if text == "abort":
            servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
        if text == "abort-wrapped":
            try:
                servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
            except Exception as error:
                raise ValueError("secret") from error
        if text == "abort-group":
            try:
                servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
            except Exception as error:  # noqa: BLE001 - how `grpc` aborts
                raise ExceptionGroup("secret", [ValueError("secret"), error]) from None
        if text == "exit":
            raise SystemExit(3)
        if text == "wait":
            self.waits.set()
            self.release.wait(10)
        if text.startswith("sleep"):
            time.sleep(float(text[5:]))
        return self.act(text, servicer)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def unary_unary(self, text: str, servicer: Any) -> str:
        with self._at_work():
            return self._do(text, servicer)

    def unary_stream(self, text: str, servicer: Any) -> Iterator[str]:
        with self._at_work():
            yield "first"
            yield self._do(text, servicer)
            while text == "forever":
                time.sleep(0.01)
                yield self._do(text, servicer)

    def stream_unary(self, texts: Iterator[str], servicer: Any) -> str:
        with self._at_work():
            return [self._do(text, servicer) for text in texts][-1]

    def stream_stream(self, texts: Iterator[str], servicer: Any) -> Iterator[str]:
        with self._at_work():
            yield "first"
            for text in texts:
                yield self._do(text, servicer)
                while text == "forever":
                    time.sleep(0.01)
                    yield self._do(text, servicer)


class Tasks(Shop):
    """Coroutine functions and async generators."""

    async def _do(self, text: str, servicer: Any) -> str:
        if text == "abort":
            await servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
        if text == "abort-wrapped":
            try:
                await servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
            except Exception as error:
                raise ValueError("secret") from error
        if text == "abort-group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet"))
        if text == "exit":
            raise asyncio.CancelledError("stray")
        if text == "wait":
            self.waits.set()
            while not self.release.is_set():
                await asyncio.sleep(0.005)
        if text.startswith("sleep"):
            await asyncio.sleep(float(text[5:]))
        return self.act(text, servicer)

    @contextlib.asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def unary_unary(self, text: str, servicer: Any) -> str:
        async with self._at_work():
            return await self._do(text, servicer)

    async def unary_stream(self, text: str, servicer: Any) -> AsyncIterator[str]:
        async with self._at_work():
            yield "first"
            yield await self._do(text, servicer)
            while text == "forever":
                await asyncio.sleep(0.01)
                yield await self._do(text, servicer)

    async def stream_unary(self, texts: AsyncIterator[str], servicer: Any) -> str:
        async with self._at_work():
            return [await self._do(text, servicer) async for text in texts][-1]

    async def stream_stream(self, texts: AsyncIterator[str], servicer: Any) -> None:
        """Write the responses: a coroutine that yields none."""
        async with self._at_work():
            await servicer.write("first")
            async for text in texts:
                await servicer.write(await self._do(text, servicer))
                while text == "forever":
                    await asyncio.sleep(0.01)
                    await servicer.write(await self._do(text, servicer))


def handlers(shop: Shop) -> Any:
    """Return the service as a server takes it."""
    makers = {kind: getattr(grpc, f"{kind}_rpc_method_handler") for kind in KINDS}
    methods = {kind: make(getattr(shop, kind), decode, encode) for kind, make in makers.items()}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class Running:
    """A server at work, and a client of it."""

    def __init__(self, shop: Any, toolkit: Resilience, port: int) -> None:
        self.shop, self.toolkit, self.port = shop, toolkit, port
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def start(self, kind: str, text: str | bytes, *more: str, **options: Any) -> Any:
        """Begin a call and return it. `more` are further requests of a stream."""
        multi = getattr(self.channel, kind)(f"/{SERVICE}/{kind}", encode, decode)
        message = iter((text, *more)) if kind.startswith("stream") else text
        options.setdefault("timeout", 10)
        return multi(message, **options) if kind.endswith("stream") else multi.future(message, **options)

    def call(self, kind: str, text: str | bytes, *more: str, **options: Any) -> list[str]:
        """Make a call and return all its responses."""
        call = self.start(kind, text, *more, **options)
        return list(call) if kind.endswith("stream") else [call.result()]

    def failure(self, kind: str, text: str | bytes, *more: str, **options: Any) -> Any:
        """Make a call that has to fail, and return it."""
        try:
            answers = self.call(kind, text, *more, **options)
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"answered {answers}")

    def settled(self, within: float = 3.0) -> bool:
        """Wait until nothing is in flight, and return whether that happened."""
        patience = time.monotonic() + within
        while (self.toolkit.lifecycle.in_flight or self.shop.running) and time.monotonic() < patience:
            time.sleep(0.005)
        return not self.toolkit.lifecycle.in_flight and not self.shop.running

    def busy(self, number: int = 1, within: float = 3.0) -> bool:
        """Wait until that many requests are in flight, and return whether that happened."""
        patience = time.monotonic() + within
        while self.toolkit.lifecycle.in_flight < number and time.monotonic() < patience:
            time.sleep(0.005)
        return self.toolkit.lifecycle.in_flight >= number


@contextlib.contextmanager
def running(
    stack: str,
    toolkit: Resilience,
    shop: Shop | None = None,
    prepare: Callable[[Any], object] | None = None,
    threads: int = 8,
    **hooks: Any,
) -> Iterator[Running]:
    """Serve a shop; `prepare` is given the server before it starts."""
    shop = shop or (Tasks() if stack == "aio" else Threads())
    serve = _in_threads if stack == "sync" else _in_loop
    with serve(toolkit, shop, prepare, threads, hooks) as port:
        served = Running(shop, toolkit, port)
        try:
            yield served
        finally:
            shop.release.set()
            served.channel.close()


@contextlib.contextmanager
def _in_threads(
    toolkit: Resilience, shop: Shop, prepare: Callable[[Any], object] | None, threads: int, hooks: dict[str, Any]
) -> Iterator[int]:
    with futures.ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool, interceptors=server_interceptors(toolkit, **hooks))
        server.add_generic_rpc_handlers((handlers(shop),))
        if prepare is not None:
            prepare(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            shop.release.set()
            server.stop(0).wait(10)


@contextlib.contextmanager
def _in_loop(
    toolkit: Resilience, shop: Shop, prepare: Callable[[Any], object] | None, threads: int, hooks: dict[str, Any]
) -> Iterator[int]:
    ready: futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = futures.Future()

    async def serve() -> None:
        with futures.ThreadPoolExecutor(threads) as pool:
            server = grpc.aio.server(
                pool, interceptors=aio_server_interceptors(toolkit, migration_thread_pool=pool, **hooks)
            )
            server.add_generic_rpc_handlers((handlers(shop),))
            if prepare is not None:
                prepare(server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            over = asyncio.Event()
            ready.set_result((asyncio.get_running_loop(), over, port))
            await over.wait()
            await server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, over, port = ready.result(10)
    try:
        yield port
    finally:
        shop.release.set()
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
