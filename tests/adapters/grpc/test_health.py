"""The health service, and the drain of a server."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_shop import Running

from resilience import ConfigurationError, Resilience
from resilience_grpc import add_health, adrain, drain

Answer = health_pb2.HealthCheckResponse
STACKS = ("sync", "aio")
NAMES = Answer.ServingStatus.Name


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """Name a stack."""
    return str(request.param)


class Healthy:
    """A shop with health, and a client that asks."""

    def __init__(self, serve: Any, stack: str, settings: dict[str, str] | None = None, **options: Any) -> None:
        self.server: Any = None
        self.stack = stack
        self.loop: asyncio.AbstractEventLoop | None = None
        named = options.pop("health", {})

        def prepare(server: Any, toolkit: Resilience) -> None:
            self.server = server
            self.loop = asyncio.get_running_loop() if stack == "aio" else None
            add_health(server, toolkit, **named)

        self.shop: Running = serve(stack, settings, prepare=prepare, **options)
        self.toolkit = self.shop.toolkit

    def check(self, name: str = "", **options: Any) -> str:
        call = self.shop.channel.unary_unary(
            "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest.SerializeToString, Answer.FromString
        )
        options.setdefault("timeout", 5)
        return NAMES(call(health_pb2.HealthCheckRequest(service=name), **options).status)

    def watch(self, name: str = "") -> tuple[queue.Queue[str], Any]:
        """Watch, and return where the statuses arrive; "" is the end."""
        open_stream = self.shop.channel.unary_stream(
            "/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest.SerializeToString, Answer.FromString
        )
        call, told = open_stream(health_pb2.HealthCheckRequest(service=name)), queue.Queue[str]()

        def listen() -> None:
            try:
                for answer in call:
                    told.put(NAMES(answer.status))
                told.put("end")
            except grpc.RpcError as error:
                told.put(str(error))

        threading.Thread(target=listen, daemon=True).start()
        return told, call

    def drain(self, **options: Any) -> bool:
        if self.stack == "sync":
            return drain(self.server, self.toolkit, **options)
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(adrain(self.server, self.toolkit, **options), self.loop).result(20)


def test_what_is_said_when(serve: Any, stack: str) -> None:
    """NOT_SERVING until the lifecycle is ready and while readiness fails; other groups under their own names."""
    shop = Healthy(serve, stack, health={"services": ["shop.Orders"]})
    assert [shop.check(name) for name in ("", "readiness", "shop.Orders", "startup")] == ["NOT_SERVING"] * 4
    assert shop.check("liveness") == "SERVING"
    shop.toolkit.lifecycle.started()
    assert [shop.check(name) for name in ("", "readiness", "shop.Orders", "startup")] == ["SERVING"] * 4
    shop.toolkit.health.add("ledger", lambda: False, cache=0)
    assert shop.check() == "NOT_SERVING"
    assert shop.check("liveness") == "SERVING"
    with pytest.raises(grpc.RpcError) as failed:
        shop.check("nobody")
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert shop.toolkit.lifecycle.in_flight == 0


def test_names_have_groups(serve: Any) -> None:
    """A name can stand for a group of checks. A name for an unknown group is refused when it is given."""
    toolkit = Resilience()
    server = grpc.server(ThreadPoolExecutor(1))
    with pytest.raises(ConfigurationError, match="group"):
        add_health(server, toolkit, services={"shop.Orders": "nothing"})
    assert add_health(server, toolkit, services={"shop.Orders": "live"}) is toolkit
    server.stop(0)


def test_watchers_are_told(serve: Any, stack: str) -> None:
    """A health stream gets every change, and SERVICE_UNKNOWN for an unknown name."""
    shop = Healthy(serve, stack, threads=2, health={"interval": 0.05})
    watches = [shop.watch()[0] for _ in range(5)]
    unknown, _ = shop.watch("nobody")
    assert [told.get(timeout=5) for told in watches] == ["NOT_SERVING"] * 5
    assert unknown.get(timeout=5) == "SERVICE_UNKNOWN"
    shop.toolkit.lifecycle.started()
    assert [told.get(timeout=5) for told in watches] == ["SERVING"] * 5
    broken = threading.Event()
    shop.toolkit.health.add("ledger", lambda: not broken.is_set(), cache=0)
    broken.set()
    assert [told.get(timeout=5) for told in watches] == ["NOT_SERVING"] * 5
    assert shop.check() == "NOT_SERVING"
    assert shop.shop.call("unary_unary", "ok") == ["ok!"]
    assert shop.toolkit.lifecycle.in_flight == 0


def test_changes_of_the_lifecycle_do_not_wait(serve: Any, stack: str) -> None:
    """Health streams learn of a drain when it begins, however long the interval is."""
    shop = Healthy(serve, stack, health={"interval": 60})
    shop.toolkit.lifecycle.started()
    told, call = shop.watch()
    assert told.get(timeout=5) == "SERVING"
    shop.toolkit.lifecycle.drain()
    assert told.get(timeout=5) == "NOT_SERVING"
    call.cancel()


def test_health_answers_while_all_threads_are_busy(serve: Any) -> None:
    """Neither `Check` nor `Watch` needs a thread of the server."""
    shop = Healthy(serve, "sync", threads=2)
    shop.toolkit.lifecycle.started()
    calls = [shop.shop.start("unary_unary", "wait") for _ in range(2)]
    assert shop.shop.busy(2)
    assert shop.check() == "SERVING"
    told, _ = shop.watch()
    assert told.get(timeout=5) == "SERVING"
    shop.shop.shop.release.set()
    assert [call.result() for call in calls] == ["wait!"] * 2


def test_health_is_never_refused(serve: Any, stack: str) -> None:
    """Health needs no identity, place or quota, and is not counted as a request."""
    settings = {"SERVER__RATE_LIMIT": "1/hour", "SERVER__MAX_CONCURRENT_REQUESTS": "1"}
    shop = Healthy(serve, stack, settings, authenticate=lambda servicer: None)
    shop.toolkit.lifecycle.started()
    assert [shop.check() for _ in range(5)] == ["SERVING"] * 5
    assert shop.shop.failure("unary_unary", "ok").code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.realtime
def test_a_drain_loses_nothing(serve: Any, stack: str) -> None:
    """Health streams get NOT_SERVING while RPCs are accepted. Later new RPCs are refused, and the others finish."""
    shop = Healthy(serve, stack, {"LIFECYCLE__DRAIN_DELAY": "1s"})
    lifecycle = shop.toolkit.lifecycle
    lifecycle.started()
    stopped: list[str] = []
    lifecycle.on_stop(lambda: stopped.append(lifecycle.state))
    told, _ = shop.watch()
    assert told.get(timeout=5) == "SERVING"
    slow = shop.shop.start("unary_unary", "wait")
    stream = shop.shop.start("stream_stream", "wait")
    assert next(stream) == "first"
    assert shop.shop.busy(2)
    ends: queue.Queue[bool] = queue.Queue()
    begin = time.monotonic()
    threading.Thread(target=lambda: ends.put(shop.drain(grace=10)), daemon=True).start()
    assert told.get(timeout=5) == "NOT_SERVING"
    assert time.monotonic() - begin < 1
    assert shop.shop.call("unary_unary", "late") == ["late!"]  # routers may not have heard yet
    while not _is_refused(shop):
        assert time.monotonic() - begin < 5
    assert time.monotonic() - begin >= 1
    assert ends.empty()
    shop.shop.shop.release.set()
    assert slow.result() == "wait!"
    assert list(stream) == ["wait!"]
    assert ends.get(timeout=5) is True
    assert told.get(timeout=5) == "end"
    assert (lifecycle.state, stopped) == ("stopped", ["draining"])


def _is_refused(shop: Healthy) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{shop.shop.port}") as channel:
        try:
            ask: Any = channel.unary_unary("/shop.Orders/unary_unary")
            ask(b"ok", timeout=2)
        except grpc.RpcError as error:
            failed: Any = error
            return bool(failed.code() is grpc.StatusCode.UNAVAILABLE)
        return False


@pytest.mark.realtime
def test_a_drain_has_an_end(serve: Any, stack: str) -> None:
    """RPCs that exceed the grace are cancelled, and the drain returns False."""
    shop = Healthy(serve, stack)
    shop.toolkit.lifecycle.started()
    slow = shop.shop.start("unary_unary", "wait")
    assert shop.shop.busy()
    begin = time.monotonic()
    assert shop.drain(grace="200ms") is False
    assert time.monotonic() - begin < 3
    assert slow.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    shop.shop.shop.release.set()
    assert shop.shop.settled()


@pytest.mark.realtime
def test_a_drain_without_requests_is_quick(serve: Any, stack: str) -> None:
    """With no RPC in flight a drain takes no time, with or without health streams. A second drain does no harm."""
    shop = Healthy(serve, stack)
    shop.toolkit.lifecycle.started()
    told, _ = shop.watch()
    assert told.get(timeout=5) == "SERVING"
    begin = time.monotonic()
    assert shop.drain() is True
    assert time.monotonic() - begin < 0.9
    assert shop.drain() is True
