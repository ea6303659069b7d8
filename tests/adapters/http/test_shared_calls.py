"""Impatient clients and others whose requests share one call of the service, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from http_upstreams import Upstream
from impatient_callers import HEADER, attack

from resilience import Pipeline, Resilience, SingleFlight
from resilience_fastapi import install
from resilience_http.httpx2 import AsyncResilienceTransport, ResilienceTransport

pytestmark = pytest.mark.realtime
SETTINGS = {"RESILIENCE_LIFECYCLE__SIGNALS": "false"}


def awaiting(url: str, toolkit: Resilience) -> tuple[FastAPI, Pipeline]:
    client = httpx2.AsyncClient(transport=(guard := AsyncResilienceTransport(resilience=toolkit)))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @Pipeline("shared", SingleFlight())
    async def fetch() -> str:
        return (await client.get(url)).raise_for_status().text

    @app.get("/")
    async def index() -> str:
        return await fetch()

    return app, guard.pipeline


def blocking(url: str, toolkit: Resilience) -> tuple[FastAPI, Pipeline]:
    client = httpx2.Client(transport=(guard := ResilienceTransport(resilience=toolkit)))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @Pipeline("shared", SingleFlight())
    def fetch() -> str:
        return client.get(url).raise_for_status().text

    @app.get("/")
    def index() -> str:
        return fetch()

    return app, guard.pipeline


@pytest.mark.parametrize("made", [awaiting, blocking])
def test_an_impatient_client_fails_nobody_who_shares_its_call(
    made: Callable[[str, Resilience], tuple[FastAPI, Pipeline]], serve: Callable[[Any], str], upstream: Upstream
) -> None:
    """Law: five connections that wait for 20 ms of an upstream's 50 ms fail alone, also if all share one call."""
    upstream.delay = 0.05
    toolkit = Resilience.from_env(SETTINGS)
    app, pipeline = made(upstream.url, toolkit)
    opened: list[str] = []
    policies: Any = pipeline.policies
    for policy in policies:
        policy.events.subscribe(lambda event: opened.append(event.kind) if event.kind == "breaker.opened" else None)
    install(app, toolkit)
    url = serve(app)
    with httpx2.Client(timeout=10) as client:

        def ask(is_impatient: bool) -> bool:  # noqa: FBT001 - what `attack` calls
            return client.get(url, headers=HEADER if is_impatient else None).is_success

        losses = attack(ask)
    assert losses.impatient > 10
    assert losses.asked > 10
    assert losses.lost == 0
    assert opened == []
