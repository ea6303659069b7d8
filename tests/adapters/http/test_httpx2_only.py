"""What httpx2 adds to httpx works through our transports: QUERY, server-sent events and websockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from http_upstreams import Upstream

from resilience import Bulkhead, Pipeline, Resilience, Retry
from resilience.retry import no_waits
from resilience_http.httpx2 import AsyncResilienceTransport, ResilienceTransport

pytestmark = pytest.mark.skipif(not hasattr(httpx2.Client, "websocket"), reason="this httpx2 does not have them yet")


def guarded(*policies: Any) -> ResilienceTransport:
    return ResilienceTransport(None, Resilience(), pipeline=Pipeline("p", *policies))


def test_a_query_is_repeated(upstream: Upstream) -> None:
    """QUERY has a body and does no harm if it arrives twice (RFC 10008)."""
    upstream.answers(503)
    with httpx2.Client(transport=guarded(Retry(2))) as client, no_waits():
        assert client.query(upstream.url, content=b"select").status_code == 200
    assert [(method, body) for method, _, body in upstream.seen] == [("QUERY", b"select")] * 2


def test_server_sent_events_hold_a_place(serve: Callable[[Any], str]) -> None:
    """A stream of events holds its place in a bulkhead until it ends."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: one\n\ndata: two\n\n"})

    bulkhead = Bulkhead(1)
    with httpx2.Client(transport=guarded(bulkhead)) as client, client.sse(serve(app)) as events:
        assert not bulkhead.is_idle
        assert [event.data for event in events] == ["one", "two"]
    assert bulkhead.is_idle


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Accept a websocket and send back its first message."""
    await receive()
    await send({"type": "websocket.accept"})
    message = await receive()
    await send({"type": "websocket.send", "text": message["text"]})
    await receive()


def test_a_websocket_holds_a_place(serve: Callable[[Any], str]) -> None:
    """A websocket works through the transport, and holds its place in a bulkhead until it is closed."""
    bulkhead = Bulkhead(1)
    url = serve(echo).replace("http", "ws")
    with httpx2.Client(transport=guarded(bulkhead)) as client:
        with client.websocket(url) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
            assert not bulkhead.is_idle
        assert bulkhead.is_idle


async def test_an_awaited_websocket_holds_a_place(serve: Callable[[Any], str]) -> None:
    """So does a websocket of an awaiting client."""
    bulkhead = Bulkhead(1)
    url = (await asyncio.to_thread(serve, echo)).replace("http", "ws")
    transport = AsyncResilienceTransport(None, Resilience(), pipeline=Pipeline("p", bulkhead))
    async with httpx2.AsyncClient(transport=transport) as client:
        async with client.websocket(url) as socket:
            await socket.send_text("hello")
            assert await socket.receive_text() == "hello"
            assert not bulkhead.is_idle
        assert bulkhead.is_idle
