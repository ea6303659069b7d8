"""What a request holds while it waits for its next attempt: no connection, whatever the failed answer's body is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from http_callers import AsyncCaller, Got, RequestsCaller, SyncCaller

from resilience import Bulkhead, Pipeline, Retry

Make = Callable[..., SyncCaller]
Serve = Callable[[object], str]


class Failing:
    """Answers the first request of a path with 503 and the body that the path names, all others with 200."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, is_first = scope["path"], scope["path"] not in [path for path, _ in self.seen]
        self.seen.append((path, scope["client"][1]))
        parts = {"/short": 2, "/long": 200, "/endless": 60}.get(path, 0) if is_first else 0
        headers = [(b"content-length", b"200000")] if path == "/stated" and is_first else []
        status = 503 if is_first and path != "/other" else 200
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"retry-after", b"1")]})
        for _ in range(parts):
            await send({"type": "http.response.body", "body": b"." * 1_000, "more_body": True})
            if path == "/endless":
                await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"." * 200_000 if headers else b""})


class Meanwhile:
    """Makes a request of its own in each wait, through the same client."""

    def __init__(self) -> None:
        self.client: Any = None
        self.url = ""
        self.statuses: list[int] = []
        self._is_asking = False

    def _asks(self) -> bool:
        """Whether this is a wait of the request under test, rather than one of the request made meanwhile."""
        is_first, self._is_asking = not self._is_asking, True
        return is_first

    def sleep(self, _seconds: float) -> None:
        if not self._asks():
            return
        if isinstance(self.client, RequestsCaller):  # which would wait for a connection without end
            assert self.client.guard.poolmanager.connection_from_url(self.url).pool.qsize() == 1
        self.statuses.append(self.client.get(self.url).status)

    async def asleep(self, _seconds: float) -> None:
        if not self._asks():
            return
        await asyncio.sleep(0.05)  # in which a short body is read
        self.statuses.append((await self.client.client.get(self.url)).status_code)


def get(client: SyncCaller, url: str) -> Got:
    """Request `url`; with requests as a stream, for it reads every other body within the attempt."""
    return client.get(url, stream=True) if isinstance(client, RequestsCaller) else client.get(url)


@pytest.mark.parametrize("body", ["short", "long", "stated", "endless"])
def test_connections_are_free_meanwhile(caller: Make, serve: Serve, body: str) -> None:
    """With one connection in the pool another request is made while the failed one waits for its next attempt."""
    upstream, meanwhile = Failing(), Meanwhile()
    url = serve(upstream)
    meanwhile.url = f"{url}/other"
    meanwhile.client = caller(connections=1, pipeline=Pipeline("p", Retry(2), Bulkhead(1), sleeper=meanwhile))
    assert get(meanwhile.client, f"{url}/{body}").status == 200
    assert meanwhile.statuses == [200]
    assert [path for path, _ in upstream.seen] == [f"/{body}", "/other", f"/{body}"]


@pytest.mark.parametrize("body", ["short", "long", "endless"])
def test_short_bodies_keep_the_connection(caller: Make, serve: Serve, body: str) -> None:
    """The connection of a failed answer is used again if its body is short; a long or endless body closes it."""
    upstream, meanwhile = Failing(), Meanwhile()
    url = serve(upstream)
    meanwhile.url = f"{url}/other"
    meanwhile.client = client = caller(pipeline=Pipeline("p", Retry(2), sleeper=meanwhile))
    if isinstance(client, RequestsCaller):
        pytest.skip("it reads every body that is not asked for as a stream")
    assert client.get(f"{url}/{body}").status == 200
    ports = [port for _, port in upstream.seen]
    assert (ports[0] == ports[1]) is (body == "short")


@pytest.mark.realtime
def test_draining_is_bounded(caller: Make, serve: Serve) -> None:
    """An endless body delays the next attempt by no more than the time it is given to end."""
    url = serve(Failing())
    started = time.monotonic()
    sleeper = Meanwhile()
    sleeper.url = f"{url}/other"
    sleeper.client = client = caller(connections=1, pipeline=Pipeline("p", Retry(2), sleeper=sleeper))
    assert get(client, f"{url}/endless").status == 200
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("body", ["short", "long", "stated"])
def test_the_last_answer_is_whole(caller: Make, serve: Serve, body: str) -> None:
    """A failed answer after which there is no attempt is the caller's, with all of its body."""
    client = caller(connections=1, pipeline=Pipeline("p", Retry(1)))
    got = get(client, f"{serve(Failing())}/{body}")
    assert (got.status, len(got.content)) == (503, {"short": 2_000}.get(body, 200_000))


def test_interrupted_waits_hold_nothing(caller: Make, serve: Serve) -> None:
    """A wait that is interrupted leaves no connection and no place behind."""

    class Interrupting(Meanwhile):
        def sleep(self, _seconds: float) -> None:
            raise KeyboardInterrupt

        async def asleep(self, _seconds: float) -> None:
            raise asyncio.CancelledError

    bulkhead = Bulkhead(1)
    client = caller(connections=1, pipeline=Pipeline("p", bulkhead, Retry(2), sleeper=Interrupting()))
    url = serve(Failing())
    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        get(client, f"{url}/endless")
    assert bulkhead.is_idle
    if isinstance(client, AsyncCaller):
        client.runner.run(asyncio.sleep(0.2))
    assert client.get(f"{url}/other").status == 200
