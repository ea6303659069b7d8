"""Options and credentials of channels and servers, and lazy channels."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_upstream import Upstream, failing

from resilience import ConfigurationError, Pipeline, Resilience, Retry
from resilience_grpc import (
    AioLazyChannel,
    LazyChannel,
    aio_client_interceptors,
    channel_credentials,
    channel_options,
    client_interceptors,
    server_credentials,
    server_options,
    service_config,
)

GET, LIST = "/shop.Orders/Get", "/shop.Orders/List"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


def patiently(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_defaults_are_those_of_a_resilient_client() -> None:
    """Round robin over healthy addresses, no retries but our own, no pings that a server would punish."""
    options = dict(channel_options(Resilience.from_env({"RESILIENCE_SERVICE__NAME": "shop"})))
    assert json.loads(options.pop("grpc.service_config")) == {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
    }
    assert options == {"grpc.enable_retries": 0, "grpc.primary_user_agent": "shop"}
    assert server_options() == []


def test_every_option_reaches_grpc_by_its_name() -> None:
    """Durations become milliseconds, sizes bytes; the two halves of keepalive fit each other."""
    client = dict(
        channel_options(
            keepalive="1m",
            keepalive_timeout="5s",
            keepalive_without_calls=True,
            max_send_bytes=1000,
            max_receive_bytes=2000,
            reconnect_wait_max="10s",
            native_retries=3,
        )
    )
    assert client["grpc.keepalive_time_ms"] == 60_000
    assert client["grpc.keepalive_timeout_ms"] == 5000
    assert client["grpc.keepalive_permit_without_calls"] == 1
    assert (client["grpc.max_send_message_length"], client["grpc.max_receive_message_length"]) == (1000, 2000)
    assert (client["grpc.max_reconnect_backoff_ms"], client["grpc.enable_retries"]) == (10_000, 1)
    server = dict(
        server_options(
            keepalive="1m",
            max_connection_age="1h",
            max_connection_age_grace=30,
            max_connection_idle="5m",
            max_concurrent_streams=100,
            max_send_bytes=1,
            max_receive_bytes=2,
        )
    )
    assert server["grpc.http2.min_recv_ping_interval_without_data_ms"] < client["grpc.keepalive_time_ms"]
    assert server["grpc.keepalive_permit_without_calls"] == 1
    assert (server["grpc.max_connection_age_ms"], server["grpc.max_connection_age_grace_ms"]) == (3_600_000, 30_000)
    assert (server["grpc.max_connection_idle_ms"], server["grpc.max_concurrent_streams"]) == (300_000, 100)
    assert (server["grpc.max_send_message_length"], server["grpc.max_receive_message_length"]) == (1, 2)


@pytest.mark.parametrize("build", [channel_options, service_config, server_options])
def test_every_mistake_is_named_before_grpc_sees_it(build: Callable[..., Any]) -> None:
    """A value that grpcio would ignore, or fail on at the first call, is refused with the rule that it breaks."""
    wrong: list[tuple[dict[str, Any], list[str]]] = [
        ({"load_balancing": "least_request_experimental"}, ["load_balancing"]),
        ({"native_retries": 1}, ["native_retries"]),
        ({"native_retries": 10}, ["native_retries"]),
        ({"health_service": "a service"}, ["health_service"]),
        ({"health_service": "a", "load_balancing": "pick_first"}, ["health_service"]),
        ({"health_service": "a", "health_check": False}, ["health_service"]),
        (
            {"keepalive": "1s", "max_receive_bytes": "4MiB", "max_send_bytes": 0},
            ["keepalive", "max_send_bytes", "max_receive_bytes"],
        ),
        ({"keepalive_without_calls": True}, ["keepalive_without_calls"]),
    ]
    if build is server_options:
        wrong = [
            ({"max_connection_age": 0}, ["max_connection_age"]),
            ({"max_connection_age_grace": 5}, ["max_connection_age_grace"]),
            ({"keepalive": "soon", "max_concurrent_streams": -1}, ["keepalive", "max_concurrent_streams"]),
        ]
    for options, named in wrong:
        with pytest.raises(ConfigurationError) as caught:
            build(**options)
        assert [problem.option for problem in caught.value.problems] == named
    with pytest.raises(TypeError, match="hedging"):
        build(hedging=3)


def test_message_sizes_hold(upstream: Upstream) -> None:
    """A message over the limit is refused by the side that has the limit, in either direction."""
    for options, request, fails in (
        ({"max_send_bytes": 100}, b"x" * 101, True),
        ({"max_receive_bytes": 3}, b"", True),
        ({"max_send_bytes": 101, "max_receive_bytes": 4}, b"x" * 101, False),
    ):
        made = channel_options(**options)  # type: ignore[arg-type]  # a mapping of names known here alone
        with grpc.insecure_channel(upstream.target, options=made) as channel:
            get: Any = channel.unary_unary(GET)
            if fails:
                with pytest.raises(grpc.RpcError) as caught:
                    get(request, timeout=5)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            else:
                assert get(request, timeout=5) == b"fine"


@pytest.mark.parametrize(("native", "attempts"), [(None, 1), (3, 3)])
def test_grpcs_own_retries_are_on_only_where_asked(upstream: Upstream, native: int | None, attempts: int) -> None:
    """By default a call without interceptors is made once; `native_retries` lets gRPC repeat it."""
    upstream.otherwise = failing()
    with grpc.insecure_channel(upstream.target, options=channel_options(native_retries=native)) as channel:
        get: Any = channel.unary_unary(GET)
        with pytest.raises(grpc.RpcError):
            get(b"", timeout=5)
    assert len(upstream.seen) == attempts


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "plain"])
def test_attempts_are_numbered_where_grpc_lets_them(upstream: Upstream, is_ours: bool) -> None:  # noqa: FBT001 - a case
    """Over a channel with our options, the server gets the number of earlier attempts. gRPC's own retries drop it."""
    upstream.otherwise = failing()
    again = Pipeline("orders", Retry(3, wait_initial=0.001, wait_max=0.002))
    guards = client_interceptors(Resilience(), pipeline=again, idempotent=["*"])
    with grpc.insecure_channel(upstream.target, options=channel_options() if is_ours else None) as bare:
        get: Any = grpc.intercept_channel(bare, *guards).unary_unary(GET)
        with pytest.raises(grpc.RpcError):
            get(b"")
    assert [seen.attempt for seen in upstream.seen] == [None, *(("1", "2") if is_ours else (None, None))]


class Healthy:
    """A server with a health service, and one method that returns the name of the server."""

    def __init__(self, name: bytes, **options: Any) -> None:
        self.health = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(8), options=server_options(**options))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)

        def handle(_request: bytes, context: grpc.ServicerContext) -> bytes:
            return name + b" " + context.peer().encode()

        handlers: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(handle)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", handlers),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def become(self, status: Any) -> None:
        self.health.set("", status)

    def stop(self) -> None:
        self._server.stop(0).wait(10)


def test_calls_go_round_the_healthy_addresses() -> None:
    """Round robin uses every address, leaves an address that says NOT_SERVING, and returns to it."""
    one, two = Healthy(b"one"), Healthy(b"two")
    target = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"
    try:
        with grpc.insecure_channel(target, options=channel_options()) as channel:
            get: Any = channel.unary_unary(GET)

            def answering() -> set[bytes]:
                return {get(b"", timeout=5, wait_for_ready=True).split()[0] for _ in range(8)}

            patiently(lambda: answering() == {b"one", b"two"})
            one.become(NOT_SERVING)
            patiently(lambda: answering() == {b"two"})
            one.become(SERVING)
            patiently(lambda: answering() == {b"one", b"two"})
    finally:
        one.stop()
        two.stop()


@pytest.mark.realtime
def test_connections_grow_old() -> None:
    """After `max_connection_age` a client connects again, and loses no call."""
    server = Healthy(b"one", max_connection_age=1, max_connection_age_grace=5)
    try:
        options = channel_options(health_check=False)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            get: Any = channel.unary_unary(GET)
            first = get(b"", timeout=5)
            patiently(lambda: get(b"", timeout=5) != first)
    finally:
        server.stop()


def test_a_lazy_channel_is_made_once_at_its_first_call(upstream: Upstream) -> None:
    """Stubs of all kinds can be made before; the channel is made by the first call, and once for all threads."""
    made: list[Any] = []

    def make() -> grpc.Channel:
        made.append(grpc.intercept_channel(grpc.insecure_channel(upstream.target), *client_interceptors(Resilience())))
        return made[-1]  # type: ignore[no-any-return]  # a list of anything

    with LazyChannel(make) as lazy:
        get, listing = lazy.unary_unary(GET), lazy.unary_stream(LIST)
        put, chat = lazy.stream_unary("/shop.Orders/Put"), lazy.stream_stream("/shop.Orders/Chat")
        assert made == []
        assert get(b"", timeout=5) == b"fine"
        assert get.with_call(b"", timeout=5)[1].code() is grpc.StatusCode.OK
        assert get.future(b"", timeout=5).result(5) == b"fine"
        assert list(listing(b"")) == [b"fine"]
        assert put(iter([b"a"])) == b"fine"
        assert list(chat(iter([b"a"]))) == [b"fine"]
        states: list[Any] = []
        lazy.subscribe(states.append, try_to_connect=True)
        patiently(lambda: grpc.ChannelConnectivity.READY in states)
        lazy.unsubscribe(states.append)
        assert len(made) == 1
    with pytest.raises(ValueError, match="closed"):
        get(b"")
    lazy.close()


def test_a_closed_lazy_channel_stays_closed() -> None:
    """Closing a lazy channel that was never used makes no channel, then or later."""
    lazy = LazyChannel(lambda: pytest.fail("made"))
    lazy.close()
    with pytest.raises(ValueError, match="closed"):
        lazy.unary_unary(GET)(b"")


def test_many_threads_share_one_lazy_channel(upstream: Upstream) -> None:
    """Threads that make their first call at the same time share one channel. Any other that was made is closed."""
    made: list[Any] = []
    barrier = threading.Barrier(4)

    def make() -> grpc.Channel:
        barrier.wait(5)
        made.append(grpc.insecure_channel(upstream.target))
        return made[-1]  # type: ignore[no-any-return]  # a list of anything

    with LazyChannel(make) as lazy, ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: id(lazy.channel), range(4))) == {id(lazy.channel)}
        assert len(made) == 4


FORKING = """
import os, sys
import grpc
from resilience import Resilience
from resilience_grpc import LazyChannel, client_interceptors
guards = client_interceptors(Resilience())
lazy = LazyChannel(lambda: grpc.intercept_channel(grpc.insecure_channel(sys.argv[1]), *guards))
get = lazy.unary_unary("/shop.Orders/Get")
if sys.argv[2] == "used":
    assert get(b"", timeout=5) == b"fine"
for _ in range(2):
    child = os.fork()
    if not child:
        right = get(b"", timeout=5) == get.future(b"", timeout=5).result(5) == b"fine"
        lazy.close()
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
assert get(b"", timeout=5) == b"fine"
"""


@pytest.mark.servers
@pytest.mark.parametrize("before", ["new", "used"])
def test_a_forked_child_makes_its_own_channel(upstream: Upstream, before: str) -> None:
    """A child calls through a channel of its own, and the parent's works on, whether it was used before or not."""
    command = [sys.executable, "-c", FORKING, upstream.target, before]
    environment = os.environ | ({"GRPC_ENABLE_FORK_SUPPORT": "1"} if before == "used" else {})  # older grpcio needs it
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_lazy_aio_channel_is_made_for_each_loop(upstream: Upstream) -> None:
    """Made at import time, when no loop runs, it serves several loops, each with a channel of its own."""
    made: list[Any] = []
    interceptors = aio_client_interceptors(Resilience())

    def make() -> grpc.aio.Channel:
        made.append(grpc.aio.insecure_channel(upstream.target, interceptors=interceptors))
        return made[-1]  # type: ignore[no-any-return]  # a list of anything

    lazy = AioLazyChannel(make)
    get, listing = lazy.unary_unary(GET), lazy.unary_stream(LIST)
    put, chat = lazy.stream_unary("/shop.Orders/Put"), lazy.stream_stream("/shop.Orders/Chat")
    with pytest.raises(ConfigurationError, match="AioLazyChannel needs asyncio, and no task of asyncio runs this code"):
        get(b"")

    async def use() -> None:
        async with lazy:
            assert await get(b"") == b"fine"
            assert [answer async for answer in listing(b"")] == [b"fine"]
            assert await put(iter([b"a"])) == b"fine"
            assert [answer async for answer in chat(iter([b"a"]))] == [b"fine"]
            await lazy.channel_ready()
            assert lazy.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY
            await asyncio.wait_for(lazy.wait_for_state_change(grpc.ChannelConnectivity.IDLE), 5)
        with pytest.raises(grpc.aio.UsageError, match="closed"):
            get(b"")
        await lazy.close()

    for _ in range(2):
        asyncio.run(use())
    assert len(made) == 2


@pytest.mark.parametrize("lazy", [LazyChannel, AioLazyChannel])
@pytest.mark.parametrize("make", ["localhost:50051", grpc, None])
def test_a_lazy_channel_needs_a_function(lazy: Any, make: Any) -> None:
    """Anything but a plain function is refused when it is given, not at the first call."""
    with pytest.raises(ConfigurationError, match="make="):
        lazy(make)


@pytest.fixture
def secure(pki: Path, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start servers with TLS, on files that may be changed; return their port."""
    servers: list[Any] = []

    def serve(**options: Any) -> int:
        for suffix in ("pem", "key"):
            shutil.copy(pki / f"server.{suffix}", tmp_path / f"live.{suffix}")
        server = grpc.server(ThreadPoolExecutor(4))
        handlers: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"fine")}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", handlers),))
        credentials = server_credentials(tmp_path / "live.pem", tmp_path / "live.key", **options)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        return port

    yield serve
    for server in servers:
        server.stop(0).wait(10)


def ask(port: int, **files: Any) -> bytes:
    name = (("grpc.ssl_target_name_override", "localhost"),)
    with grpc.secure_channel(f"127.0.0.1:{port}", channel_credentials(**files), options=name) as channel:
        get: Any = channel.unary_unary(GET)
        answer: bytes = get(b"", timeout=5)
        return answer


def test_tls_from_files(pki: Path, secure: Callable[..., int]) -> None:
    """A client that knows the authority is answered; one that knows another is not."""
    port = secure()
    assert ask(port, ca=pki / "ca.pem") == b"fine"
    with pytest.raises(grpc.RpcError):
        ask(port, ca=str(pki / "stranger.pem"))


def test_mutual_tls_from_files(pki: Path, secure: Callable[..., int]) -> None:
    """With a `ca` the server answers only clients that its authority has signed."""
    port, ca = secure(ca=pki / "ca.pem"), pki / "ca.pem"
    assert ask(port, ca=ca, certificate=pki / "client.pem", key=pki / "client.key") == b"fine"
    for files in ({}, {"certificate": pki / "stranger.pem", "key": pki / "stranger.key"}):
        with pytest.raises(grpc.RpcError):
            ask(port, ca=ca, **files)


def served(port: int) -> bytes:
    """Return the certificate that a server shows."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=5).encode().strip()


def test_renewed_certificates_are_used(
    pki: Path, secure: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server uses changed files at the next handshake. It does not use half of a change, and logs it."""
    caplog.set_level(logging.WARNING, "resilience.grpc")
    port = secure()
    assert served(port) in (pki / "server.pem").read_bytes()
    shutil.copy(pki / "renewed.pem", tmp_path / "live.pem")
    assert served(port) in (pki / "server.pem").read_bytes()
    assert "TLS files have changed and are not used: certificate=" in caplog.text
    shutil.copy(pki / "renewed.key", tmp_path / "live.key")
    assert served(port) in (pki / "renewed.pem").read_bytes()
    (tmp_path / "live.pem").unlink()
    assert served(port) in (pki / "renewed.pem").read_bytes()


def test_every_bad_file_is_named_at_once(pki: Path) -> None:
    """A file that is missing, no PEM, locked or of another key is reported with its path, before anything is served."""
    for files, wrong in (
        ({"ca": "nowhere.pem", "certificate": "text.pem", "key": "server.pem"}, ["ca", "certificate", "key"]),
        ({"certificate": "server.pem"}, ["key"]),
        ({"key": "server.key"}, ["certificate"]),
        ({"ca": "garbage.pem"}, ["ca"]),
        ({"certificate": "server.pem", "key": "client.key"}, ["certificate"]),
        ({"certificate": "server.pem", "key": "locked.key"}, ["key"]),
    ):
        with pytest.raises(ConfigurationError) as caught:
            channel_credentials(**{option: pki / name for option, name in files.items()})
        assert [problem.option for problem in caught.value.problems] == wrong
        assert all(str(problem.value) in str(caught.value) for problem in caught.value.problems)
    with pytest.raises(ConfigurationError, match="certificate=None"):
        server_credentials(None, pki / "server.key")  # type: ignore[arg-type]  # wrong on purpose
    assert isinstance(channel_credentials(), grpc.ChannelCredentials)
