"""httpx2 under trio: what is refused, and the two ways that trio's users have."""

from __future__ import annotations

import httpx2
import pytest
import trio
from http_upstreams import Upstream

from resilience import CircuitBreaker, ConfigurationError, Pipeline, Resilience, Retry
from resilience_http.httpx2 import AsyncResilienceTransport, ResilienceTransport

REFUSAL = (
    "AsyncResilienceTransport needs asyncio, and this coroutine runs under trio; "
    "run the coroutine on asyncio, or make the call in blocking code, in a thread"
)


def test_async_client_is_refused_before_a_request_is_sent(upstream: Upstream) -> None:
    """Each request of an `AsyncClient` on trio raises one clear error: nothing is sent, repeated or counted."""
    events: list[str] = []
    breaker = CircuitBreaker(fail_max=1)
    retry = Retry(attempts=3, on=Exception, wait_initial=0)
    pipeline = Pipeline("p", retry, breaker, listeners=[lambda event: events.append(event.kind)])

    async def refused() -> list[str]:
        texts = []
        async with httpx2.AsyncClient(
            transport=AsyncResilienceTransport(None, Resilience(), pipeline=pipeline)
        ) as client:
            for _ in range(2):
                with pytest.raises(ConfigurationError) as caught:
                    await client.get(upstream.url)
                texts.append(str(caught.value))
        return texts

    assert trio.run(refused) == [REFUSAL] * 2
    assert (upstream.seen, breaker.current_state, events) == ([], "closed", [])


def test_pipeline_guards_a_plain_client_on_trio(upstream: Upstream) -> None:
    """A pipeline around a plain `AsyncClient` guards its requests on trio, as long as no policy needs asyncio."""
    breaker = CircuitBreaker(fail_max=1)
    orders = Pipeline("orders", breaker)

    async def fetch() -> int:
        async with httpx2.AsyncClient() as client:
            response = await orders.acall(client.get, upstream.url)
        return response.status_code

    assert trio.run(fetch) == 200
    assert len(upstream.seen) == 1


def test_blocking_client_serves_trio_in_a_thread(upstream: Upstream) -> None:
    """A blocking client with our transport makes requests for trio in a thread."""

    async def fetch() -> int:
        with httpx2.Client(transport=ResilienceTransport(None, Resilience())) as client:
            response = await trio.to_thread.run_sync(client.get, upstream.url)
        return response.status_code

    assert trio.run(fetch) == 200
