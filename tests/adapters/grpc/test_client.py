"""Guarded calls, of all four kinds, on `grpc` and on `grpc.aio`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status  # type: ignore[import-untyped]  # it brings no types
from grpc_upstream import AioClient, Client, SyncClient, Upstream, answering, failing, hanging

from resilience import (
    AppError,
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Resilience,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
)
from resilience.envelope import envelope_of
from resilience.errors import ConfigurationError
from resilience.server import RequestContext
from resilience.testing import RecordingListener
from resilience_grpc import aio_client_interceptors, client_interceptors, per_method
from resilience_grpc._status import status_of

UNAVAILABLE, NOT_FOUND = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND
KINDS = ("get", "list", "put", "chat")
Make = Callable[..., Client]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture(params=[SyncClient, AioClient], ids=["sync", "aio"])
def make(request: pytest.FixtureRequest, upstream: Upstream) -> Iterator[Make]:
    """Make clients of either stack, guarded by the policies given."""
    clients: list[Client] = []

    def connected(*policies: Any, toolkit: Resilience | None = None, **named: Any) -> Client:
        if policies:
            named["pipeline"] = Pipeline("orders", *policies)
        clients.append(request.param(upstream.target, toolkit or Resilience(), **named))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


def quick(attempts: int = 3, **options: Any) -> Retry:
    return Retry(attempts, wait_initial=0.001, wait_max=0.002, **options)


def is_rpc_error(error: object) -> bool:
    return isinstance(error, grpc.RpcError)


def patiently(is_so: Callable[[], bool]) -> None:
    """Wait until another thread has made a condition true."""
    until = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_go_through(upstream: Upstream, make: Make, kind: str) -> None:
    """A call of each kind returns the server's responses, and the server gets the requests."""
    upstream.otherwise = answering(b"one", b"two")
    expected = [b"one", b"two"] if kind in {"list", "chat"} else b"one"
    assert getattr(make(), kind)() == expected
    assert upstream.seen[0].requests == ([b"a", b"b"] if kind in {"put", "chat"} else [b""])


@pytest.mark.parametrize("kind", ["get", "list"])
def test_listed_methods_are_retried(upstream: Upstream, make: Make, kind: str) -> None:
    """An idempotent call is made again after UNAVAILABLE, and the server learns which attempt it is."""
    upstream.script = [failing(), failing()]
    assert getattr(make(quick(), idempotent=["/shop.Orders/Get", "shop.Orders/List"]), kind)()
    assert upstream.attempts == [None, "1", "2"]


def test_the_log_names_the_status(make: Make, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    """The line of an opened circuit has the status of the last error."""
    upstream.script = [failing(UNAVAILABLE)]
    with pytest.raises(grpc.RpcError):
        make(CircuitBreaker(fail_max=1)).get()
    (line,) = caplog.messages
    assert "last AppError UNAVAILABLE; next trial in " in line


def test_methods_may_be_listed_by_configuration(upstream: Upstream, make: Make) -> None:
    """Methods are idempotent if the environment or the code names them."""
    toolkit = Resilience.from_env({"RESILIENCE_CLIENT__IDEMPOTENT_METHODS": "shop.Orders/Get, /other.Orders/*"})
    upstream.script = [failing(), failing()]
    client = make(quick(), toolkit=toolkit, idempotent=["shop.Orders/List"])
    assert (client.get(), client.list()) == (b"fine", [b"fine"])
    with pytest.raises(ConfigurationError, match="RESILIENCE_CLIENT__IDEMPOTENT_METHODS='Get'"):
        Resilience.from_env({"RESILIENCE_CLIENT__IDEMPOTENT_METHODS": "Get"})


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_is_retried(upstream: Upstream, make: Make, kind: str) -> None:
    """A method that is not listed is called once. So is a listed method with streamed requests."""
    upstream.otherwise = failing()
    for idempotent in ([], ["shop.Orders/Other", "other.Orders/*"], ["*"] if kind in {"put", "chat"} else []):
        with pytest.raises(grpc.RpcError) as caught:
            getattr(make(quick(), idempotent=idempotent), kind)()
        assert caught.value.code() is UNAVAILABLE
    assert upstream.attempts == [None] * 3


def test_a_stream_is_not_retried_after_its_first_answer(upstream: Upstream, make: Make) -> None:
    """A stream that breaks after its first response ends with its error."""
    upstream.otherwise = failing(after=(b"one",))
    with pytest.raises(grpc.RpcError):
        make(quick(), idempotent=["*"]).list()
    assert upstream.attempts == [None]


@pytest.mark.parametrize("kind", ["get", "list"])
def test_retries_give_up_with_the_servers_error(upstream: Upstream, make: Make, kind: str) -> None:
    """After the last attempt, the caller gets the error of that attempt, with a note of the earlier ones."""
    upstream.otherwise = failing()
    with pytest.raises(grpc.RpcError) as caught:
        getattr(make(quick(), idempotent=["*"]), kind)()
    assert (caught.value.code(), caught.value.details()) == (UNAVAILABLE, "down")
    assert "3 attempts" in caught.value.__notes__[0]
    assert upstream.attempts == [None, "1", "2"]


def test_only_statuses_that_may_pass_are_retried(upstream: Upstream, make: Make) -> None:
    """By default UNAVAILABLE, DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED; `retryable` names others."""
    for code, attempts in ((NOT_FOUND, 1), (grpc.StatusCode.INTERNAL, 1), (grpc.StatusCode.RESOURCE_EXHAUSTED, 3)):
        upstream.otherwise = failing(code)
        upstream.seen.clear()
        with pytest.raises(grpc.RpcError):
            make(quick(), idempotent=["*"]).get()
        assert len(upstream.seen) == attempts
    upstream.otherwise, upstream.script = answering(b"fine"), [failing(grpc.StatusCode.ABORTED)]
    assert make(quick(), idempotent=["*"], retryable=["ABORTED", grpc.StatusCode.INTERNAL]).get() == b"fine"


def test_pushback_is_waited_for(upstream: Upstream, make: Make) -> None:
    """`grpc-retry-pushback-ms` is a floor for the wait of the retry."""
    upstream.script = [failing(trailing=(("grpc-retry-pushback-ms", "150"),))]
    begun = time.monotonic()
    assert make(quick(), idempotent=["*"]).get() == b"fine"
    assert time.monotonic() - begun >= 0.15


@pytest.mark.parametrize("asked", ["-1", "soon", "1e3", "99999999999"])
def test_pushback_below_zero_means_never(upstream: Upstream, make: Make, asked: str) -> None:
    """A negative or unreadable pushback ends the retry."""
    upstream.otherwise = failing(trailing=(("grpc-retry-pushback-ms", asked),))
    with pytest.raises(grpc.RpcError):
        make(quick(), idempotent=["*"]).get()
    assert len(upstream.seen) == 1


def test_pushback_has_a_bound(upstream: Upstream, make: Make) -> None:
    """A pushback of months ends the retry with the call's own error, and opens the circuit for minutes."""
    upstream.otherwise = failing(trailing=(("grpc-retry-pushback-ms", "9999999999"),))
    breaker = CircuitBreaker(1)
    with pytest.raises(grpc.RpcError) as caught:
        make(Retry(attempts=3), breaker, idempotent=["*"]).get()
    assert len(upstream.seen) == 1
    assert breaker.retry_after is not None
    assert 200 < breaker.retry_after <= 300
    error: Any = caught.value
    assert (error.retry_after, error.is_remote) == (9_999_999.999, True)


@pytest.mark.parametrize("kind", KINDS)
def test_failures_open_the_circuit(upstream: Upstream, make: Make, kind: str) -> None:
    """A refused call is a CircuitOpenError and an RpcError with UNAVAILABLE, and the server never sees it."""
    client = make(CircuitBreaker(2))
    upstream.otherwise = failing()
    for _ in range(2):
        with pytest.raises(grpc.RpcError):
            getattr(client, kind)()
    with pytest.raises(CircuitOpenError) as caught:
        getattr(client, kind)()
    error: Any = caught.value
    assert is_rpc_error(error)
    assert error.code() is UNAVAILABLE
    assert (error.code, error.policy, error.retry_after > 0) == ("CIRCUIT_OPEN", "orders.breaker", True)
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_open_the_circuit(upstream: Upstream, make: Make, kind: str) -> None:
    """NOT_FOUND, INVALID_ARGUMENT and similar statuses are successes for the breaker: they end a row of failures."""
    client = make(CircuitBreaker(2))
    for code in (UNAVAILABLE, NOT_FOUND, UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT, UNAVAILABLE):
        upstream.otherwise = failing(code)
        with pytest.raises(grpc.RpcError) as caught:
            getattr(client, kind)()
        assert caught.value.code() is code
    assert len(upstream.seen) == 5


def test_a_server_that_was_restarted_is_found_again(upstream: Upstream, make: Make) -> None:
    """Killed, every call fails and the circuit opens; restarted, `wait_for_ready` and a retry lead back to it."""
    client = make(quick(), CircuitBreaker(20), idempotent=["*"])
    assert client.get() == b"fine"
    upstream.stop()
    with pytest.raises(grpc.RpcError) as caught:
        client.get()
    assert caught.value.code() is UNAVAILABLE
    upstream.start()
    assert client.get(wait_for_ready=True, timeout=5) == b"fine"
    assert client.list() == [b"fine"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_deadline_in_force_is_sent(upstream: Upstream, make: Make, kind: str) -> None:
    """The server gets the time left of the request's deadline, less the margin. A shorter timeout wins."""
    client = make()
    with Deadline.after(4):
        getattr(client, kind)()
        getattr(client, kind)(timeout=2)
        getattr(client, kind)(timeout=9)
    remaining = [seen.remaining for seen in upstream.seen]
    assert [-0.03 < most - left < 1 for most, left in zip((3.99, 2, 3.99), remaining, strict=True)] == [True] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_is_made_when_no_time_is_left(upstream: Upstream, make: Make, kind: str) -> None:
    """Within the margin of the deadline a call is refused here, as DeadlineExceededError and as RpcError."""
    client = make(CircuitBreaker(1))
    with Deadline.after("5ms"), pytest.raises(DeadlineExceededError) as caught:
        getattr(client, kind)()
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert is_rpc_error(error)
    assert error.is_before_call
    assert getattr(client, kind)()  # which says nothing about the server: the circuit is closed
    assert len(upstream.seen) == 1


def test_a_timeout_spans_all_attempts(upstream: Upstream, make: Make) -> None:
    """The timeout of a call spans all attempts: the second attempt has the time that the first has left."""
    upstream.script = [failing(trailing=(("grpc-retry-pushback-ms", "200"),))]
    make(quick(), idempotent=["*"]).get(timeout=4)
    first, second = (seen.remaining for seen in upstream.seen)
    assert 0.15 < first - second < 4


@pytest.mark.realtime
def test_a_call_in_a_call_has_less_time(upstream: Upstream, make: Make) -> None:
    """Every hop passes on its deadline less its margin."""
    client = make()
    for allowed in (1.0, 0.8, 0.5):
        with Deadline.after(allowed):
            client.get()
    left = [seen.remaining for seen in upstream.seen]
    assert all(0 < remaining < allowed for allowed, remaining in zip((1.0, 0.8, 0.5), left, strict=True))


@pytest.mark.realtime
@pytest.mark.parametrize("kind", ["get", "put"])
def test_a_timeout_policy_is_kept_by_grpc_itself(upstream: Upstream, make: Make, kind: str) -> None:
    """A `Timeout` is the deadline of the attempt at the server. The error is of both families. No thread waits."""
    timeout = Timeout(0.5)
    client = make(timeout)
    upstream.otherwise = hanging()
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError) as caught:
        getattr(client, kind)()
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 3
    assert upstream.seen[0].remaining < 0.51  # on the wire a timeout has few digits, rounded up
    assert upstream.seen[0].wait_until_ended()
    assert timeout.snapshot() == {"busy_threads": 0, "late_threads": 0, "elapsed": 1}


@pytest.mark.parametrize(("on_timeout", "calls"), [(True, 2), (False, 1)], ids=["on", "off"])
def test_the_timeout_of_an_attempt_is_repeated(upstream: Upstream, make: Make, *, on_timeout: bool, calls: int) -> None:
    """A retry repeats an attempt that the `Timeout` inside ended, whatever errors it names, unless it says not to."""
    retry = Retry(2, on=ConnectionError, wait_initial=0, on_timeout=on_timeout)
    client = make(retry, Timeout(0.2), idempotent=["shop.Orders/Get"])
    upstream.otherwise = hanging()
    with pytest.raises(DeadlineExceededError):
        client.get()
    assert len(upstream.seen) == calls


@pytest.mark.parametrize("kind", ["list", "chat"])
def test_a_timeout_policy_leaves_streams_alone(upstream: Upstream, make: Make, kind: str) -> None:
    """A `Timeout` does not end a stream. Only the timeout of the call and the deadline in force do."""
    client = make(Timeout(0.05))
    upstream.otherwise = hanging(0.2)
    assert getattr(client, kind)() == [b"late"]
    with pytest.raises(DeadlineExceededError):
        getattr(client, kind)(timeout=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_travels(upstream: Upstream, make: Make, kind: str) -> None:
    """Request id, trace and baggage of the request being served are sent. Metadata of the caller stay."""
    headers = {"tracestate": "a=1", "baggage": "user=7"}
    request = RequestContext("r-1", "4bf92f3577b34da6a3ce929d0e0e4736", headers=headers)
    with request:
        getattr(make(), kind)(metadata=(("x-request-id", "mine"), ("key-bin", b"\x00\xff"), ("k", "1"), ("k", "2")))
        getattr(make(), kind)()
    given, carried = (seen.metadata for seen in upstream.seen)
    assert (given["x-request-id"], given["key-bin"], given["k"]) == ("mine", b"\x00\xff", "2")
    assert carried["x-request-id"] == "r-1"
    assert carried["traceparent"].startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")  # type: ignore[arg-type]  # text
    assert (carried["tracestate"], carried["baggage"]) == ("a=1", "user=7")


def test_outside_a_request_nothing_is_added(upstream: Upstream, make: Make) -> None:
    """Without a request, no metadata are added."""
    make().get()
    assert not {"x-request-id", "traceparent", "baggage"} & set(upstream.seen[0].metadata)


@pytest.mark.parametrize("policies", [(), (quick(1),), (CircuitBreaker(5),)], ids=["none", "retry", "breaker"])
@pytest.mark.parametrize("kind", KINDS)
def test_envelopes_arrive_as_they_were_raised(upstream: Upstream, make: Make, kind: str, policies: Any) -> None:
    """Code, message, details, wait and request id of a remote AppError are those of the one raised here."""
    error = AppError("SHOP_C001", "Sold out.", details={"sku": "a"}, http_status=409, grpc_status="ABORTED")
    error.retry_after = 1.5
    status = status_of(envelope_of(error, request_id="far"), "shop")
    trailing = (("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "far-1"))
    upstream.otherwise = failing(grpc.StatusCode.ABORTED, "Sold out.", trailing=trailing)
    with pytest.raises(AppError) as caught:
        getattr(make(*policies), kind)()
    received: Any = caught.value
    assert (received.code, received.message, received.details, received.retry_after) == (
        "SHOP_C001",
        "Sold out.",
        {"sku": "a"},
        1.5,
    )
    assert (received.http_status, received.grpc_status, received.request_id) == (409, "ABORTED", "far-1")
    assert (received.code(), received.details(), is_rpc_error(received)) == (
        grpc.StatusCode.ABORTED,
        "Sold out.",
        True,
    )
    assert ("x-request-id", "far-1") in [(key, value) for key, value in received.trailing_metadata()]
    assert rpc_status.from_call(received) == status
    assert envelope_of(received).body() == {**envelope_of(error).body()}


@pytest.mark.realtime
def test_a_late_answer_is_hedged(upstream: Upstream, make: Make) -> None:
    """If the first attempt is late, a second is made, its response is used, and the first is cancelled."""
    hedge = Hedge(0.05)
    client = make(hedge, idempotent=["*"])
    upstream.script = [hanging()]
    begun = time.monotonic()
    assert client.get(b"same") == b"fine"
    assert time.monotonic() - begun < 2
    assert upstream.attempts == [None, "1"]
    assert [seen.requests for seen in upstream.seen] == [[b"same"], [b"same"]]
    assert upstream.seen[0].wait_until_ended()
    patiently(lambda: hedge.snapshot()["busy_threads"] + hedge.snapshot()["lingering"] == 0)
    assert hedge.snapshot()["won"] == 1


def test_what_lost_a_race_is_scored_by_nobody(upstream: Upstream, make: Make) -> None:
    """An attempt that is cancelled because another won is no failure of the server, and keeps no place."""
    breaker, bulkhead = CircuitBreaker(1), Bulkhead(2)
    client = make(Hedge(0.02), breaker, bulkhead, idempotent=["*"])
    for _ in range(5):
        upstream.script = [hanging()]
        assert client.get() == b"fine"
        patiently(lambda: bulkhead.concurrent_calls == 0)
    assert breaker.current_state == "closed"


def test_nothing_else_is_hedged(upstream: Upstream, make: Make) -> None:
    """A call that may not be made twice is made once, however late its response is."""
    upstream.otherwise = hanging(0.1)
    client = make(Hedge(0.01))
    assert client.get() == b"late"
    assert make(Hedge(0.01), idempotent=["*"]).put() == b"late"
    assert make(Hedge(0.01), idempotent=["*"]).list() == [b"late"]
    assert len(upstream.seen) == 3


def test_all_attempts_of_a_race_may_fail(upstream: Upstream, make: Make) -> None:
    """If no attempt succeeds, the caller gets an error of the server."""
    upstream.otherwise = failing()
    with pytest.raises(AppError) as caught:
        make(Hedge(0.01), idempotent=["*"]).get()
    error: Any = caught.value
    assert error.code() is UNAVAILABLE
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_are_of_both_families(upstream: Upstream, make: Make, kind: str) -> None:
    """A call beyond the limit is RateLimitedError, and RpcError with RESOURCE_EXHAUSTED."""
    client = make(RateLimit("1/hour", burst=1))
    getattr(client, kind)()
    with pytest.raises(RateLimitedError) as caught:
        getattr(client, kind)()
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert is_rpc_error(error)
    assert error.details() == str(error).partition(": ")[2]


@pytest.mark.parametrize("kind", KINDS)
def test_places_are_given_back(upstream: Upstream, make: Make, kind: str) -> None:
    """A bulkhead's place is held until the call has ended, and not longer, however it ends."""
    bulkhead = Bulkhead(1)
    client = make(bulkhead)
    during = []

    def spy(seen: Any) -> Any:
        during.append(bulkhead.concurrent_calls)
        return (behaviours or [hanging()])[0](seen)

    upstream.otherwise = spy
    behaviours = [answering(b"fine"), failing(), failing(NOT_FOUND), hanging()]
    while behaviours:
        with contextlib.suppress(grpc.RpcError):
            getattr(client, kind)(timeout=None if behaviours[1:] else 0.3)
        assert bulkhead.concurrent_calls == 0
        del behaviours[0]
    assert during[:3] == [1] * 3


def test_a_policy_may_stand_in(upstream: Upstream, make: Make) -> None:
    """The value of a fallback is the response of the call."""
    upstream.otherwise = failing()
    client = make(Fallback(b"default", on=grpc.RpcError))
    assert client.get() == b"default"
    assert client.put() == b"default"


def test_what_cannot_own_a_stream_is_left_out(upstream: Upstream, make: Make) -> None:
    """A fallback or a hedge is left out for a stream of responses. The other policies guard it."""
    client = make(Fallback(b"default", on=grpc.RpcError), Hedge(0.01), CircuitBreaker(1), idempotent=["*"])
    upstream.otherwise = failing()
    for kind in (client.list, client.chat):
        with pytest.raises(grpc.RpcError):
            kind()
    assert len(upstream.seen) == 1


def test_one_policy_per_method(upstream: Upstream, make: Make) -> None:
    """`per_method` keeps the methods of a service apart."""
    client = make(per_method(lambda _method: CircuitBreaker(1)))
    upstream.script = [failing()]
    with pytest.raises(grpc.RpcError):
        client.get()
    with pytest.raises(CircuitOpenError):
        client.get()
    assert client.put() == b"fine"


def test_pipelines_are_found_by_configuration(upstream: Upstream, make: Make) -> None:
    """A method has the pipeline of its own name, else that of its service, by the names of the protocol."""
    toolkit = Resilience.from_env(
        {
            "RESILIENCE_PIPELINE__SHOP_ORDERS__RETRY__ATTEMPTS": "2",
            "RESILIENCE_PIPELINE__SHOP_ORDERS__RETRY__WAIT_MAX": "1ms",
            "RESILIENCE_PIPELINE__SHOP_ORDERS_LIST__RETRY__ATTEMPTS": "4",
            "RESILIENCE_PIPELINE__SHOP_ORDERS_LIST__RETRY__WAIT_MAX": "1ms",
        }
    )
    client = make(toolkit=toolkit, idempotent=["*"])
    upstream.otherwise = failing()
    for kind, attempts in (("get", 2), ("list", 4), ("put", 1)):
        upstream.seen.clear()
        with pytest.raises(grpc.RpcError):
            getattr(client, kind)()
        assert len(upstream.seen) == attempts


def test_unconfigured_services_have_the_usual_pipeline(upstream: Upstream, make: Make) -> None:
    """With nothing configured: three attempts, and a breaker of the service that all clients of a toolkit share."""
    toolkit = Resilience()
    upstream.otherwise = failing(trailing=(("grpc-retry-pushback-ms", "1"),))
    for _ in range(2):
        with pytest.raises(grpc.RpcError):
            make(toolkit=toolkit, idempotent=["*"]).get()
    assert len(upstream.seen) == 6
    retry, breaker = toolkit.pipeline("shop.Orders").snapshot()["clients"]
    assert (retry["kind"], breaker["kind"]) == ("retry", "breaker")
    assert breaker["each"]["any target"]["failures"] == 6


def test_channels_share_circuits_by_target(upstream: Upstream, make: Make) -> None:
    """Law: a channel for each call opens the circuit of its target alone; without `target` they share one."""
    toolkit = Resilience.from_env(
        {
            "RESILIENCE_PIPELINE__SHOP_ORDERS__BREAKER__FAIL_MAX": "2",
            "RESILIENCE_PIPELINE__SHOP_ORDERS__RETRY__ENABLED": "false",
        }
    )
    upstream.otherwise = failing()
    for options in ({"target": "stock-a:50051"}, {}):
        upstream.seen.clear()
        for _ in range(6):
            with pytest.raises(grpc.RpcError):
                make(toolkit=toolkit, **options).get()
        assert len(upstream.seen) == 2
    with pytest.raises(grpc.RpcError):
        make(toolkit=toolkit, target="stock-b:50051").get()
    assert len(upstream.seen) == 3
    (breaker,) = toolkit.pipeline("shop.Orders").snapshot()["clients"]
    states = {target: figures["state"] for target, figures in breaker["each"].items()}
    assert states == {"stock-a:50051": "open", "any target": "open", "stock-b:50051": "closed"}


def test_a_timeout_takes_no_policy_from_a_client(upstream: Upstream, make: Make) -> None:
    """Law: with a timeout for all pipelines, a client still makes three attempts, and still has its breaker."""
    toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS": "5s"})
    upstream.otherwise = failing(trailing=(("grpc-retry-pushback-ms", "1"),))
    with pytest.raises(grpc.RpcError):
        make(toolkit=toolkit, idempotent=["*"]).get()
    assert len(upstream.seen) == 3
    kinds = [policy["kind"] for policy in toolkit.pipeline("shop.Orders").snapshot()["clients"]]
    assert kinds == ["retry", "breaker", "timeout"]


def test_a_channel_without_a_toolkit_shares_the_one_of_the_process(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: channels that are given no toolkit have the circuits of the default toolkit."""
    monkeypatch.setenv("RESILIENCE_PIPELINE__SHOP_ORDERS__BREAKER__FAIL_MAX", "2")
    upstream.otherwise = failing()
    for _ in range(6):
        with grpc.insecure_channel(upstream.target) as bare:
            get: Any = grpc.intercept_channel(bare, *client_interceptors()).unary_unary("/shop.Orders/Get")
            with pytest.raises(grpc.RpcError):
                get(b"")
    assert len(upstream.seen) == 2


def test_configured_hedges_learn_per_method(upstream: Upstream, make: Make) -> None:
    """Each method has its own hedge delay, although one setting configures the whole service."""
    toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__SHOP_ORDERS__HEDGE__DELAY": "20ms"})
    heard = RecordingListener()
    toolkit.pipeline("shop.Orders").subscribe(heard)
    client = make(toolkit=toolkit, idempotent=["*"])
    upstream.script = [hanging()]
    assert client.get() == b"fine"
    assert [event.policy for event in heard.events][:1] == ["shop.Orders/Get.hedge"]


def test_a_pipeline_may_be_named_or_chosen(upstream: Upstream, make: Make) -> None:
    """`pipeline` is a pipeline, the name of one, or a function from method to either, or to None for none."""
    toolkit = Resilience()
    toolkit.pipeline("orders", quick(2))
    own = Pipeline("own", quick(4))
    chosen = {"shop.Orders/Get": own, "shop.Orders/List": "orders", "shop.Orders/Put": None}
    upstream.otherwise = failing()
    for pipeline, kind, attempts in (
        ("orders", "get", 2),
        (own, "get", 4),
        (chosen.get, "get", 4),
        (chosen.get, "list", 2),
        (chosen.get, "put", 1),
    ):
        upstream.seen.clear()
        with pytest.raises(grpc.RpcError):
            getattr(make(toolkit=toolkit, pipeline=pipeline, idempotent=["*"]), kind)()
        assert len(upstream.seen) == attempts


def test_health_checks_are_left_alone(upstream: Upstream, make: Make) -> None:
    """Calls of the health service pass no policy, carry nothing and raise what grpcio raises."""
    client = make(CircuitBreaker(1), idempotent=["*"])
    upstream.otherwise = failing()
    with RequestContext("r-1"):
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                client.get(method="/grpc.health.v1.Health/Check")
            assert type(caught.value).__module__.startswith("grpc.")
    assert all("x-request-id" not in seen.metadata for seen in upstream.seen)


@pytest.mark.parametrize("interceptors", [client_interceptors, aio_client_interceptors])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"idempotent": ["Get"]}, "idempotent=.*shop.Orders/Get"),
        ({"idempotent": "shop.Orders/Get"}, "idempotent='shop.Orders/Get': expected a list of methods, each"),
        ({"retryable": ["OK"]}, "retryable=.*other than OK"),
        ({"retryable": [14]}, "retryable="),
        ({"retryable": 14}, "retryable="),
        ({"pipeline": 7}, "pipeline=7"),
        ({"pipeline": "not a name!"}, "pipeline"),
        ({"pipeline": "paymnets"}, "no pipeline 'paymnets' is configured"),
    ],
)
def test_bad_arguments_are_refused_at_once(interceptors: Any, wrong: dict[str, Any], expected: str) -> None:
    """A wrong argument is a ConfigurationError that names it, before any call."""
    with pytest.raises(ConfigurationError, match=expected):
        interceptors(Resilience(), **wrong)


def test_threads_do_not_hold_what_does_not_block(upstream: Upstream, make: Make) -> None:
    """A thread pool guards only blocking calls. For other calls it is refused by name, not left out."""
    client = make(ThreadPoolBulkhead(2))
    if isinstance(client, SyncClient):
        assert client.get() == b"fine"
    else:
        with pytest.raises(ConfigurationError, match=r"orders\.thread_?pool.*use a Bulkhead"):
            client.get()


def test_the_first_call_tells_of_a_pipeline_that_is_none(make: Make) -> None:
    """If the `pipeline` function returns a wrong value, the error names it."""
    with pytest.raises(ConfigurationError, match=r"pipeline\('shop.Orders/Get'\)=7"):
        make(pipeline=lambda _method: 7).get()
    with pytest.raises(ConfigurationError, match="no pipeline 'paymnets' is configured"):
        make(pipeline=lambda _method: "paymnets").get()


def test_the_log_names_the_service(upstream: Upstream, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A line about a channel's circuit has the name of the service that the circuit belongs to."""
    upstream.otherwise = failing()
    client = make(toolkit=Resilience.from_env({"RESILIENCE_PIPELINE__DEFAULT__BREAKER__FAIL_MAX": "3"}))
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            client.get()
    opened, refused = caplog.messages
    why = "3 of 3 calls failed (consecutive failures), last"
    assert opened.startswith(f"circuit 'shop.Orders.breaker' (any target) opened: {why} ")
    assert refused.startswith("circuit 'shop.Orders.breaker' (any target) is open: a call was refused; next trial in ")
