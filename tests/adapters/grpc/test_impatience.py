"""Over gRPC too, a caller that waits less than the service allows is no failure of the dependency."""

from __future__ import annotations

import asyncio
import contextlib
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest
from grpc_upstream import AioClient, Client, SyncClient, Upstream, answering, failing, hanging
from impatient_callers import PATIENCE, attack, until_answer_is, until_open

from resilience import CircuitBreaker, Deadline, DeadlineExceededError, Hedge, Pipeline, Resilience, Retry, Timeout
from resilience.budget import RetryBudget
from resilience.errors import cut_off_by_caller
from resilience_grpc import aio_client_interceptors, aio_server_interceptors, client_interceptors, server_interceptors

# The limits are short: on a machine that stands still, another one may end the call.
pytestmark = pytest.mark.realtime

GET = "/shop.Orders/Get"
KINDS = ("get", "list", "put", "chat")
LATE, UNAVAILABLE = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE
Make = Callable[..., Client]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture(params=[SyncClient, AioClient], ids=["sync", "aio"])
def make(request: pytest.FixtureRequest, upstream: Upstream) -> Iterator[Make]:
    """Make clients of either stack, guarded by the policies given."""
    with contextlib.ExitStack() as clients:

        def connected(*policies: Any, **named: Any) -> Client:
            client: Client = request.param(
                upstream.target, Resilience(), pipeline=Pipeline("orders", *policies), **named
            )
            clients.callback(client.close)
            client.get()  # connected: what follows takes no time
            return client

        yield connected


def impatient(seconds: float = 0.1) -> Deadline:
    """Return the deadline of a caller, in a service that sets none itself."""
    return Deadline.after(seconds, limit=math.inf)


def late(ask: Callable[..., Any], deadline: Deadline, **given: Any) -> Any:
    """Return the error of a call that the deadline ends."""
    with deadline, pytest.raises(grpc.RpcError) as raised:
        ask(**given)
    return raised.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_counts_nowhere(make: Make, upstream: Upstream, kind: str) -> None:
    """Law: calls of all four kinds, of both stacks, say that their caller cut them off; no breaker counts it."""
    breaker = CircuitBreaker(fail_max=10)
    client = make(breaker)
    upstream.otherwise = hanging()
    error = late(getattr(client, kind), impatient())
    assert error.code() is LATE
    found: Any = cut_off_by_caller(error)
    assert found is error
    assert error.allowed == math.inf
    assert pickle.loads(pickle.dumps(error)).is_callers
    assert breaker.fail_counter == 0


@pytest.mark.parametrize("patience", [PATIENCE, 0.1])
def test_a_timeout_policy_says_what_the_service_allows(make: Make, upstream: Upstream, patience: float) -> None:
    """Law: with a Timeout of 2 s a caller's shorter deadline is neutral."""
    breaker = CircuitBreaker(fail_max=10)
    client = make(breaker, Timeout(2))
    upstream.otherwise = hanging()
    error = late(client.get, impatient(patience))
    assert error.allowed == pytest.approx(2, abs=0.2)
    assert breaker.fail_counter == 0


@pytest.mark.parametrize(
    ("deadline", "timeout", "given"),
    [
        pytest.param(lambda: impatient(5), 0.1, {}, id="the Timeout"),
        pytest.param(lambda: Deadline.after(0.1), 2, {}, id="a deadline of the service"),
        pytest.param(lambda: impatient(5), 2, {"timeout": 0.1}, id="the timeout of the call"),
    ],
)
def test_what_used_all_that_the_service_allows_counts(
    make: Make, upstream: Upstream, deadline: Callable[[], Deadline], timeout: float, given: dict[str, Any]
) -> None:
    """Law: a call that a limit of the service ended is a failure of the dependency."""
    breaker = CircuitBreaker(fail_max=10)
    client = make(breaker, Timeout(timeout))
    upstream.otherwise = hanging()
    assert not late(client.get, deadline(), **given).is_callers
    assert breaker.fail_counter == 1


@pytest.mark.parametrize(("patience", "failures"), [(0.05, 0), (10, 1)])
def test_the_servers_own_word_is_read_by_the_time_it_comes(
    make: Make, upstream: Upstream, patience: float, failures: int
) -> None:
    """Law: DEADLINE_EXCEEDED from the server is neutral only if the deadline that we sent has nearly passed."""
    breaker = CircuitBreaker(fail_max=10)
    client = make(breaker)
    upstream.otherwise = failing(LATE)
    late(client.get, impatient(patience))
    assert breaker.fail_counter == failures


def test_a_cut_off_is_neither_retried_nor_hedged_and_spends_no_budget(make: Make, upstream: Upstream) -> None:
    """Law: after the caller's deadline no other attempt is made."""
    budget = RetryBudget(minimum=5)
    retry = Retry(attempts=3, on=Exception, wait_initial=0, wait_jitter=0, budget=budget)
    client = make(retry, Hedge(delay=5, budget=budget), idempotent=["*"], retryable=["DEADLINE_EXCEEDED"])
    upstream.otherwise = hanging()
    late(client.get, impatient())
    assert len(upstream.seen) == 2  # with the one that connects
    assert retry.snapshot()["retries"] == budget.snapshot()["refused"] == budget.extras == 0


def slow(_seen: Any) -> Iterator[bytes]:
    """Answer as a healthy dependency does, in 50 ms."""
    time.sleep(0.05)
    yield b"fine"


class Frontend:
    """A gRPC service that asks the upstream for each of its own answers, by the default pipeline."""

    def __init__(self, target: str) -> None:
        self.toolkit = Resilience.from_env({"RESILIENCE_LIFECYCLE__SIGNALS": "false"})
        self.target = target
        self.port = 0
        self.stub: Any = None

    def ask(self, is_impatient: bool) -> bool:  # noqa: FBT001 - what `attack` calls
        """Make one call; return whether it was answered."""
        try:
            return bool(self.stub(b"", timeout=PATIENCE if is_impatient else 10) == b"fine")
        except grpc.RpcError:
            return False

    @property
    def breaker(self) -> CircuitBreaker:
        policies: Any = self.toolkit.client_pipeline("shop.Orders", "any target").policies
        return cast("CircuitBreaker", policies[1].get("any target"))

    def _handler(self, behaviour: Any) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "shop.Front", {"Get": grpc.unary_unary_rpc_method_handler(behaviour)}
        )

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """Serve in threads."""
        with grpc.insecure_channel(self.target) as bare:
            ask: Any = grpc.intercept_channel(bare, *client_interceptors(self.toolkit)).unary_unary(GET)
            server = grpc.server(ThreadPoolExecutor(20), interceptors=server_interceptors(self.toolkit))
            server.add_generic_rpc_handlers((self._handler(lambda request, _context: ask(request, timeout=2)),))
            self.port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            yield
            server.stop(0).wait(10)

    @contextlib.contextmanager
    def tasks(self) -> Iterator[None]:
        """Serve on an event loop, in a thread of its own."""
        started, loop = threading.Event(), asyncio.new_event_loop()
        stop = asyncio.Event()

        async def serve() -> None:
            async with grpc.aio.insecure_channel(
                self.target, interceptors=aio_client_interceptors(self.toolkit)
            ) as channel:
                ask: Any = channel.unary_unary(GET)

                async def answer(request: bytes, _context: Any) -> Any:
                    return await ask(request, timeout=2)

                server = grpc.aio.server(interceptors=aio_server_interceptors(self.toolkit))
                server.add_generic_rpc_handlers((self._handler(answer),))
                self.port = server.add_insecure_port("127.0.0.1:0")
                await server.start()
                started.set()
                await stop.wait()
                await server.stop(0)

        thread = threading.Thread(target=loop.run_until_complete, args=[serve()], daemon=True)
        thread.start()
        assert started.wait(10)
        yield
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()
        loop.close()


@pytest.fixture(params=["threads", "tasks"])
def frontend(request: pytest.FixtureRequest, upstream: Upstream) -> Iterator[Frontend]:
    """Start a service of either stack that guards its calls to the upstream by the default policies."""
    serving = Frontend(upstream.target)
    with getattr(serving, request.param)(), grpc.insecure_channel(f"127.0.0.1:{serving.port}") as channel:
        serving.stub = channel.unary_unary("/shop.Front/Get")
        assert serving.ask(False)
        yield serving


def test_an_impatient_client_costs_no_other_user_a_call(upstream: Upstream, frontend: Frontend) -> None:
    """Law: callers with a deadline of 20 ms for an upstream's 50 ms fail alone; the circuit stays closed."""
    upstream.otherwise, kinds = slow, list[str]()
    frontend.breaker.events.subscribe(lambda event: kinds.append(event.kind))
    losses = attack(frontend.ask)
    assert losses.impatient > losses.asked / 4
    assert losses.lost == 0
    assert frontend.breaker.current_state == "closed"
    assert "breaker.opened" not in kinds


def test_a_hanging_upstream_is_found_out_by_impatient_clients_alone(upstream: Upstream, frontend: Frontend) -> None:
    """Law: if no call is answered in the time that the service allows, the circuit opens for all callers."""
    upstream.otherwise = hanging()
    assert until_open(frontend.ask, lambda: frontend.breaker.current_state)

    def answer() -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as refused:
            frontend.stub(b"", timeout=PATIENCE)
        return refused.value.code()

    assert until_answer_is(UNAVAILABLE, answer) is UNAVAILABLE
    upstream.otherwise = answering(b"fine")
    assert frontend.ask(False)


def test_a_call_that_was_not_made_is_no_cut_off(make: Make) -> None:
    """Law: without time left the call is not made, and the error says so."""
    breaker = CircuitBreaker(fail_max=10)
    error = late(make(breaker).get, impatient(0.001))
    assert isinstance(error, DeadlineExceededError)
    assert error.is_before_call
    assert breaker.fail_counter == 0
