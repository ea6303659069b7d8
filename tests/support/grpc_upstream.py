"""A gRPC server with scripted responses, and clients of either stack that make the same calls."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc
import grpc.aio

from resilience_grpc import aio_client_interceptors, client_interceptors

SERVICE = "shop.Orders"
PATIENCE = 10.0
"""Seconds that nothing here should ever take."""


class Seen:
    """One call as the server saw it."""

    def __init__(self, method: str, context: grpc.ServicerContext) -> None:
        self.method = method
        self.metadata = {str(key): value for key, value in context.invocation_metadata()}
        self.remaining = context.time_remaining()
        self.context = context
        self.ended = threading.Event()
        if not context.add_callback(self.ended.set):  # it has ended before the server had a thread for it
            self.ended.set()
        self.requests: list[bytes] = []

    @property
    def attempt(self) -> object:
        return self.metadata.get("grpc-previous-rpc-attempts")

    def wait_until_ended(self) -> bool:
        """Wait until the call has ended for the client. A handler at work learns that it was cancelled."""
        return self.ended.wait(PATIENCE)


Behaviour = Callable[[Seen], Iterable[bytes]]
"""A handler: it yields responses, or aborts through `seen.context`."""


def answering(*answers: bytes) -> Behaviour:
    return lambda _seen: answers


def failing(
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
    text: str = "down",
    *,
    trailing: tuple[tuple[str, str | bytes], ...] = (),
    after: tuple[bytes, ...] = (),
) -> Behaviour:
    def fail(seen: Seen) -> Iterator[bytes]:
        yield from after
        seen.context.set_trailing_metadata(trailing)
        seen.context.abort(code, text)

    return fail


def hanging(seconds: float = PATIENCE) -> Behaviour:
    """Answer late, or not at all if the call has ended."""

    def hang(seen: Seen) -> Iterator[bytes]:
        if not seen.ended.wait(seconds):
            yield b"late"

    return hang


class Upstream:
    """Serves `shop.Orders`: Get, List, Put and Chat are the four kinds. `script` has the handlers of the next calls."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.script: list[Behaviour] = []
        self.otherwise: Behaviour = answering(b"fine")
        self.seen: list[Seen] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)], **self._options)
        self._server.add_generic_rpc_handlers((self._handlers(SERVICE), self._handlers("grpc.health.v1.Health")))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def serve(self, handler: grpc.GenericRpcHandler) -> None:
        """Serve another handler as well."""
        self._server.add_generic_rpc_handlers((handler,))

    def stop(self) -> None:
        assert self._server.stop(0).wait(PATIENCE)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def attempts(self) -> list[object]:
        """The attempt numbers of the calls so far."""
        return [seen.attempt for seen in self.seen]

    def _handlers(self, service: str) -> grpc.GenericRpcHandler:
        def unary(method: str, *, streams_in: bool) -> Callable[[Any, grpc.ServicerContext], bytes]:
            def handle(request: Any, context: grpc.ServicerContext) -> bytes:
                return next(iter(self._handle(method, request, context, streams_in=streams_in)), b"")

            return handle

        def stream(method: str, *, streams_in: bool) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
            def handle(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
                yield from self._handle(method, request, context, streams_in=streams_in)

            return handle

        handlers: dict[str, Any] = {
            "Get": grpc.unary_unary_rpc_method_handler(unary("Get", streams_in=False)),
            "Check": grpc.unary_unary_rpc_method_handler(unary("Check", streams_in=False)),
            "List": grpc.unary_stream_rpc_method_handler(stream("List", streams_in=False)),
            "Put": grpc.stream_unary_rpc_method_handler(unary("Put", streams_in=True)),
            "Chat": grpc.stream_stream_rpc_method_handler(stream("Chat", streams_in=True)),
        }
        return grpc.method_handlers_generic_handler(service, handlers)

    def _handle(self, method: str, request: Any, context: grpc.ServicerContext, *, streams_in: bool) -> Iterable[bytes]:
        seen = Seen(method, context)
        self.seen.append(seen)
        behaviour = self.script.pop(0) if self.script else self.otherwise
        seen.requests.extend(request if streams_in else [request])
        return behaviour(seen)


class Client(Protocol):
    """The four kinds of call. Each waits for its end."""

    def get(self, request: bytes = b"", method: str = "/shop.Orders/Get", **given: Any) -> bytes: ...
    def list(self, request: bytes = b"", **given: Any) -> Sequence[bytes]: ...
    def put(self, requests: Iterable[bytes] = (b"a", b"b"), **given: Any) -> bytes: ...
    def chat(self, requests: Iterable[bytes] = (b"a", b"b"), **given: Any) -> Sequence[bytes]: ...
    def close(self) -> None: ...


class SyncClient:
    def __init__(self, target: str, /, *arguments: Any, **named: Any) -> None:
        bare = grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)])
        self.channel: Any = grpc.intercept_channel(bare, *client_interceptors(*arguments, **named))

    def get(self, request: bytes = b"", method: str = "/shop.Orders/Get", **given: Any) -> bytes:
        answer: bytes = self.channel.unary_unary(method)(request, **given)
        return answer

    def list(self, request: bytes = b"", **given: Any) -> Sequence[bytes]:
        return list(self.channel.unary_stream("/shop.Orders/List")(request, **given))

    def put(self, requests: Iterable[bytes] = (b"a", b"b"), **given: Any) -> bytes:
        answer: bytes = self.channel.stream_unary("/shop.Orders/Put")(iter(requests), **given)
        return answer

    def chat(self, requests: Iterable[bytes] = (b"a", b"b"), **given: Any) -> Sequence[bytes]:
        return list(self.channel.stream_stream("/shop.Orders/Chat")(iter(requests), **given))

    def close(self) -> None:
        self.channel.close()


class AioClient:
    """The four kinds of call over grpc.aio, on a loop of their own."""

    def __init__(self, target: str, /, *arguments: Any, **named: Any) -> None:
        self._runner = asyncio.Runner()
        self.interceptors = aio_client_interceptors(*arguments, **named)
        self.channel: Any = self._run(self._open(target))

    async def _open(self, target: str) -> grpc.aio.Channel:
        options = [("grpc.enable_retries", 0)]
        return grpc.aio.insecure_channel(target, options=options, interceptors=self.interceptors)

    def _run(self, work: Any) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work, PATIENCE)

        return self._runner.run(bounded(), context=contextvars.copy_context())

    def get(self, request: bytes = b"", method: str = "/shop.Orders/Get", **given: Any) -> bytes:
        async def ask() -> Any:
            return await self.channel.unary_unary(method)(request, **given)

        answer: bytes = self._run(ask())
        return answer

    def list(self, request: bytes = b"", **given: Any) -> Sequence[bytes]:
        async def ask() -> Any:
            return [answer async for answer in self.channel.unary_stream("/shop.Orders/List")(request, **given)]

        answers: Sequence[bytes] = self._run(ask())
        return answers

    def put(self, requests: Iterable[bytes] = (b"a", b"b"), **given: Any) -> bytes:
        async def ask() -> Any:
            return await self.channel.stream_unary("/shop.Orders/Put")(iter(requests), **given)

        answer: bytes = self._run(ask())
        return answer

    def chat(self, requests: Iterable[bytes] = (b"a", b"b"), **given: Any) -> Sequence[bytes]:
        async def ask() -> Any:
            return [answer async for answer in self.channel.stream_stream("/shop.Orders/Chat")(iter(requests), **given)]

        answers: Sequence[bytes] = self._run(ask())
        return answers

    def close(self) -> None:
        self._run(self.channel.close())
        self._runner.close()
