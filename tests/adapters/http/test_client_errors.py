"""An error that our policies raise in place of an answer is an error of the client's library, too."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import flask
import httpx
import httpx2
import pybreaker
import pytest
import requests
from fastapi import FastAPI, Response
from http_callers import AsyncCaller, RequestsCaller, SyncCaller
from http_upstreams import Upstream

from resilience import (
    AppError,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    DrainingError,
    Pipeline,
    PolicyBase,
    RateLimit,
    RateLimitedError,
    RejectedError,
    Resilience,
    Retry,
    Timeout,
)
from resilience.events import Event
from resilience_fastapi import install
from resilience_flask import FlaskResilience
from resilience_http import ResilienceAdapter, raise_for_envelope
from resilience_http.httpx2 import AsyncResilienceTransport, ResilienceTransport

Make = Callable[..., SyncCaller]
ENVELOPE = b'{"code":"ORDERS_V001","message":"No such order.","details":{"order":7}}'


class Refusing(PolicyBase):
    """A policy of a third party that refuses every call."""

    def __init__(self, refusal: RejectedError) -> None:
        super().__init__("refusing")
        self._refusal = refusal

    def admit(self) -> None:
        raise self._refusal


class QuotaExhaustedError(RejectedError):
    """A refusal of a third party."""

    code = "QUOTA_EXHAUSTED"


class SlottedRefusalError(RejectedError):
    """A refusal with a layout of its own, which no `OSError` can have."""

    __slots__ = ("quota",)


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker(fail_max=1, reset_timeout=30)
    breaker.open()
    return breaker


def spent() -> RateLimit:
    limit = RateLimit("1/day", burst=1)
    Pipeline("p", limit).call(int)
    return limit


REFUSALS: dict[str, tuple[Callable[[], Any], type[RejectedError]]] = {
    "circuit": (opened, CircuitOpenError),
    "limit": (spent, RateLimitedError),
    "draining": (lambda: Refusing(DrainingError("no new work")), DrainingError),
    "third party": (lambda: Refusing(QuotaExhaustedError("used up", policy="quota")), QuotaExhaustedError),
}


def check_classes(error: object, *kinds: type[Exception]) -> None:
    for kind in kinds:
        assert isinstance(error, kind)


def raised_by(client: SyncCaller, url: str = "http://shop.example/7", **options: Any) -> Any:
    with pytest.raises(Exception, match=r".") as caught:
        client.get(url, **options)
    return caught.value


@pytest.mark.parametrize("which", REFUSALS)
def test_a_refusal_is_a_connection_error(caller: Make, which: str) -> None:
    """The refusal of any policy is the error that the library raises if no connection can be made, and our own."""
    make, kind = REFUSALS[which]
    client = caller(pipeline=Pipeline("p", make()))
    error = raised_by(client)
    check_classes(error, kind, client.refused, client.any_error)
    assert (type(error).__name__, error.code, error.http_status) == (kind.__name__, kind.code, kind.http_status)
    assert str(error.request.url) == "http://shop.example/7"
    if kind is CircuitOpenError:
        check_classes(error, pybreaker.CircuitBreakerError)
        assert 29 < error.retry_after <= 30


def test_a_full_bulkhead_is_a_full_pool(caller: Make) -> None:
    """A bulkhead without a place is the error of a client whose own connections are all taken."""
    bulkhead = Bulkhead(1, max_wait=0)
    client = caller(pipeline=Pipeline("p", bulkhead))
    with Pipeline("other", bulkhead).guard():
        error = raised_by(client)
    check_classes(error, BulkheadFullError, client.full)


@pytest.mark.realtime
def test_a_timeout_is_a_timeout_of_the_library(caller: Make, upstream: Upstream) -> None:
    """A `Timeout` of the pipeline and a deadline in force end a request as the client's own timeouts do."""
    upstream.delay = 0.4
    client = caller(pipeline=Pipeline("p", Timeout(0.05)))
    error = raised_by(client, upstream.url)
    check_classes(error, DeadlineExceededError, client.timed_out)
    assert str(error.request.url).rstrip("/") == upstream.url
    plain = caller(pipeline=Pipeline("p"))
    for seconds in (0.0, 0.05):
        with Deadline.after(seconds):
            error = raised_by(plain, upstream.url)
        check_classes(error, DeadlineExceededError, plain.timed_out)
        assert error.is_before_call == (seconds == 0)
        assert error.request.method == "GET"


def test_code_that_was_there_before_keeps_working(caller: Make, refused_url: str) -> None:
    """`except <any error of the library>: return cached` answers in the outage, before and after the circuit opens."""
    breaker = CircuitBreaker(fail_max=3)
    client = caller(pipeline=Pipeline("p", breaker))

    def price() -> str:
        try:
            return client.get(refused_url).content.decode()
        except client.any_error:
            return "cached"

    assert [price() for _ in range(10)] == ["cached"] * 10
    assert breaker.current_state == "open"


def test_a_joined_error_can_be_stored_and_sent(caller: Make) -> None:
    """The error of both classes is the same one after a copy, and in another process."""
    client = caller(pipeline=Pipeline("p", opened()))
    error = raised_by(client)
    assert type(raised_by(client)) is type(error)
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert (str(twin), twin.policy, twin.retry_after) == (str(error), error.policy, error.retry_after)
        assert str(twin.request.url) == "http://shop.example/7"


def test_an_outer_pipeline_knows_a_refusal(caller: Make) -> None:
    """A retry and a breaker around the client neither repeat nor count a refusal, although they name its class (L4)."""
    inner, seen = opened(), list[Event]()
    client = caller(pipeline=Pipeline("p", inner))
    if isinstance(client, AsyncCaller):
        pytest.skip("the caller has an event loop of its own; the error is the same")
    retry, breaker = Retry(3, on=client.any_error, wait_initial=0, wait_max=0), CircuitBreaker(fail_max=1)
    retry.events.subscribe(seen.append)
    with pytest.raises(CircuitOpenError) as refused:
        Pipeline("outer", retry, breaker).call(client.get, "http://shop.example/7")
    assert refused.value.policy == inner.name
    assert breaker.current_state == "closed"
    assert "retry.scheduled" not in [event.kind for event in seen]


def test_its_traceback_appears_once(caller: Make) -> None:
    """A log shows one error with its own name and text, and no other error during whose handling it occurred."""
    client = caller(pipeline=Pipeline("p", opened()))
    text = "".join(traceback.format_exception(raised_by(client)))
    assert "During handling" not in text
    assert text.splitlines()[-1].startswith("resilience.breaker")
    assert "CircuitOpenError: circuit" in text.splitlines()[-1]


def test_its_cause_stays(caller: Make, refused_url: str) -> None:
    """The error that made a breaker refuse is still the cause of the refusal."""
    client = caller(pipeline=Pipeline("p", Refusing(QuotaExhaustedError("used up"))))
    cause = KeyError("ledger")
    client.guard.pipeline.policies[0]._refusal.__cause__ = cause
    assert raised_by(client, refused_url).__cause__ is cause


def test_a_class_that_cannot_be_joined_is_raised_as_it_is(caller: Make) -> None:
    """A refusal whose class no error of the library can share reaches the caller, and no `TypeError` does."""
    client = caller(pipeline=Pipeline("p", Refusing(SlottedRefusalError("no", policy="slots"))))
    error = raised_by(client)
    check_classes(error, SlottedRefusalError)
    assert isinstance(error, client.any_error) == (client.any_error is not requests.RequestException)


def test_a_mistake_is_no_error_of_the_network() -> None:
    """A mistake, such as a missing event loop, is not answered from a cache: it is no error of the library."""
    guard = AsyncResilienceTransport(resilience=Resilience())
    sending = guard.handle_async_request(httpx2.Request("GET", "http://shop.example/7"))
    with pytest.raises(ConfigurationError) as caught:
        sending.send(None)
    assert not isinstance(caught.value, httpx2.HTTPError)


class TestEnvelopes:
    """An error answer that is raised as its `AppError`."""

    def test_it_is_a_status_error(self, caller: Make, upstream: Upstream) -> None:
        """`raises_envelopes` raises the error that `raise_for_status` would, with its response, and the `AppError`."""
        upstream.answers(404, ENVELOPE, content_type="application/json", x_shard="3")
        client = caller(raises_envelopes=True)
        error = raised_by(client, upstream.url)
        check_classes(error, AppError, client.failed)
        assert (error.code, error.details) == ("ORDERS_V001", {"order": 7})
        assert (error.response.status_code, error.response.headers["x-shard"]) == (404, "3")
        assert error.response.json()["code"] == "ORDERS_V001"
        assert error.request.method == "GET"

    def test_raise_for_envelope_raises_a_status_error(self, caller: Make, upstream: Upstream) -> None:
        """`raise_for_envelope` does so too, whatever the library of the response."""
        upstream.answers(404, ENVELOPE, content_type="application/json")
        client = caller()
        response = client.get(upstream.url).response
        with pytest.raises(client.failed) as caught:
            raise_for_envelope(response)
        error: Any = caught.value
        check_classes(error, AppError)
        assert error.response is response
        assert str(error.request.url).rstrip("/") == upstream.url
        assert pickle.loads(pickle.dumps(error)).details == {"order": 7}

    def test_a_response_without_a_request(self) -> None:
        """A response that no client has received is raised as its `AppError`."""
        with pytest.raises(AppError, match="No such order"):
            raise_for_envelope(httpx2.Response(404, content=ENVELOPE, headers={"Content-Type": "application/json"}))


def test_fastapi_answers_for_a_refusal() -> None:
    """A refusal that leaves an endpoint is answered with 503, its code and `retry_after`, as without the client."""
    caller, app = SyncCaller(pipeline=Pipeline("p", opened())), FastAPI()
    install(app, Resilience())

    @app.get("/")
    def price() -> None:
        caller.get("http://shop.example/7")

    async def get() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app.example") as client:
            return await client.get("/")

    answer = asyncio.run(get())
    body = answer.json()
    assert (answer.status_code, body["code"], answer.headers["retry-after"]) == (503, "CIRCUIT_OPEN", "30")
    assert 29 < body["retry_after"] <= 30
    caller.close()


@pytest.mark.parametrize("library", ["httpx2", "requests"])
def test_flask_answers_for_a_refusal(library: str, caplog: pytest.LogCaptureFixture) -> None:
    """So does Flask, and the log shows no other error."""
    caplog.set_level(logging.ERROR)
    app = flask.Flask("shop")
    FlaskResilience(app, Resilience())
    client = (SyncCaller if library == "httpx2" else RequestsCaller)(pipeline=Pipeline("p", opened()))

    @app.get("/")
    def price() -> str:
        return client.get("http://shop.example/7").content.decode()

    answer = app.test_client().get("/")
    body: Any = answer.json
    assert (answer.status_code, body["code"]) == (503, "CIRCUIT_OPEN")
    assert 29 < body["retry_after"] <= 30
    client.close()


def test_handlers_of_the_application_win() -> None:
    """A handler that an application has for the errors of its client answers for refusals, too."""
    caller, fastapi, flask_app = SyncCaller(pipeline=Pipeline("p", opened())), FastAPI(), flask.Flask("shop")
    session = RequestsCaller(pipeline=Pipeline("p", opened()))
    install(fastapi, Resilience())
    FlaskResilience(flask_app, Resilience())

    @fastapi.exception_handler(httpx2.HTTPError)
    async def unavailable(_request: object, _error: Exception) -> Response:
        return Response("cached", 200)

    @flask_app.errorhandler(requests.RequestException)
    def not_available(_error: Exception) -> str:
        return "cached"

    @fastapi.get("/")
    def price() -> None:
        caller.get("http://shop.example/7")

    @flask_app.get("/")
    def same_price() -> str:
        return session.get("http://shop.example/7").content.decode()

    async def get() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(fastapi), base_url="http://app.example") as client:
            return await client.get("/")

    assert asyncio.run(get()).text == flask_app.test_client().get("/").text == "cached"
    caller.close()
    session.close()


def test_requests_has_every_attribute_of_its_error() -> None:
    """A handler may ask for `response`, which is None if there was none, and for the fields of an `OSError`."""
    session = requests.Session()
    session.mount("http://", ResilienceAdapter(Resilience(), pipeline=Pipeline("p", opened())))
    with pytest.raises(requests.RequestException) as caught:
        session.get("http://shop.example/7")
    error = caught.value
    assert error.response is None
    assert error.request is not None
    assert (error.errno, error.strerror, error.filename) == (None, None, None)
    session.close()


def test_a_transport_of_the_other_library_is_refused() -> None:
    """A client of httpx with a transport for httpx2 gets an error that names the import, not a failed assertion."""
    client = httpx.Client(transport=ResilienceTransport(resilience=Resilience()))  # type: ignore[arg-type]  # the mistake
    with client, pytest.raises(ConfigurationError, match=r"for httpx2, .* of httpx: .* from resilience_http\.httpx"):
        client.get("http://shop.example/7")
