"""Deadlines that pass while a response is being written, and clients that never read (grpc.aio)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc_shop import SERVICE, Running, Tasks, Threads

LARGE = "x" * 100_000
WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
"""Options of a client: as long as it does not read, the server cannot write more."""
SETTINGS = {"SERVER__DEADLINE": "200ms", "SERVER__MAX_CONCURRENT_REQUESTS": "1"}


def compute(seconds: float = 0.3) -> None:
    """Block the loop: the deadline passes, and expires while the next write is in flight."""
    time.sleep(seconds)


class Slow(Tasks):
    """Methods that write late, or to a client that does not read."""

    ends = ""

    async def unary_unary(self, text: str, servicer: Any) -> str:
        compute()
        await servicer.send_initial_metadata((("mine", "1"),))
        await asyncio.sleep(1)
        return text

    async def unary_stream(self, text: str, servicer: Any) -> AsyncIterator[str]:
        async with self._recording_end():
            if text == "metadata":
                compute()
                await servicer.send_initial_metadata((("mine", "1"),))
            if text == "later":
                yield "first"
            if text in {"first", "later"}:
                compute()
            if text == "small first":
                yield "first"
            while True:
                yield LARGE

    async def stream_stream(self, texts: AsyncIterator[str], servicer: Any) -> None:
        async with self._recording_end():
            async for text in texts:
                compute()
                if text == "child":
                    await asyncio.gather(servicer.write("first"), asyncio.sleep(5))
                await servicer.write("first")
                await asyncio.sleep(5)

    @contextlib.asynccontextmanager
    async def _recording_end(self) -> AsyncIterator[None]:
        async with self._at_work():
            try:
                yield
            except BaseException as error:
                self.ends += f"{type(error).__name__} "
                await asyncio.sleep(0.01)  # as by asyncio.timeout: cancelled once, and not again
                raise


class Ending(Tasks):
    """A method whose client has much to read before the status."""

    async def unary_stream(self, text: str, servicer: Any) -> AsyncIterator[str]:
        yield "first"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await servicer.write(LARGE)
        await servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")


class Flood(Tasks):
    """Methods that write without a pause, or twice at the same time."""

    async def unary_stream(self, text: str, servicer: Any) -> AsyncIterator[str]:
        while True:
            yield LARGE

    async def stream_stream(self, texts: AsyncIterator[str], servicer: Any) -> None:
        await asyncio.gather(servicer.write("first"), servicer.write("first as well"))


class SlowThreads(Threads):
    def unary_stream(self, text: str, servicer: Any) -> Iterator[str]:
        with self._at_work():
            yield "first" if text == "small first" else LARGE
            while True:
                yield LARGE


class Reader:
    """A client that reads only when the test does."""

    def __init__(self, shop: Running) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{shop.port}", options=WINDOW)

    def call(self, text: str) -> Any:
        call = self.channel.unary_stream(f"/{SERVICE}/unary_stream", str.encode, bytes.decode)
        return call(text, timeout=10)


@pytest.fixture
def reader(serve: Any) -> Iterator[Any]:
    """Serve slow methods to a client that reads only when the test does."""
    with contextlib.ExitStack() as over:

        def start(stack: str) -> tuple[Running, Reader]:
            shop = serve(stack, SETTINGS, shop=Slow() if stack == "aio" else SlowThreads())
            reader = Reader(shop)
            over.callback(reader.channel.close)
            return shop, reader

        yield start


def late(call: Any) -> bool:
    """Read all responses. Return whether the call ended with DEADLINE_EXCEEDED."""
    with pytest.raises(grpc.RpcError):
        list(call)
    ends: tuple[Any, str] = call.code(), call.details()
    return ends == (grpc.StatusCode.DEADLINE_EXCEEDED, "The request took too long.")


@pytest.mark.realtime
@pytest.mark.parametrize("text", ["first", "later", "metadata"])
def test_a_deadline_that_rings_during_a_write(serve: Any, text: str) -> None:
    """The client gets DEADLINE_EXCEEDED at once. The handler is cancelled once, after its write."""
    shop = serve("aio", SETTINGS, shop=Slow())
    began = time.monotonic()
    assert late(shop.start("unary_stream", text))
    assert time.monotonic() - began < 4
    assert shop.settled()
    # Our write is outside the generator, which is then closed; the metadata are its own.
    assert shop.shop.ends == ("CancelledError " if text == "metadata" else "GeneratorExit ")


@pytest.mark.realtime
@pytest.mark.parametrize("text", ["write", "child"])
def test_a_handler_that_writes_by_itself(serve: Any, text: str) -> None:
    """A coroutine that writes past its deadline is cancelled once, wherever it writes. Its client gets the status."""
    shop = serve("aio", SETTINGS, shop=Slow())
    began = time.monotonic()
    assert late(shop.start("stream_stream", text))
    assert time.monotonic() - began < 4
    assert shop.settled()
    assert shop.shop.ends == "CancelledError "


def test_a_single_answer_behind_its_metadata(serve: Any) -> None:
    """Initial metadata sent past the deadline do not keep the status from the client."""
    shop = serve("aio", SETTINGS, shop=Slow())
    failed = shop.failure("unary_unary", "x")
    assert failed.details() == "The request took too long."
    assert shop.settled()


@pytest.mark.realtime
@pytest.mark.parametrize("text", ["first", "small first"])
@pytest.mark.parametrize("stack", ["aio", "aio-plain"])
def test_a_client_that_does_not_read(reader: Any, stack: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A second after the deadline the place is free. The client gets the status when it reads. Nothing is logged."""
    shop, client = reader(stack)
    began = time.monotonic()
    call = client.call("large" if text == "first" else text)
    assert shop.busy()
    while shop.toolkit.lifecycle.in_flight:
        assert time.monotonic() - began < 6
        time.sleep(0.01)
    assert shop.failure("unary_unary" if stack == "aio" else "unary_stream", "x").code().name == "DEADLINE_EXCEEDED"
    assert late(call)
    assert shop.settled()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_handler_whose_own_end_is_not_read(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An abort that the client does not read is cut short past the deadline, and arrives when the client reads."""
    shop = serve("aio", SETTINGS, shop=Ending())
    client = Reader(shop)
    call = client.call("abort")
    assert shop.busy()
    assert shop.settled()
    with pytest.raises(grpc.RpcError):
        list(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet")
    client.channel.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("deadline", ["", "5s"])
def test_a_client_that_leaves_is_no_fault(serve: Any, deadline: str, caplog: pytest.LogCaptureFixture) -> None:
    """If a write fails because its client has gone, the log has no error."""
    shop = serve("aio", {"SERVER__DEADLINE": deadline}, shop=Flood())
    client = Reader(shop)
    for _ in range(5):
        call = client.call("x")
        assert shop.busy()
        time.sleep(0.05)
        call.cancel()
        assert shop.settled()
    client.channel.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_two_writes_at_once_are_a_fault(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """If a handler writes twice at the same time, which grpc.aio refuses, the RPC is INTERNAL and logged."""
    shop = serve("aio", shop=Flood())
    failed = shop.failure("stream_stream", "x")
    assert (failed.code(), "execute" in failed.details()) == (grpc.StatusCode.INTERNAL, False)
    assert "unhandled error" in caplog.text
    assert shop.settled()


@pytest.mark.parametrize("text", ["large", "small first"])
@pytest.mark.parametrize("stack", ["aio", "aio-plain"])
def test_a_client_that_leaves_unread(reader: Any, stack: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """If a client that never reads goes away, its handler ends, before the deadline and after it."""
    shop, client = reader(stack)
    for pause in (0.1, 1.5):
        call = client.call(text)
        assert shop.busy()
        time.sleep(pause)
        call.cancel()
        assert shop.settled()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
