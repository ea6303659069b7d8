"""What every guarded client does, whatever its library and colour, against real servers."""

from __future__ import annotations

import email.utils
import gzip
import time
from collections.abc import Callable

import httpx2
import pytest
import requests
from http_callers import AsyncCaller, RequestsCaller, SyncCaller
from http_upstreams import Breaking, Halting, Upstream

from resilience import (
    AppError,
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorCatalog,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Resilience,
    Retry,
    Timeout,
)
from resilience.envelope import envelope_of
from resilience.errors import ConfigurationError
from resilience.retry import no_waits
from resilience.server import RequestContext, ServerGate
from resilience.timeout import Deadline
from resilience_http import host_of, per_host, raise_for_envelope

Make = Callable[..., SyncCaller]
Serve = Callable[[object], str]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def request(seconds: float | None = None, **headers: str) -> RequestContext:
    context = ServerGate().receive({name.replace("_", "-"): text for name, text in headers.items()})
    context.deadline = None if seconds is None else Deadline.after(seconds)
    return context


class TestRetry:
    def test_failed_answers_are_retried(self, caller: Make, upstream: Upstream) -> None:
        """An idempotent request that fails is made again, and the client sees the last answer alone."""
        for status in (503, 500):
            upstream.answers(status)
        with no_waits():
            got = caller().get(upstream.url)
        assert got.status == 200
        assert len(upstream.seen) == 3

    def test_the_last_failure_is_an_answer(self, caller: Make, upstream: Upstream) -> None:
        """When attempts are spent the client gets the last answer with its body, as if nobody had retried."""
        for body in (b"first", b"second", b"third"):
            upstream.answers(503, body, x_body=body.decode())
        with no_waits():
            got = caller().get(upstream.url)
        assert (got.status, got.content, got.response.headers["x-body"]) == (503, b"third", "third")
        assert got.response.elapsed.total_seconds() > 0

    @pytest.mark.parametrize("status", [400, 404, 409, 501])
    def test_other_answers_are_final(self, caller: Make, upstream: Upstream, status: int) -> None:
        """What the caller did wrong, or the server cannot do, is not tried again."""
        upstream.answers(status)
        assert caller().get(upstream.url).status == status
        assert len(upstream.seen) == 1

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    def test_what_may_do_harm_is_made_once(self, caller: Make, upstream: Upstream, method: str) -> None:
        """A request that is not idempotent is made once, whatever the retry says, unless a key tells it apart."""
        client = caller(pipeline=Pipeline("p", Retry(3)))
        with no_waits():
            upstream.answers(503)
            assert client.request(method, upstream.url, b"x").status == 503
            upstream.answers(503)
            got = client.request(method, upstream.url, b"x", headers={"Idempotency-Key": "k"})
        assert got.status == 200
        assert [(body, "idempotency-key" in headers) for _, headers, body in upstream.seen] == [
            (b"x", False), (b"x", True), (b"x", True),
        ]  # fmt: skip

    def test_consumed_bodies_are_not_sent_again(self, caller: Make, upstream: Upstream) -> None:
        """A body that cannot be had twice makes the request one that is made once."""
        client = caller()
        if isinstance(client, AsyncCaller):
            pytest.skip("its body is of another colour: see test_httpx_clients.py")
        upstream.answers(503)
        assert client.request("PUT", upstream.url, iter([b"a", b"b"])).status == 503
        assert [body for _, _, body in upstream.seen] == [b"ab"]

    def test_retry_after_is_honoured(self, caller: Make, upstream: Upstream) -> None:
        """The next attempt comes no sooner than the server asked, in seconds or by date."""
        told: list[float] = []
        retry = Retry(3, wait_initial=0, wait_max=0)
        retry.events.subscribe(
            lambda event: told.append(event.facts["wait"]) if event.kind == "retry.scheduled" else None
        )
        now = time.time()
        upstream.answers(429, retry_after="7")
        upstream.answers(
            503,
            retry_after=email.utils.formatdate(now + 30, usegmt=True),
            date=email.utils.formatdate(now, usegmt=True),
        )
        with no_waits():
            assert caller(pipeline=Pipeline("p", retry)).get(upstream.url).status == 200
        assert told[0] >= 7
        assert told[1] >= 29

    @pytest.mark.realtime
    def test_hopeless_waits_are_not_begun(self, caller: Make, upstream: Upstream) -> None:
        """A server that asks for more time than there is gets no second request, and its answer is the client's."""
        upstream.answers(503, b"busy", retry_after="60")
        started = time.monotonic()
        with request(2):
            assert caller().get(upstream.url).content == b"busy"
        upstream.answers(503, b"busy", retry_after="3600")
        assert caller().get(upstream.url).content == b"busy"
        assert len(upstream.seen) == 2
        assert time.monotonic() - started < 2

    def test_refused_connections_are_retried(self, caller: Make, refused_url: str) -> None:
        """A port nobody listens on is tried as often as allowed; the library's own error is what is raised."""
        client = caller()
        with no_waits(), pytest.raises(client.refused):
            client.get(refused_url)
        assert client.guard.pipeline.policies[0].snapshot()["retries"] == 2

    def test_reset_connections_are_retried(self, caller: Make, breaking: Callable[..., Breaking]) -> None:
        """A connection that is reset before the answer is one attempt; a request that may do harm has no other."""
        server = breaking(times=2)
        with no_waits():
            assert caller().get(server.url).content == b"ok"
        assert server.connections == 3
        client = caller()
        with pytest.raises(client.broken):
            client.request("POST", breaking().url, b"x")

    def test_broken_bodies(self, caller: Make, breaking: Callable[..., Breaking]) -> None:
        """A body that breaks off is a failed attempt where it is read within the call."""
        server = breaking(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        client = caller()
        if not isinstance(client, RequestsCaller):
            client = caller(reads_bodies=True)
        with no_waits():
            assert client.get(server.url).content == b"ok"
        assert server.connections == 2


class TestBreaker:
    def test_each_host_has_its_own(self, caller: Make, upstream: Upstream, other_upstream: Upstream) -> None:
        """One host's failures open its own circuit, and no other; answers count from 429 and 500 on."""
        client = caller(pipeline=Pipeline("p", per_host(lambda _host: CircuitBreaker(fail_max=2))))
        for status in (429, 503):
            upstream.answers(status)
            assert client.get(upstream.url).status == status
        with pytest.raises(CircuitOpenError):
            client.get(upstream.url)
        assert client.get(other_upstream.url).status == 200
        assert len(upstream.seen) == 2

    def test_what_the_caller_did_wrong_is_no_failure(self, caller: Make, upstream: Upstream) -> None:
        """Answers below 429 say nothing against the host."""
        breaker = CircuitBreaker(fail_max=1)
        client = caller(pipeline=Pipeline("p", breaker))
        for status in (400, 404, 409, 428):
            upstream.answers(status)
            assert client.get(upstream.url).status == status
        assert breaker.current_state == "closed"

    def test_requests_that_may_do_harm_count_as_well(self, caller: Make, upstream: Upstream) -> None:
        """One circuit sees all requests, repeatable or not."""
        client = caller(pipeline=Pipeline("p", Retry(2), per_host(lambda _host: CircuitBreaker(fail_max=1))))
        upstream.answers(500)
        assert client.request("POST", upstream.url, b"x").status == 500
        with pytest.raises(CircuitOpenError):
            client.get(upstream.url)

    def test_usual_policies(self, caller: Make, upstream: Upstream) -> None:
        """With nothing configured there are three attempts and a breaker per host."""
        client = caller()
        assert [policy.kind for policy in client.guard.pipeline.policies] == ["retry", "breaker"]
        client.get(upstream.url)
        assert list(client.guard.pipeline.snapshot()["policies"][1]["each"]) == [upstream.url.removeprefix("http://")]

    def test_configured_policies_are_per_host(
        self, caller: Make, upstream: Upstream, other_upstream: Upstream, toolkit: Callable[..., Resilience]
    ) -> None:
        """A pipeline configured by text has its breaker, limits and bulkhead per host, and its own retries."""
        resilience = toolkit(
            pipeline__payments__retry__attempts="2",
            pipeline__payments__breaker__fail_max="2",
            pipeline__payments__rate_limit__rate="3/day",
            pipeline__payments__bulkhead__max_concurrent_calls="5",
            pipeline__payments__timeout__seconds="5s",
        )
        client = caller(resilience, pipeline="payments")
        upstream.answers(503)
        upstream.answers(503)
        with no_waits():
            assert client.get(upstream.url).status == 503
            with pytest.raises(CircuitOpenError):
                client.get(upstream.url)
            for _ in range(3):
                assert client.get(other_upstream.url).status == 200
            with pytest.raises(RateLimitedError):
                client.get(other_upstream.url)
        assert len(upstream.seen) == 2

    def test_the_name_http_is_everybodys(
        self, caller: Make, upstream: Upstream, toolkit: Callable[..., Resilience]
    ) -> None:
        """What is configured as `http` is used where no pipeline is named."""
        client = caller(toolkit(pipeline__http__retry__attempts="5"))
        for _ in range(4):
            upstream.answers(500)
        with no_waits():
            assert client.get(upstream.url).status == 200
        assert [policy.kind for policy in client.guard.pipeline.policies] == ["retry", "breaker"]

    def test_retries_can_be_switched_off_by_text(
        self, caller: Make, upstream: Upstream, toolkit: Callable[..., Resilience]
    ) -> None:
        """A policy that is switched off is not brought back by what is usual."""
        upstream.answers(500)
        assert caller(toolkit(pipeline__http__retry__enabled="false")).get(upstream.url).status == 500


class TestContext:
    def test_context_is_sent(self, caller: Make, upstream: Upstream) -> None:
        """Request id, trace, baggage and what is left of the deadline go out, each attempt under a span of its own."""
        upstream.answers(503)
        sent = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "a=1", "baggage": "b=1"}
        with no_waits(), request(5, x_request_id="abc", **sent):
            caller().get(upstream.url)
        first, second = (headers for _, headers, _ in upstream.seen)
        for headers in (first, second):
            assert (headers["x-request-id"], headers["tracestate"], headers["baggage"]) == ("abc", "a=1", "b=1")
            assert headers["traceparent"].startswith(f"00-{TRACE}-")
            assert 3 < float(headers["x-request-timeout"]) < 4.99
        assert first["traceparent"] != second["traceparent"]

    def test_callers_headers_win(self, caller: Make, upstream: Upstream) -> None:
        """A header the caller sets itself is sent as it is."""
        with request(5, x_request_id="abc"):
            caller().get(upstream.url, headers={"X-Request-ID": "mine"})
        assert upstream.seen[0][1]["x-request-id"] == "mine"

    def test_nothing_is_sent_to_strangers(self, caller: Make, upstream: Upstream) -> None:
        """With sends_context=False a host learns nothing; the deadline is kept all the same."""
        client = caller(sends_context=False)
        with request(5, x_request_id="abc", baggage="secret=1"):
            client.get(upstream.url)
        assert not {"x-request-id", "baggage", "x-request-timeout", "traceparent"} & set(upstream.seen[0][1])
        upstream.delay = 2
        with request(0.2), pytest.raises(DeadlineExceededError):
            client.get(upstream.url)

    def test_request_stays_as_it_was(self, caller: Make, upstream: Upstream) -> None:
        """What we add is in no request the client keeps: redirects are made from those."""
        with request(5, x_request_id="abc"):
            got = caller().get(upstream.url)
        assert "x-request-timeout" not in got.response.request.headers
        assert "x-request-id" in upstream.seen[0][1]

    def test_redirects_are_requests_of_their_own(
        self, caller: Make, upstream: Upstream, other_upstream: Upstream
    ) -> None:
        """The client follows redirects itself, and each step is guarded, counted and addressed by itself."""
        upstream.answers(302, location=other_upstream.url)
        client = caller(pipeline=Pipeline("p", per_host(lambda _host: CircuitBreaker())))
        with request(5):
            assert client.get(upstream.url, follow_redirects=True).status == 200
        assert len(client.guard.pipeline.policies[0]) == 2
        times = [float(server.seen[0][1]["x-request-timeout"]) for server in (upstream, other_upstream)]
        assert times[0] > times[1]


class TestDeadline:
    @pytest.mark.realtime
    def test_slow_answers_are_not_waited_for(self, caller: Make, upstream: Upstream) -> None:
        """The wait for an answer ends with the deadline, less the margin; the error is the library's and ours."""
        upstream.delay = 3
        client = caller(pipeline=Pipeline("p", Retry(3, wait_initial=0, wait_max=0)))
        started = time.monotonic()
        with request(0.3), pytest.raises(DeadlineExceededError) as caught:
            client.get(upstream.url)
        assert time.monotonic() - started < 2.5
        assert isinstance(caught.value, client.timed_out)
        assert not caught.value.is_before_call
        assert client.guard.pipeline.policies[0].snapshot()["retries"] == 0
        assert len(upstream.seen) == 1

    def test_spent_deadline_sends_nothing(self, caller: Make, upstream: Upstream) -> None:
        """Where nothing is left no request is made, and no breaker takes it for a failure."""
        breaker = CircuitBreaker(fail_max=1)
        client = caller(pipeline=Pipeline("p", breaker))
        with request(0.005), pytest.raises(DeadlineExceededError) as caught:
            client.get(upstream.url)
        assert caught.value.is_before_call
        assert isinstance(caught.value, client.timed_out)
        assert not upstream.seen
        assert breaker.current_state == "closed"

    def test_shorter_timeouts_stay(self, caller: Make, upstream: Upstream) -> None:
        """A timeout of the client's own that is shorter holds, and is its own error."""
        upstream.delay = 3
        client = caller(pipeline=Pipeline("p"))
        with request(5), pytest.raises(client.timed_out) as caught:
            client.get(upstream.url, timeout=0.2)
        assert not isinstance(caught.value, DeadlineExceededError)

    def test_each_attempt_is_timed(self, caller: Make, upstream: Upstream) -> None:
        """A Timeout in the pipeline ends an attempt, and the next one may still succeed."""
        upstream.delay = 1.5
        client = caller(pipeline=Pipeline("p", Retry(2, wait_initial=0), Timeout(0.2)))
        with pytest.raises(DeadlineExceededError):
            client.get(upstream.url)
        upstream.delay = 0
        assert client.get(upstream.url).status == 200
        assert len(upstream.seen) == 3

    @pytest.mark.parametrize(("on_timeout", "requests"), [(True, 2), (False, 1)], ids=["on", "off"])
    def test_the_timeout_of_an_attempt_is_repeated(
        self, caller: Make, upstream: Upstream, *, on_timeout: bool, requests: int
    ) -> None:
        """A retry of connection errors repeats an attempt that the `Timeout` inside ended, unless it says not to."""
        upstream.delay = 3
        retry = Retry(2, on=ConnectionError, wait_initial=0, on_timeout=on_timeout)
        client = caller(pipeline=Pipeline("p", retry, Timeout(0.15)))
        with pytest.raises(DeadlineExceededError):
            client.get(upstream.url)
        assert len(upstream.seen) == requests

    @pytest.mark.parametrize(("on_timeout", "requests"), [(True, 2), (False, 1)], ids=["on", "off"])
    def test_a_client_that_ends_an_attempt_at_its_deadline_is_repeated(
        self, caller: Make, upstream: Upstream, *, on_timeout: bool, requests: int
    ) -> None:
        """A guarded client ends its request at the deadline of a `Timeout` around it: the attempt has timed out."""
        upstream.delay = 3
        client = caller(pipeline=Pipeline("client"))
        around = Pipeline("p", Retry(2, on=ConnectionError, wait_initial=0, on_timeout=on_timeout), Timeout(0.15))
        with pytest.raises(DeadlineExceededError):
            around.call(client.get, upstream.url)
        assert len(upstream.seen) == requests


class TestLimits:
    def test_limits_are_per_host(self, caller: Make, upstream: Upstream, other_upstream: Upstream) -> None:
        """A host's quota is its own, and its refusal is not retried."""
        limits = per_host(lambda host: RateLimit("1/day", key=host), name="limits")
        client = caller(pipeline=Pipeline("p", Retry(3), limits))
        client.get(upstream.url)
        with pytest.raises(RateLimitedError):
            client.get(upstream.url)
        assert client.get(other_upstream.url).status == 200

    def test_places_are_given_back(self, caller: Make, upstream: Upstream, refused_url: str) -> None:
        """However a request ends, its place in a bulkhead is free once its answer has been read."""
        bulkhead = Bulkhead(1)
        client = caller(pipeline=Pipeline("p", Retry(2, wait_initial=0), bulkhead))
        upstream.answers(404)
        upstream.answers(500)
        for _ in range(3):
            client.get(upstream.url)
            assert bulkhead.is_idle
        with pytest.raises(client.refused):
            client.get(refused_url)
        assert bulkhead.is_idle

    def test_connections_are_given_back(self, caller: Make, upstream: Upstream) -> None:
        """Failed attempts, with bodies nobody reads, leave no connection behind: a pool of one is enough."""
        client = caller(connections=1)
        with no_waits():
            for body in (b"", b"x" * 100, b"x" * 300_000):
                upstream.answers(503, body)
                upstream.answers(503, body)
                assert client.get(upstream.url).status == 200
                upstream.answers(503, body)
                assert len(client.request("POST", upstream.url, b"x").content) == len(body)


class TestEnvelope:
    CATALOG = ErrorCatalog()
    CATALOG.define("ORDERS_V001", "No such order.", http_status=404, grpc_status="NOT_FOUND", retryable=False)

    def answer(self, upstream: Upstream, status: int = 404) -> None:
        error = AppError("ORDERS_V001", "No such order.", http_status=status, details={"order": 7})
        body, content_type = envelope_of(error, request_id="abc").render()
        upstream.answers(status, body, content_type=content_type)

    def test_errors_are_raised_on_request(self, caller: Make, upstream: Upstream) -> None:
        """An error answer with an envelope is raised as the error it was made from."""
        self.answer(upstream)
        with pytest.raises(AppError) as caught:
            caller(raises_envelopes=True, catalog=self.CATALOG).get(upstream.url)
        assert (caught.value.code, caught.value.http_status, caught.value.details) == ("ORDERS_V001", 404, {"order": 7})
        assert caught.value.grpc_status == "NOT_FOUND"

    def test_failures_are_retried_first(self, caller: Make, upstream: Upstream) -> None:
        """A failure is judged as ever; what is raised in the end is the last answer's envelope."""
        breaker = CircuitBreaker(fail_max=5)
        self.answer(upstream, 503)
        self.answer(upstream, 503)
        client = caller(raises_envelopes=True, pipeline=Pipeline("p", Retry(2, wait_initial=0), breaker))
        with pytest.raises(AppError, match="No such order"):
            client.get(upstream.url)
        assert breaker.fail_counter == 2

    @pytest.mark.parametrize("body", [b"", b"<html>", b'{"code": 5}', b"[]", b'{"code": "X"}'])
    def test_other_errors_stay_answers(self, caller: Make, upstream: Upstream, body: bytes) -> None:
        """An error without an envelope is given to the client as it is, body and all."""
        upstream.answers(404, body, content_type="application/json")
        got = caller(raises_envelopes=True).get(upstream.url)
        assert (got.status, got.content) == (404, body)

    def test_compressed_envelopes(self, caller: Make, upstream: Upstream) -> None:
        """An envelope is found behind a content encoding, too."""
        body, content_type = envelope_of(AppError("ORDERS_V001", "No.", http_status=404)).render()
        upstream.answers(404, gzip.compress(body), content_type=content_type, content_encoding="gzip")
        with pytest.raises(AppError, match="No"):
            caller(raises_envelopes=True).get(upstream.url)

    @pytest.mark.parametrize("size", [0, 100_000, 1_048_576, 1_048_577, 3_000_000])
    def test_bodies_of_no_stated_length(self, caller: Make, serve: Serve, size: int) -> None:
        """An error whose head does not say how long its body is comes whole, however long that is."""
        upstream = Halting("application/json", b"[" + b" " * size, b"]")
        upstream.go_on.set()
        got = caller(raises_envelopes=True).get(serve(upstream))
        assert (got.status, got.content) == (404, b"[" + b" " * size + b"]")

    def test_envelopes_of_no_stated_length(self, caller: Make, serve: Serve) -> None:
        """An envelope is found in a body of no stated length, and behind a content encoding there, too."""
        body, content_type = envelope_of(AppError("ORDERS_V001", "No.", http_status=404)).render()
        packed = gzip.compress(body)
        for first, rest, coding in ((body[:9], body[9:], "identity"), (packed[:9], packed[9:], "gzip")):
            upstream = Halting(content_type, first, rest, content_encoding=coding)
            upstream.go_on.set()
            with pytest.raises(AppError, match="No"):
                caller(raises_envelopes=True).get(serve(upstream))

    def test_raise_for_envelope(self, caller: Make, upstream: Upstream) -> None:
        """By hand: answers pass, envelopes are raised, other errors are raised as the library would."""
        client = caller()
        response = client.get(upstream.url).response
        assert raise_for_envelope(response) is response
        self.answer(upstream)
        with pytest.raises(AppError, match="No such order"):
            raise_for_envelope(client.get(upstream.url).response)
        upstream.answers(404, b"nothing")
        with pytest.raises(client.failed):
            raise_for_envelope(client.get(upstream.url).response)


class TestPolicies:
    def test_policies_see_the_request(self, caller: Make, upstream: Upstream) -> None:
        """What is guarded is called with the request, for keys to look at."""
        hosts: list[str] = []

        def make(host: str) -> CircuitBreaker:
            hosts.append(host)
            return CircuitBreaker()

        caller(pipeline=Pipeline("p", per_host(make))).get(upstream.url)
        assert hosts == ["template", upstream.url.removeprefix("http://")]

    def test_events_can_be_heard(self, caller: Make, upstream: Upstream) -> None:
        """The pipeline in use is there to be subscribed to."""
        kinds: list[str] = []
        client = caller()
        client.guard.pipeline.subscribe(lambda event: kinds.append(event.kind))
        upstream.answers(503)
        with no_waits():
            client.get(upstream.url)
        assert "retry.scheduled" in kinds

    def test_events_name_the_host_alone(self, caller: Make, upstream: Upstream) -> None:
        """What a failed answer leaves in events and logs is its host and status: no login, path or query."""
        facts: list[str] = []
        breaker = CircuitBreaker(fail_max=2)
        client = caller(pipeline=Pipeline("p", Retry(2, wait_initial=0), breaker))
        client.guard.pipeline.subscribe(lambda event: facts.extend(map(str, event.facts.values())))
        upstream.answers(503)
        upstream.answers(503)
        host = upstream.url.removeprefix("http://")
        client.get(f"http://ann:pw-of-ann@{host}/orders?api_key=hidden")
        assert f"{host} answered 503" in facts
        assert not [fact for fact in facts if "pw-of-ann" in fact or "orders" in fact or "hidden" in fact]

    def test_wrong_pipelines_are_refused(self, caller: Make) -> None:
        """A name no pipeline can have is refused where the client is made."""
        with pytest.raises(ConfigurationError):
            caller(pipeline="no such/ name!")


def test_hosts() -> None:
    """A host is its name, with the port where it is not the scheme's own; who logs in does not matter."""
    for url, host in (
        ("http://api.example/x?y", "api.example"),
        ("https://user:secret@API.example:443/", "api.example"),
        ("https://api.example:8443", "api.example:8443"),
        ("http://[2001:db8::1]:80/", "2001:db8::1"),
    ):
        assert host_of(httpx2.Request("GET", url)) == host
        assert host_of(requests.Request("GET", url).prepare()) == host
