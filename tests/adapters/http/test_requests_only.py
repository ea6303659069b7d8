"""What only requests shows: streams, authentication, timeouts as it takes them."""

from __future__ import annotations

import contextlib
import copy
import gzip
import pickle
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from http_upstreams import Breaking, Halting, Upstream
from requests.auth import HTTPDigestAuth
from urllib3.util import Timeout as StepTimeout

from resilience import (
    AppError,
    Bulkhead,
    BulkheadFullError,
    DeadlineExceededError,
    Pipeline,
    Resilience,
    Retry,
    Timeout,
)
from resilience.envelope import envelope_of
from resilience.policy import AroundPolicy, Policy
from resilience.server import RequestContext
from resilience.timeout import Deadline
from resilience_http import ResilienceAdapter
from resilience_http._requests import capped


def session(*policies: Policy | AroundPolicy, **options: Any) -> requests.Session:
    made = requests.Session()
    made.mount("http://", ResilienceAdapter(Resilience(), pipeline=Pipeline("p", *policies), **options))
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


@pytest.fixture
def dripping() -> Iterator[str]:
    """Provide a server whose body has a length, and comes byte by byte, for ten seconds."""
    listener, is_over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            for _ in range(100):
                connection.sendall(b"a")
                if is_over.wait(0.1):
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    is_over.set()
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.realtime
def test_a_body_in_drops_does_not_outlast_its_timeout(dripping: str) -> None:
    """A call that a `Timeout` ends returns on time, although its thread is still reading the body (L9)."""
    timeout = Timeout("300ms")
    with session(timeout) as client:
        since = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            client.get(dripping)
        assert time.monotonic() - since < 4
        while timeout.snapshot()["busy_threads"]:  # the thread ends with its read, not with the body
            assert time.monotonic() - since < 6
            time.sleep(0.02)


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
    limited = capped(given, 2.0)
    assert limited.connect_timeout == connect
    limited.start_connect()
    assert limited.read_timeout == pytest.approx(read, abs=0.1)


def test_timeouts_without_a_deadline() -> None:
    """Without a deadline a timeout is not touched."""
    given = object()
    assert capped(given, None) is given


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


class TestSearchForEnvelopes:
    """With `raises_envelopes`, the bodies of streams are looked into."""

    @pytest.mark.parametrize(
        ("content_type", "first"), [("application/json", b" " * 1_100_000), ("application/zip", b"PK")]
    )
    @pytest.mark.parametrize("is_read", [True, False])
    def test_it_has_an_end(
        self, serve: Callable[[Any], str], content_type: str, first: bytes, *, is_read: bool
    ) -> None:
        """What may be an envelope is read up to 1 MiB, else nothing is; a stream goes on from its first byte."""
        upstream, bulkhead = Halting(content_type, first, b"the end"), Bulkhead(1)
        with session(bulkhead, raises_envelopes=True) as client:
            response = client.get(serve(upstream), stream=True, timeout=5)
            upstream.go_on.set()
            assert not bulkhead.is_idle
            assert not is_read or b"".join(response.iter_content(1000)) == first + b"the end"
            response.close()
        assert bulkhead.is_idle

    @pytest.mark.parametrize("size", [0, 100, 1_500_000])
    def test_bytes_stay_as_they_came(self, serve: Callable[[Any], str], size: int) -> None:
        """A stream that was looked into is as encoded as ever, with its head, its cookies and its connection."""
        plain = random.randbytes(size)
        packed = gzip.compress(plain)
        upstream = Halting("application/json", packed[:50], packed[50:], content_encoding="gzip", set_cookie="a=b")
        upstream.go_on.set()
        url = serve(upstream)
        ways: list[tuple[Callable[[requests.Response], bytes], bytes]] = [
            (lambda answer: answer.content, plain),
            (lambda answer: b"".join(answer.iter_content(1000)), plain),
            (lambda answer: answer.raw.read(), packed),
            (lambda answer: b"".join(iter(answer.raw.read1, b"")), packed),
            (lambda answer: b"".join(answer.raw.stream(1000, decode_content=False)), packed),
        ]
        with session(raises_envelopes=True, pool_maxsize=1, pool_block=True) as client:
            for read, expected in ways:
                answer = client.get(url, stream=True, timeout=5)
                assert (answer.raw.status, answer.raw.reason) == (404, "Not Found")
                assert read(answer) == expected
            assert client.cookies["a"] == "b"

    def test_envelopes_are_raised(self, serve: Callable[[Any], str]) -> None:
        """An envelope in a stream is raised, and its connection is free."""
        body, content_type = envelope_of(AppError("ORDERS_V001", "No.", http_status=404)).render()
        upstream, bulkhead = Halting(content_type, body[:9], body[9:]), Bulkhead(1)
        upstream.go_on.set()
        url = serve(upstream)
        with session(bulkhead, raises_envelopes=True, pool_maxsize=1, pool_block=True) as client:
            for _ in range(2):
                with pytest.raises(AppError, match="No"):
                    client.get(url, stream=True, timeout=5)
                assert bulkhead.is_idle

    def test_a_stream_breaks_off_where_it_does(self, breaking: Callable[..., Breaking]) -> None:
        """A body that breaks off is the reader's to notice, after what came before."""
        head = b"HTTP/1.1 404 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        server = breaking(head + b"5\r\nhello\r\n")
        bulkhead, parts = Bulkhead(1), list[bytes]()
        with session(bulkhead, raises_envelopes=True) as client:
            answer = client.get(server.url, stream=True, timeout=5)
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                parts.extend(answer.iter_content(1))
        assert b"".join(parts) == b"hello"
        assert bulkhead.is_idle

    def test_heads_have_no_body(self, upstream: Upstream) -> None:
        """An answer to HEAD says how long a body would be, and has none."""
        upstream.answers(404, b"{}", content_type="application/json")
        with session(raises_envelopes=True) as client:
            assert client.head(upstream.url, stream=True).content == b""

    def test_small_bodies_that_hold_much(self, serve: Callable[[Any], str]) -> None:
        """A small body that is large once it is decoded is no envelope, and still there."""
        packed = gzip.compress(b" " * 50_000_000)
        upstream = Halting("application/json", packed, content_encoding="gzip")
        upstream.go_on.set()
        with session(raises_envelopes=True) as client:
            assert client.get(serve(upstream), stream=True, timeout=5).raw.read() == packed

    def test_bodies_that_cannot_be_decoded(self, serve: Callable[[Any], str]) -> None:
        """A body that is not in the encoding it says is the reader's to notice, too."""
        upstream = Halting("application/json", b"no gzip", content_encoding="gzip")
        upstream.go_on.set()
        with session(raises_envelopes=True) as client:
            answer = client.get(serve(upstream), stream=True, timeout=5)
            with pytest.raises(requests.exceptions.ContentDecodingError):
                _ = answer.content


def test_a_failed_answer_that_was_read_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt uses the connection of a failed answer that was read to its end: nothing shuts it down."""

    def shutdown(raw: Any) -> None:  # as in urllib3 2.3, which does not ask whose the connection is by now
        raw._sock_shutdown(socket.SHUT_RD)

    monkeypatch.setattr("urllib3.response.HTTPResponse.shutdown", shutdown, raising=False)
    listener, heads = socket.create_server(("127.0.0.1", 0)), iter([b"503 Busy", b"200 OK"])
    listener.settimeout(10)

    def serve() -> None:  # one connection, and no other
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            for head in heads:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 " + head + b"\r\nContent-Length: 4\r\n\r\ntext")

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with listener, session(Retry(attempts=2, wait_initial=0, wait_jitter=0)) as client:
        assert client.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=5).status_code == 200
    server.join(10)
