"""Guarded clients and guarded servers together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from resilience import AppError, Deadline, DeadlineExceededError, Pipeline, Resilience, Retry
from resilience.server import RequestContext, current_request
from resilience_grpc import client_interceptors, server_interceptors

GET = "/shop.Orders/Get"
Handler = Callable[[bytes], bytes]


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Start guarded servers; return a guarded call to each."""
    with contextlib.ExitStack() as stack:

        def start(handler: Handler, settings: dict[str, str] | None = None, *policies: Any) -> Any:
            named = {f"RESILIENCE_{name}": value for name, value in (settings or {}).items()}
            toolkit = Resilience.from_env({"RESILIENCE_SERVICE__NAME": "shop", **named})
            server = grpc.server(ThreadPoolExecutor(4), interceptors=server_interceptors(toolkit))
            handlers: dict[str, Any] = {
                "Get": grpc.unary_unary_rpc_method_handler(lambda request, _context: handler(request))
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", handlers),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(0).wait(10))
            bare = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
            guards = client_interceptors(toolkit, pipeline=Pipeline("orders", *policies), idempotent=["*"])
            return grpc.intercept_channel(bare, *guards).unary_unary(GET)

        yield start


def test_deadlines_cascade_through_three_services(serve: Callable[..., Any]) -> None:
    """1 s here is at most 800 ms at the first service, 500 ms at the second, and less at the third."""
    left: list[float] = []

    def remaining(_request: bytes = b"") -> bytes:
        deadline = Deadline.current()
        assert deadline is not None
        left.append(deadline.remaining())
        return b"fine"

    third = serve(remaining)
    second = serve(lambda request: remaining() and third(request), {"SERVER__DEADLINE": "500ms"})
    first = serve(lambda request: remaining() and second(request), {"SERVER__DEADLINE": "800ms"})
    with Deadline.after(1):
        assert first(b"") == b"fine"
    assert 0.8 >= left[0] > left[1] > left[2] > 0
    assert left[1] <= 0.5


def test_no_service_is_asked_without_time(serve: Callable[..., Any]) -> None:
    """If no time is left, the first service does not call the second, and the client gets DEADLINE_EXCEEDED."""
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        asked.append(request)
        return b"fine"

    second = serve(answer, {"CLIENT__MARGIN": "1m"})
    first = serve(second)
    with pytest.raises(AppError) as caught:
        first(b"", timeout=5)
    error: Any = caught.value
    assert (error.code, error.code(), error.http_status) == (
        "DEADLINE_EXCEEDED",
        grpc.StatusCode.DEADLINE_EXCEEDED,
        504,
    )
    assert asked == []
    with Deadline.after(5), pytest.raises(DeadlineExceededError):
        second(b"")


def test_an_error_crosses_two_services(serve: Callable[..., Any]) -> None:
    """Code, details, request id and trace are the same at both ends of a chain."""
    heard: list[tuple[str, str]] = []

    def fail(_request: bytes) -> bytes:
        context = current_request()
        assert context is not None
        heard.append((context.request_id, context.trace_id))
        raise AppError("SHOP_C001", "Sold out.", details={"sku": "a"}, http_status=409, retry_after=2.5)

    third = serve(fail)
    first = serve(third)
    with RequestContext("r-1", "4bf92f3577b34da6a3ce929d0e0e4736"), pytest.raises(AppError) as caught:
        first(b"")
    error: Any = caught.value
    assert heard == [("r-1", "4bf92f3577b34da6a3ce929d0e0e4736")]
    assert (error.code, error.message, error.details, error.http_status) == (
        "SHOP_C001",
        "Sold out.",
        {"sku": "a"},
        409,
    )
    assert (error.retry_after, error.request_id) == (2.5, "r-1")


def test_a_servers_wait_is_the_clients(serve: Callable[..., Any]) -> None:
    """RetryInfo of a rate limit is a floor for the client's next attempt, which then succeeds."""
    get = serve(
        lambda _request: b"fine", {"SERVER__RATE_LIMIT": "10/second", "SERVER__RATE_LIMIT_BURST": "1"}, Retry(3)
    )
    assert [get(b""), get(b"")] == [b"fine"] * 2
