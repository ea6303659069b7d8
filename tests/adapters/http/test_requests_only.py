"""What only requests shows: streams, authentication, timeouts as it takes them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import requests
from http_upstreams import Upstream
from requests.auth import HTTPDigestAuth
from urllib3.util import Timeout as StepTimeout

from resilience import Bulkhead, BulkheadFullError, Pipeline, Resilience
from resilience.inbound import RequestContext
from resilience.policy import AroundPolicy, Policy
from resilience.timeout import Deadline
from resilience_http import ResilienceAdapter
from resilience_http._requests import within


def session(*policies: Policy | AroundPolicy) -> requests.Session:
    made = requests.Session()
    made.mount("http://", ResilienceAdapter(Resilience(), pipeline=Pipeline("p", *policies)))
    return made


@pytest.mark.parametrize("is_read", [True, False])
def test_stream_holds_its_place(upstream: Upstream, *, is_read: bool) -> None:
    """A streamed answer holds its place in a bulkhead until its last byte is read, or it is closed before."""
    bulkhead = Bulkhead(1)
    with session(bulkhead) as client:
        response = client.get(upstream.url, stream=True)
        with pytest.raises(BulkheadFullError):
            client.get(upstream.url)
        if is_read:
            assert response.content
        else:
            response.close()
        assert bulkhead.is_idle
        assert client.get(upstream.url).status_code == 200


def test_failed_streams_are_closed(upstream: Upstream) -> None:
    """A failed answer that was to be streamed gives its connection to the next attempt."""
    seen: list[requests.Response] = []

    class Noting(ResilienceAdapter):
        def send_plain(self, request: requests.PreparedRequest, settings: dict[str, Any]) -> requests.Response:
            assert all(response.raw.closed for response in seen)
            seen.append(super().send_plain(request, settings))
            return seen[-1]

    upstream.answers(503, b"x" * 300_000)
    with requests.Session() as client:
        client.mount("http://", Noting(Resilience()))
        with client.get(upstream.url, stream=True) as response:
            assert response is seen[1]


def test_digest_authentication(upstream: Upstream) -> None:
    """What answers a challenge is a request of its own, made from the caller's and not from ours."""
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    upstream.answers(401, www_authenticate=challenge)
    with session() as client, RequestContext("abc", deadline=Deadline.after(5)):
        assert client.get(upstream.url, auth=HTTPDigestAuth("ann", "secret")).status_code == 200
    first, second = (headers for _, headers, _ in upstream.seen)
    assert "authorization" not in first
    assert second["authorization"].startswith("Digest ")
    assert float(second["x-request-timeout"]) < float(first["x-request-timeout"])


@pytest.mark.parametrize(
    ("given", "connect", "read"),
    [
        (None, 2, 2),
        (1, 1, 1),
        (9, 2, 2),
        ((1, 9), 1, 2),
        ((None, 1), 2, 1),
        (StepTimeout(1), 1, 1),
        (StepTimeout(total=1), 1, 1),
        (StepTimeout(connect=1, read=9), 1, 2),
    ],
)
def test_timeouts_are_capped(given: Any, connect: float, read: float) -> None:
    """A timeout in any form requests takes ends with the deadline, and where it is shorter stays as it is."""
    capped = within(given, 2.0)
    assert capped.connect_timeout == connect
    capped.start_connect()
    assert capped.read_timeout == pytest.approx(read, abs=0.1)


def test_timeouts_without_a_deadline() -> None:
    """Without a deadline a timeout is not touched."""
    given = object()
    assert within(given, None) is given


def test_options_of_the_adapter() -> None:
    """What `HTTPAdapter` takes is taken; what it does not is refused."""
    made: Any = ResilienceAdapter(Resilience(), pool_maxsize=3)
    assert made._pool_maxsize == 3
    with pytest.raises(TypeError):
        ResilienceAdapter(Resilience(), pool_size=3)


def test_sessions_can_be_pickled(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled session guards its requests where it is unpickled, by what is configured there."""
    monkeypatch.setenv("RESILIENCE_PIPELINE__PAYMENTS__RETRY__WAIT_INITIAL", "1ms")
    monkeypatch.setenv("RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS", "1")
    with requests.Session() as client:
        client.mount("http://", ResilienceAdapter(pipeline="payments", sends_context=False, pool_maxsize=3))
        pickled = pickle.dumps(client)
    monkeypatch.setenv("RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS", "2")
    upstream.answers(503)
    with pickle.loads(pickled) as client, RequestContext("abc"):
        assert client.get(upstream.url).status_code == 200
        assert client.get_adapter("http://")._pool_maxsize == 3
    assert ["x-request-id" in headers for _, headers, _ in upstream.seen] == [False, False]


@pytest.mark.parametrize(
    "make",
    [lambda: ResilienceAdapter(Resilience()), lambda: ResilienceAdapter(pipeline=Pipeline("p"))],
    ids=["toolkit", "pipeline"],
)
def test_what_lives_in_a_process_stays_there(make: Callable[[], ResilienceAdapter]) -> None:
    """An adapter whose policies were made by hand says at once that it cannot be copied, and what can be done."""
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="Name a pipeline that is configured"):
            attempt(make())
