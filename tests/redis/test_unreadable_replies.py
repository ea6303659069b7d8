"""A server that answers with replies that are not of the protocol, or not of the script."""

from __future__ import annotations

import asyncio
import contextlib
import socketserver
import threading
from collections.abc import Iterator

import pytest

from resilience.events import Event
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = pytest.mark.redis


@contextlib.contextmanager
def server_that_says(reply: bytes) -> Iterator[str]:
    class Answering(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while self.request.recv(65536):
                    self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()


@pytest.mark.parametrize("is_blocking", [True, False])
@pytest.mark.parametrize(
    "reply", [b":abc\r\n", b"+what\r\n", b"$-1\r\n", b"*0\r\n", b":" + b"9" * 400 + b"\r\n", b"?\r\n"]
)
def test_a_reply_that_cannot_be_read_is_an_outage(reply: bytes, *, is_blocking: bool) -> None:
    """The caller gets a decision by the outage option, and no error, whatever a sick server answers."""
    events: list[Event] = []
    with (
        server_that_says(reply) as url,
        contextlib.closing(RedisConnection.from_url(url, outage="allow", timeout=2)) as connection,
    ):
        store = RedisStore(connection)
        store.events.subscribe(events.append)
        limiter = TokenBucket("1/day", store=store)

        async def awaited() -> None:
            assert await limiter.aacquire("k")
            assert await limiter.aacquire("k")

        if is_blocking:
            assert limiter.acquire("k")
            assert limiter.acquire("k")
        else:
            asyncio.run(awaited())
    assert [event.kind for event in events] == ["ratelimit.outage"]
