"""The public types, as two checkers see them. Checked by mypy and pyright, never run."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any, assert_type

import grpc
import grpc.aio
import httpx
import httpx2
import pybreaker
import requests
import tenacity
from flask import Blueprint, Flask

from resilience import (
    AppError,
    AsyncPool,
    Bulkhead,
    Cache,
    CircuitBreaker,
    Deadline,
    ErrorCatalog,
    Fallback,
    Lifecycle,
    Pipeline,
    Policy,
    Pool,
    RateLimit,
    Resilience,
    Retry,
    RetryBudget,
    SingleFlight,
    Timeout,
    TokenBucket,
)
from resilience.client import client_headers, refuse_if_spent
from resilience.envelope import envelope_of
from resilience.health import HealthServer
from resilience.policy import AroundPolicy
from resilience_flask import FlaskResilience, exempt, health_blueprint, rate_limit
from resilience_grpc import (
    AioLazyChannel,
    LazyChannel,
    add_health,
    adrain,
    aio_client_interceptors,
    aio_server_interceptors,
    channel_credentials,
    channel_options,
    client_interceptors,
    drain,
    per_method,
    server_credentials,
    server_interceptors,
    server_options,
    service_config,
)
from resilience_http import (
    AsyncResilienceTransport,
    ResilienceAdapter,
    ResilienceTransport,
    per_host,
    raise_for_envelope,
)
from resilience_http.httpx2 import AsyncResilienceTransport as AsyncGuard2
from resilience_http.httpx2 import ResilienceTransport as Guard2

breaker = CircuitBreaker(failure_rate_threshold=0.5, sliding_window=100, minimum_calls=20, reset_timeout=30)
payments = Pipeline(
    "payments",
    Fallback(None, on=KeyError),
    Retry(attempts=3, on=ConnectionError, wait_initial=0.1, wait_max=5, wait_jitter=1, timeout=None, budget=None),
    breaker,
    RateLimit("50/second", burst=100),
    Bulkhead(max_concurrent_calls=20, max_wait=0),
    Timeout("800ms"),
)
Retry(wait=tenacity.wait_fixed(1), stop=tenacity.stop_after_attempt(3), on=(OSError, lambda error: 1.5))
Retry(budget=RetryBudget(ratio=0.2))


@payments
def blocking(order: int, *, express: bool = False) -> str:
    return str(order)


@payments
async def awaiting(order: int) -> str:
    return str(order)


@payments
def generating(count: int) -> Generator[int, None, str]:
    yield count
    return "end"


@payments
async def streaming(count: int) -> AsyncGenerator[int, None]:
    yield count


@breaker
def alone(order: int) -> str:
    return str(order)


@breaker()
async def called(order: int) -> str:
    return str(order)


class Service:
    @payments
    def method(self, order: int) -> str:
        return str(order)


def plain() -> Awaitable[int]:
    raise AssertionError


async def uses() -> None:
    assert_type(blocking(1, express=True), str)
    assert_type(await awaiting(1), str)
    assert_type(generating(1), Generator[int, None, str])
    assert_type([item async for item in streaming(1)], list[int])
    assert_type(Service().method(1), str)
    assert_type(payments.call(int, "7", base=8), int)
    assert_type(alone(1), str)
    assert_type(await called(1), str)
    assert_type(await breaker.call_async(awaiting, 1), str)
    assert_type(payments.wrap_async(plain), Callable[[], Coroutine[Any, Any, int]])
    assert_type(await payments.acall(awaiting, 1), str)
    assert_type(await payments.acall(blocking, 1, express=True), str)
    assert_type(await payments.acall(plain), int)
    with payments.guard():
        pass
    async with payments.guard():
        pass
    assert_type(Deadline.current(), Deadline | None)
    decision = TokenBucket("100/minute", 10).acquire("key", 2)
    assert_type(decision.allowed, bool)
    assert_type(decision.remaining, int)
    assert_type((await TokenBucket("100/minute").aacquire("key")).allowed, bool)


def is_a(policy: Policy, around: AroundPolicy, upstream: pybreaker.CircuitBreaker) -> None: ...


is_a(breaker, Timeout(1), breaker)
is_a(Bulkhead(), Fallback(1), breaker)
is_a(
    Bulkhead(), Cache("5m", max_size=10, key=lambda order: order, cache_if=bool, on=(OSError, lambda _e: True)), breaker
)
is_a(Bulkhead(), SingleFlight("2s", key=lambda order: order), breaker)
is_a(Bulkhead(), Fallback(chain=[str, None], on=(KeyError, lambda _e: True), on_result=bool, pass_call=True), breaker)


async def aconnect() -> bytes:
    return b""


def toolkit() -> None:
    resilience = Resilience.from_env({"RESILIENCE_SERVICE__NAME": "orders"})
    assert_type(resilience.pipeline("payments"), Pipeline)
    assert_type(resilience.limiter("login", rate="5/minute"), TokenBucket)
    assert_type(resilience.pool("ledger", connect=lambda: 1, maximum_pool_size=2, close=print), Pool[int])
    assert_type(resilience.async_pool("events", aconnect, idle_timeout="5m"), AsyncPool[bytes])
    assert_type(resilience.pool("ledger"), Pool[Any])
    assert_type(resilience.catalog, ErrorCatalog)
    assert_type(resilience.catalog.error("ORDERS_V001"), AppError)
    resilience.close()


def outgoing() -> None:
    httpx.Client(transport=ResilienceTransport(httpx.HTTPTransport(), Resilience(), pipeline="payments"))
    httpx.AsyncClient(
        transport=AsyncResilienceTransport(pipeline=Pipeline("p", per_host(lambda host: CircuitBreaker())))
    )
    requests.Session().mount("https://", ResilienceAdapter(raises_envelopes=True, pool_maxsize=5))
    httpx2.Client(transport=Guard2(httpx2.HTTPTransport(), Resilience(), pipeline="payments"))
    httpx2.AsyncClient(transport=AsyncGuard2(httpx2.AsyncHTTPTransport()))
    assert_type(Guard2().handle_request(httpx2.Request("GET", "http://localhost")), httpx2.Response)
    assert_type(ResilienceTransport().handle_request(httpx.Request("GET", "http://localhost")), httpx.Response)
    assert_type(Guard2().inner, httpx2.BaseTransport)
    assert_type(raise_for_envelope(httpx.get("http://localhost")), httpx.Response)
    assert_type(raise_for_envelope(requests.get("http://localhost", timeout=1)), requests.Response)
    assert_type(client_headers(margin="20ms"), dict[str, str])
    assert_type(refuse_if_spent(), float | None)


def wants_order(view: Callable[[int], Awaitable[str]]) -> None: ...


def flask_application() -> None:
    app, admin = Flask("shop"), Blueprint("admin", __name__)
    extension = FlaskResilience(key=lambda: "everybody")
    extension.init_app(app)
    assert_type(FlaskResilience(app, Resilience()).resilience, Resilience)
    assert_type(extension.serve_health(0, host="0.0.0.0", app=app), HealthServer)  # noqa: S104 - as Kubernetes needs it
    assert_type(rate_limit("5/minute", burst=10, key="user", cost=2, name="all")(admin), Blueprint)
    assert_type(exempt(health_blueprint(Resilience(), url_prefix="/internal")), Blueprint)

    @rate_limit(lambda: None, key=lambda: "key", cost=lambda: 2)
    async def view(order: int) -> str:
        return str(order)

    wants_order(view)


async def grpc_servers(threads: grpc.Server, tasks: grpc.aio.Server) -> None:
    toolkit = Resilience()
    guards = server_interceptors(toolkit, authenticate=lambda context: context.peer(), validate=bool)
    assert_type(guards, list[grpc.ServerInterceptor])
    assert_type(aio_server_interceptors(key=lambda context: "all"), list[grpc.aio.ServerInterceptor])
    assert_type(add_health(threads, toolkit, services={"shop.Orders": "ready"}), Resilience)
    assert_type(add_health(tasks, interval="2s"), Resilience)
    assert_type(drain(threads, toolkit, grace="5s"), bool)
    assert_type(await adrain(tasks), bool)


def grpc_clients() -> None:
    options = channel_options(Resilience(), keepalive="1m", max_receive_bytes=2**20, load_balancing="round_robin")
    assert_type(options, list[tuple[str, Any]])
    assert_type(server_options(keepalive="1m", max_connection_age=60), list[tuple[str, Any]])
    assert_type(service_config(health_service="shop.Orders"), str)
    assert_type(channel_credentials("ca.pem", certificate="c.pem", key="k.pem"), grpc.ChannelCredentials)
    assert_type(server_credentials("c.pem", "k.pem", ca="ca.pem"), grpc.ServerCredentials)
    bare = LazyChannel(lambda: grpc.insecure_channel("localhost:50051", options=options))
    shop = Pipeline("shop", Retry(), per_method(lambda method: CircuitBreaker(name=method)))
    guards = client_interceptors(Resilience(), pipeline=shop, idempotent=["shop.Orders/*"], retryable=["UNAVAILABLE"])
    assert_type(grpc.intercept_channel(bare, *guards), grpc.Channel)
    others = aio_client_interceptors(pipeline=lambda method: "shop" if method.startswith("shop.") else None)
    AioLazyChannel(lambda: grpc.aio.insecure_channel("localhost:50051", options=options, interceptors=others))


def wants_number(hook: Callable[[], int]) -> None: ...


async def a_life(pool: httpx.Client) -> None:
    lifecycle = Resilience().lifecycle

    @lifecycle.on_start
    def one() -> int:
        return 1

    @lifecycle.on_stop(timeout="5s", name="two")
    def two() -> int:
        return 2

    @lifecycle.depends_on(interval="1s")
    async def three() -> bool:
        return True

    wants_number(one)
    wants_number(two)
    assert_type(lifecycle.close_on_stop(pool), httpx.Client)
    assert_type(lifecycle.install_signals(), bool)
    assert_type(lifecycle.wait_drained("5s"), bool)
    assert_type(await lifecycle.await_drained(), bool)
    async with lifecycle as same:
        assert_type(same, Lifecycle)
    assert_type(ErrorCatalog().localized(envelope_of(ValueError()), "de").language, str)
