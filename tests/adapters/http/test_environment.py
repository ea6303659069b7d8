"""Proxies of the environment and options beside the transport, for httpx2 and httpx, and for requests."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http_callers import AsyncCaller, RequestsCaller, SyncCaller
from http_upstreams import Upstream

from resilience import CircuitBreaker, CircuitOpenError, Pipeline
from resilience.errors import ConfigurationError


class Proxy(http.server.ThreadingHTTPServer):
    """A forward proxy for plain HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.seen: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Forwarding(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]  # a Proxy
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        status = 200
        try:
            with direct.open(self.path, timeout=5) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_args: Any) -> None: ...  # noqa: A002 - the name of the base class


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


class OwnSync(SyncCaller):
    """A client whose transport builds its connections itself."""

    def __init__(self, guards: Any, library: Any, pipeline: Pipeline | None = None, **options: Any) -> None:
        self.guard = guards.ResilienceTransport(pipeline=pipeline)
        self.client = library.Client(transport=self.guard, timeout=5, **options)


class OwnAsync(AsyncCaller):
    def __init__(self, guards: Any, library: Any, pipeline: Pipeline | None = None, **options: Any) -> None:
        import asyncio  # noqa: PLC0415 - for the runner alone

        self.guard = guards.AsyncResilienceTransport(pipeline=pipeline)
        self.client = library.AsyncClient(transport=self.guard, timeout=5, **options)
        self.runner = asyncio.Runner()


@pytest.fixture(params=[OwnSync, OwnAsync], ids=["blocking", "async"])
def own(request: pytest.FixtureRequest, guards: Any, httpx: Any) -> Iterator[Callable[..., Any]]:
    with contextlib.ExitStack() as clients:

        def make(**options: Any) -> Any:
            client = request.param(guards, httpx, **options)
            clients.callback(client.close)
            return client

        yield make


def test_proxies_of_the_environment(
    own: Callable[..., Any], upstream: Upstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is used and NO_PROXY excludes a host, as by a client without us; trust_env=False ignores both."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert own().get(upstream.url).status == 200
    assert len(proxy.seen) == 1
    assert own(trust_env=False).get(upstream.url).status == 200
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert own().get(upstream.url).status == 200
    assert len(proxy.seen) == 1


def test_a_proxy_beside_the_transport_is_guarded(own: Callable[..., Any], upstream: Upstream, proxy: Proxy) -> None:
    """A client with `proxy=` beside our transport uses the proxy, and its circuit opens."""
    client = own(pipeline=Pipeline("p", CircuitBreaker(fail_max=1)), proxy=proxy.url)
    upstream.answers(503)
    assert client.get(upstream.url).status == 503
    assert len(proxy.seen) == 1
    with pytest.raises(CircuitOpenError):
        client.get(upstream.url)


def test_limits_and_verify_reach_the_connections(own: Callable[..., Any], httpx: Any) -> None:
    """`limits=` and `verify=` beside our transport shape its connections."""
    context = ssl.create_default_context()
    client = own(limits=httpx.Limits(max_connections=3), verify=context, http1=True)
    pool = client.guard.inner._client._transport._pool
    assert pool._max_connections == 3
    assert pool._ssl_context is context


@pytest.mark.parametrize(
    "options",
    [{"proxy": "http://user:secret@127.0.0.1:1"}, {"verify": False}, {"http2": True}],
    ids=["proxy", "verify", "http2"],
)
def test_options_that_would_have_no_effect_are_refused(options: dict[str, Any], guards: Any, httpx: Any) -> None:
    """An option beside a transport that holds a given one is refused by name, and no password is shown."""
    name = next(iter(options))
    with pytest.raises(ConfigurationError, match=f"{name}=") as refused:
        httpx.Client(transport=guards.ResilienceTransport(httpx.HTTPTransport()), **options)
    assert "secret" not in str(refused.value)
    shared = guards.ResilienceTransport()
    httpx.Client(transport=shared).close()
    httpx.Client(transport=shared).close()
    with pytest.raises(ConfigurationError, match=f"{name}="):
        httpx.Client(transport=shared, **options)


def test_other_clients_are_untouched(upstream: Upstream, httpx: Any) -> None:
    """A client without our transport is built as ever."""
    with httpx.Client(transport=httpx.HTTPTransport(), limits=httpx.Limits(max_connections=1), verify=False) as client:
        assert client.get(upstream.url).status_code == 200


def test_requests_uses_the_environment(upstream: Upstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session with our adapter uses HTTP_PROXY and NO_PROXY."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    client = RequestsCaller()
    assert client.get(upstream.url).status == 200
    assert len(proxy.seen) == 1
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert client.get(upstream.url).status == 200
    assert len(proxy.seen) == 1
    client.close()
