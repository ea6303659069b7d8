"""Flask-Limiter and slowapi, unmodified, with the strategy `token-bucket`."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from flask import Flask

import resilience.limits_strategy

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::DeprecationWarning:slowapi")]

STRATEGY = resilience.limits_strategy.STRATEGY
ADA, BOB = {"X-Client": "ada"}, {"X-Client": "bob"}


def on_flask(**options: Any) -> tuple[Flask, Any]:
    """Return an application that Flask-Limiter guards, and its limiter."""
    import flask  # noqa: PLC0415 - for the key alone

    extension = pytest.importorskip("flask_limiter", reason="it is in the group `peers`")
    app = Flask(__name__)
    options = {"storage_uri": "memory://", "strategy": STRATEGY, "headers_enabled": True, **options}
    limiter = extension.Limiter(lambda: flask.request.headers["X-Client"], app=app, **options)

    @app.get("/")
    @limiter.limit("3/minute")  # type: ignore[untyped-decorator]  # imported by its name
    def index() -> str:
        return "found"

    @app.get("/dear")
    @limiter.limit("10/minute", cost=4)  # type: ignore[untyped-decorator]  # imported by its name
    def dear() -> str:
        return "found"

    return app, limiter


def on_fastapi(**options: Any) -> tuple[FastAPI, Any]:
    """Return an application that slowapi guards, and its limiter."""
    slowapi = pytest.importorskip("slowapi", reason="it is in the group `peers`")
    options = {"strategy": STRATEGY, "headers_enabled": True, **options}
    limiter = slowapi.Limiter(key_func=lambda request: request.headers["X-Client"], **options)
    app = FastAPI()
    app.state.limiter = limiter
    app.add_exception_handler(slowapi.errors.RateLimitExceeded, slowapi._rate_limit_exceeded_handler)
    app.add_middleware(pytest.importorskip("slowapi.middleware").SlowAPIMiddleware)

    @app.get("/")
    @limiter.limit("3/minute")  # type: ignore[untyped-decorator]  # imported by its name
    async def index(request: Request) -> Any:
        return pytest.importorskip("starlette.responses").PlainTextResponse("found")

    return app, limiter


def asked(app: FastAPI, headers: dict[str, str]) -> httpx2.Response:
    import asyncio  # noqa: PLC0415 - a blocking face for a blocking test

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://shop") as client:
            return await client.get("/", headers=headers)

    return asyncio.run(ask())


def check_headers(replies: list[Any]) -> None:
    """Assert that the first three were admitted, and that the headers count tokens and name the wait for the next."""
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert [reply.headers["X-RateLimit-Remaining"] for reply in replies] == ["2", "1", "0", "0"]
    assert replies[3].headers["X-RateLimit-Limit"] == "3"
    assert 10 < float(replies[3].headers["Retry-After"]) <= 22, (
        "20 s to the next token, not 60 s to the end of a window"
    )


def test_flask_limiter() -> None:
    """Flask-Limiter takes the strategy by its name, and its headers show the bucket."""
    app, limiter = on_flask()
    client = app.test_client()
    check_headers([client.get("/", headers=ADA) for _ in range(4)])
    assert client.get("/", headers=BOB).status_code == 200
    limiter.reset()
    assert client.get("/", headers=ADA).status_code == 200


def test_flask_limiter_charges_costs() -> None:
    """Flask-Limiter's `cost` is the number of tokens."""
    client = on_flask()[0].test_client()
    assert [client.get("/dear", headers=ADA).status_code for _ in range(3)] == [200, 200, 429]


def test_flask_limiter_falls_back_to_memory() -> None:
    """During an outage of Redis, Flask-Limiter's own fallback uses the strategy in memory."""
    pytest.importorskip("redis")
    app, _ = on_flask(storage_uri="redis://127.0.0.1:1/0", in_memory_fallback_enabled=True)
    client = app.test_client()
    assert [client.get("/", headers=ADA).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_slowapi() -> None:
    """slowapi takes the strategy by its name, and its headers show the bucket."""
    app, limiter = on_fastapi()
    check_headers([asked(app, ADA) for _ in range(4)])
    assert asked(app, BOB).status_code == 200
    limiter.reset()
    assert asked(app, ADA).status_code == 200
