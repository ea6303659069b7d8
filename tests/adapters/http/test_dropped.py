"""Answers that the application drops without closing them, in every library and colour, against a real server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from http_callers import AsyncCaller, RequestsCaller, SyncCaller
from http_upstreams import Upstream

from resilience import Bulkhead, Pipeline
from resilience_http import per_host

Make = Callable[..., SyncCaller]
LONG = b"x" * 300_000


def _open(client: SyncCaller, url: str) -> Any:
    """Return an answer whose body is not read."""
    if isinstance(client, AsyncCaller):
        request = client.client.build_request("GET", url)
        return client.runner.run(client.client.send(request, stream=True))
    if isinstance(client, RequestsCaller):
        return client.session.get(url, stream=True, timeout=5)
    return client.client.send(client.client.build_request("GET", url), stream=True)


def _begin(client: SyncCaller, answer: Any) -> Any:
    """Return the iterator of a body of which a part is read."""
    if isinstance(client, AsyncCaller):
        parts = answer.aiter_bytes(1_000)

        async def first() -> Any:
            return await anext(parts)  # in the loop, which then closes the iterator if it is dropped

        assert client.runner.run(first())
        return parts
    parts = answer.iter_content(1_000) if isinstance(answer, requests.Response) else answer.iter_bytes(1_000)
    assert next(parts)
    return parts


def _drop(client: SyncCaller, held: list[Any]) -> None:
    """Drop what is held, in the event loop if there is one: the loop closes iterators that are dropped."""

    async def drop() -> None:
        held.clear()
        gc.collect()
        await asyncio.sleep(0.05)

    if isinstance(client, AsyncCaller):
        client.runner.run(drop())
    held.clear()
    gc.collect()


@pytest.fixture
def collected() -> Iterator[None]:
    """Keep the collector from running at other moments than those of the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("max_wait", [0, 1], ids=["refuses", "waits"])
def test_unread(caller: Make, upstream: Upstream, max_wait: float) -> None:
    """An answer dropped unread gives its places back when the garbage collector takes it, in each bulkhead it is in."""
    inner, outer = Bulkhead(3, max_wait, name="inner"), Bulkhead(3, max_wait, name="outer")
    client = caller(pipeline=Pipeline("p", outer, inner))
    for _ in range(3):
        upstream.answers(200, LONG)
        _open(client, upstream.url)
    gc.collect()
    assert (outer.concurrent_calls, inner.concurrent_calls) == (0, 0)
    assert client.get(upstream.url).status == 200


def test_begun(caller: Make, upstream: Upstream) -> None:
    """An answer dropped half-read, along with the iterator of its body, gives its place back."""
    bulkhead = Bulkhead(1)
    client = caller(pipeline=Pipeline("p", bulkhead))
    upstream.answers(200, LONG)
    held = [_begin(client, _open(client, upstream.url))]
    assert bulkhead.concurrent_calls == 1
    _drop(client, held)
    assert bulkhead.concurrent_calls == 0


def test_held(caller: Make, upstream: Upstream) -> None:
    """An answer that the application still holds keeps its place, and gives it back once when it is closed."""
    places: list[Bulkhead] = []

    def make(_host: str) -> Bulkhead:
        places.append(Bulkhead(2))
        return places[-1]

    client = caller(pipeline=Pipeline("p", per_host(make)))
    upstream.answers(200, LONG)
    answer = _open(client, upstream.url)
    gc.collect()
    assert places[-1].concurrent_calls == 1
    for _ in range(2):
        if isinstance(client, AsyncCaller):
            client.runner.run(answer.aclose())
        else:
            answer.close()
        assert places[-1].concurrent_calls == 0
    del answer
    gc.collect()
    assert places[-1].snapshot()["concurrent"] == 0


@pytest.mark.usefixtures("collected")
def test_requests_needs_no_collection(upstream: Upstream) -> None:
    """An answer of requests is no part of a cycle: its place is back as soon as the last reference to it is gone."""
    bulkhead = Bulkhead(1)
    client = RequestsCaller(pipeline=Pipeline("p", bulkhead))
    upstream.answers(200, LONG)
    answer = _open(client, upstream.url)
    assert bulkhead.concurrent_calls == 1
    del answer
    assert bulkhead.concurrent_calls == 0
    client.close()


def test_envelopes(caller: Make, upstream: Upstream) -> None:
    """A long error answer that was searched for an envelope, and dropped, gives its place back."""
    bulkhead = Bulkhead(1)
    client = caller(pipeline=Pipeline("p", bulkhead), raises_envelopes=True)
    upstream.script.append((404, {"content-type": "application/json"}, b" " * 2_000_000))
    held = [_open(client, upstream.url)]
    assert bulkhead.concurrent_calls == 1
    _drop(client, held)
    assert bulkhead.concurrent_calls == 0
