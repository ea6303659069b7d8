"""A server or client whose system starts no more threads: calls are refused, and it serves again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_shop import SERVICE, Running, decode, encode
from grpc_upstream import Upstream
from no_threads import out_of_threads

from resilience import BulkheadFullError, CircuitBreaker, Pipeline, Resilience
from resilience_grpc import add_health, client_interceptors
from resilience_grpc._health import ThreadedHealth, _HealthSource
from resilience_grpc.client import _sync_futures

GET = "/shop.Orders/Get"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


def test_a_plain_method_without_a_thread_is_refused(serve: Any) -> None:
    """A plain function on grpc.aio that gets no thread ends with RESOURCE_EXHAUSTED, and is never called."""
    shop: Running = serve("aio-plain")
    ask = shop.channel.unary_unary(f"/{SERVICE}/unary_unary", encode, decode)
    with out_of_threads():
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as refused:
                ask("ok", timeout=10)
            error: Any = refused.value
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "thread" not in error.details()
    assert ask("ok", timeout=10) == "ok!"
    assert shop.settled()


def test_a_probe_without_a_thread_ends_no_server(serve: Any) -> None:
    """A first probe that gets no thread is late. The server on threads goes on, and answers the next one."""

    def prepare(server: Any, toolkit: Resilience) -> None:
        add_health(server, toolkit)
        toolkit.lifecycle.started()

    shop: Running = serve("sync", prepare=prepare)
    check = shop.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    with out_of_threads(), pytest.raises(grpc.RpcError) as late:
        check(health_pb2.HealthCheckRequest(), timeout=1)
    error: Any = late.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING


class _Rpc:
    """The context that grpcio passes to `watch`."""

    def add_callback(self, _callback: Any) -> bool:
        return True


def test_a_watcher_without_a_thread_has_to_come_again() -> None:
    """If the thread that informs watchers cannot start, a watcher's stream ends, and the next watcher is informed."""
    toolkit, ended, informed = Resilience(), list[Any](), list[Any]()
    rpc: Any = _Rpc()
    health = ThreadedHealth(_HealthSource(toolkit, (), 0.05))
    with out_of_threads():
        health.watch(health_pb2.HealthCheckRequest(), rpc, ended.append)
    assert ended == [None]
    health.watch(health_pb2.HealthCheckRequest(), rpc, informed.append)
    notifier = health._notifier
    health.end()
    assert notifier is not None
    notifier.join(10)
    assert informed[-1] is None
    assert {answer.status for answer in informed[:-1]} == {health_pb2.HealthCheckResponse.NOT_SERVING}


def test_a_future_without_a_thread_is_refused(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A future for which no thread can be started fails at once with our refusal, and the next one is made."""
    monkeypatch.setattr(_sync_futures, "_loops", {})  # another test may have started the thread
    breaker = CircuitBreaker(fail_max=1)
    guards = client_interceptors(Resilience(), idempotent=["*"], pipeline=Pipeline("orders", breaker))
    with grpc.insecure_channel(upstream.target) as bare:
        get: Any = grpc.intercept_channel(bare, *guards).unary_unary(GET)
        with out_of_threads():
            for _ in range(2):
                future = get.future(b"")
                assert isinstance(future.exception(10), BulkheadFullError)
                assert future.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                with pytest.raises(grpc.RpcError):
                    future.result(10)
        assert get.future(b"").result(10) == b"fine"
    assert breaker.current_state == "closed"
