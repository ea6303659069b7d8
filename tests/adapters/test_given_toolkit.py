"""What adapters say to a toolkit that is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from fastapi import FastAPI
from flask import Flask

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience_fastapi import ResilienceMiddleware, install
from resilience_flask import FlaskResilience
from resilience_grpc import (
    add_health,
    aio_client_interceptors,
    aio_server_interceptors,
    client_interceptors,
    drain,
    server_interceptors,
)
from resilience_http import ResilienceAdapter
from resilience_http.httpx2 import AsyncResilienceTransport, ResilienceTransport


def _on_a_server(call: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda toolkit: call(grpc.server(None), toolkit)  # type: ignore[arg-type]  # it never serves


GIVEN: dict[str, Callable[[Any], Any]] = {
    "FastAPI": lambda toolkit: install(FastAPI(), toolkit),
    "middleware": lambda toolkit: ResilienceMiddleware(FastAPI(), resilience=toolkit),
    "Flask": lambda toolkit: FlaskResilience(Flask("shop"), toolkit),
    "gRPC servers": server_interceptors,
    "gRPC servers, aio": aio_server_interceptors,
    "gRPC clients": client_interceptors,
    "gRPC clients, aio": aio_client_interceptors,
    "gRPC health": _on_a_server(add_health),
    "gRPC drain": _on_a_server(drain),
    "httpx": lambda toolkit: ResilienceTransport(resilience=toolkit),
    "httpx, async": lambda toolkit: AsyncResilienceTransport(resilience=toolkit),
    "requests": lambda toolkit: ResilienceAdapter(resilience=toolkit),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN.keys())
@pytest.mark.parametrize("wrong", [{}, {"redis": "redis://:hunter2@cache"}, "payments", Resilience])
def test_what_is_no_toolkit_is_refused_where_it_is_given(given: Callable[[Any], Any], wrong: Any) -> None:
    """A mapping, a name or the class itself is neither taken for none nor found out by the first request."""

    async def give() -> None:
        given(wrong)

    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(give())
    texts = [f"resilience='{shown}': expected a Resilience, or None" for shown in (type(wrong).__name__, "payments")]
    assert str(caught.value).partition(" (for the pipeline")[0] in texts
