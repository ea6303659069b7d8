"""The context of an RPC, and drains of servers without interceptors or health."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from grpc_shop import Tasks, Threads
from redis_process import RedisProcess

from resilience import Resilience
from resilience_grpc import add_health, adrain, drain
from resilience_grpc._status import DETAILS

OWN = Status(code=5, message="no such order")


class OwnStatus(grpc.Status):
    code = grpc.StatusCode.NOT_FOUND
    details = OWN.message
    trailing_metadata = ((DETAILS, OWN.SerializeToString()),)


class Talkative(Threads):
    """Uses all members of the context that a plain function gets."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.active: list[bool] = []

    def unary_unary(self, text: str, servicer: Any) -> str:
        if text == "status":
            servicer.abort_with_status(OwnStatus())
        servicer.send_initial_metadata((("early", "1"),))
        assert servicer.add_callback(self.over.set)
        self.active.append(servicer.is_active())
        return servicer.peer()[:4]  # type: ignore[no-any-return]  # grpcio has no types for it


class TalkativeTasks(Tasks):
    """The same methods as coroutines."""

    async def unary_unary(self, text: str, servicer: Any) -> str:
        await servicer.abort_with_status(OwnStatus())
        return text


def test_a_status_of_its_own(serve: Any, stack: str) -> None:
    """The status of an abort arrives unchanged, with its details."""
    shop = serve(stack, shop=TalkativeTasks() if stack == "aio" else Talkative())
    failed = shop.failure("unary_unary", "status")
    assert (failed.code(), failed.details()) == (grpc.StatusCode.NOT_FOUND, "no such order")
    assert Status.FromString(dict(failed.trailing_metadata())[DETAILS]) == OWN


@pytest.mark.parametrize("stack", ["sync", "aio-plain"])
def test_plain_functions_have_a_whole_context(serve: Any, stack: str) -> None:
    """Initial metadata, callbacks and whether the client still waits are there for threads on both stacks."""
    talkative = Talkative()
    shop = serve(stack, shop=talkative)
    call = shop.start("unary_unary", "ok")
    assert call.result() == "ipv4"
    assert ("early", "1") in tuple(call.initial_metadata())
    assert talkative.active == [True]
    assert talkative.over.wait(5)


@pytest.mark.parametrize("found", [7, [7], object()], ids=["number", "numbers", "thing"])
def test_hooks_that_answer_nonsense(serve: Any, stack: str, found: Any) -> None:
    """If `validate` returns a value of a wrong type, the RPC ends with INTERNAL."""
    shop = serve(stack, validate=lambda text: found)
    assert shop.failure("unary_unary", "never").code() is grpc.StatusCode.INTERNAL
    assert "names" not in shop.shop.seen


@pytest.mark.redis
def test_rate_limit_on_redis(serve: Any, stack: str, redis_server: RedisProcess) -> None:
    """A limit that is kept on Redis refuses as one in memory does."""
    shop = serve(stack, {"SERVER__RATE_LIMIT": "2/hour", "REDIS__URL": redis_server.url})
    assert [shop.call("unary_unary", "ok") for _ in range(2)] == [["ok!"]] * 2
    assert shop.failure("unary_unary", "ok").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert shop.settled()
    shop.toolkit.close()


class Kept:
    """The server behind a shop, and the loop it is in."""

    def __init__(self) -> None:
        self.server: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, server: Any, _toolkit: Resilience) -> None:
        self.server = server
        if isinstance(server, grpc.aio.Server):
            self.loop = asyncio.get_running_loop()

    def drain(self, *arguments: Any, **options: Any) -> bool:
        if self.loop is None:
            return drain(self.server, *arguments, **options)
        return asyncio.run_coroutine_threadsafe(adrain(self.server, *arguments, **options), self.loop).result(20)


@pytest.mark.realtime
@pytest.mark.parametrize("stack", ["sync", "aio"])
def test_a_drain_by_a_toolkit_that_counts_nothing(serve: Any, stack: str) -> None:
    """A drain without a toolkit lets the RPCs in flight finish."""
    kept = Kept()
    shop = serve(stack, prepare=kept)
    slow = shop.start("unary_unary", "sleep1.5")
    assert shop.busy()
    begin = time.monotonic()
    assert kept.drain(grace=10) is True
    assert 1 < time.monotonic() - begin < 5
    assert slow.result() == "sleep1.5!"


@pytest.mark.parametrize("stack", ["sync", "aio"])
def test_a_drain_by_a_toolkit_that_counts_nothing_has_an_end(serve: Any, stack: str) -> None:
    """A drain without a toolkit returns False if it cancels an RPC."""
    kept = Kept()
    shop = serve(stack, prepare=kept)
    slow = shop.start("unary_unary", "wait")
    assert shop.busy()
    assert kept.drain(grace="200ms") is False
    assert slow.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    shop.shop.release.set()
    assert kept.drain(grace="200ms") is True


@pytest.mark.parametrize("stack", ["sync", "aio"])
def test_a_drain_without_health(serve: Any, stack: str) -> None:
    """A server without a health service is drained as well."""
    kept = Kept()
    shop = serve(stack, prepare=kept)
    slow = shop.start("unary_unary", "wait")
    assert shop.busy()
    threading.Timer(0.2, shop.shop.release.set).start()
    assert kept.drain(shop.toolkit, grace=10) is True
    assert slow.result() == "wait!"
    assert shop.toolkit.lifecycle.state == "stopped"


@pytest.mark.parametrize("stack", ["sync", "aio"])
def test_health_with_a_toolkit_from_the_environment(serve: Any, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a toolkit, `add_health` makes one from the environment and returns it. A drain finds it again."""
    made: list[Resilience] = []
    kept = Kept()

    def prepare(server: Any, toolkit: Resilience) -> None:
        kept(server, toolkit)
        made.append(add_health(server))

    monkeypatch.setenv("RESILIENCE_SERVICE__NAME", "orders")
    shop = serve(stack, prepare=prepare)
    assert made[0].config.service.name == "orders"
    made[0].lifecycle.started()
    check: Any = shop.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    assert check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert kept.drain() is True
    assert made[0].lifecycle.state == "stopped"
