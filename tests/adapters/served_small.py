"""One small service for each server that can listen on a Unix socket."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from flask import Flask, Response

from resilience import Deadline, DeadlineExceededError
from resilience.logs import configure_logging
from resilience.server import current_request
from resilience_fastapi import install, rate_limit
from resilience_flask import FlaskResilience
from resilience_flask import rate_limit as flask_rate_limit

__all__ = ("asgi", "wsgi")

if os.environ.get("CONFIGURES_LOGGING"):
    configure_logging()

asgi = FastAPI()
install(asgi)


def client() -> str:
    request = current_request()
    return "" if request is None else request.client


@asgi.get("/")
async def asgi_client() -> str:
    return client()


@asgi.get("/route", dependencies=[rate_limit("1/minute", key="ip")])
async def asgi_route() -> str:
    return client()


def keep_deadline() -> None:
    """Fail as a guarded call does that is made when the time is up."""
    deadline = Deadline.current()
    if deadline is not None and deadline.expired:
        raise DeadlineExceededError("no time is left")


@asgi.get("/slow")
async def asgi_slow() -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        for _ in range(50):
            yield "a"
            await asyncio.sleep(0.05)

    return StreamingResponse(body())


@asgi.get("/guarded")
def asgi_guarded() -> StreamingResponse:
    return StreamingResponse(pieces(keep_deadline))


@asgi.get("/thread")
def asgi_thread() -> None:
    time.sleep(0.5)
    keep_deadline()


wsgi = Flask(__name__)
FlaskResilience(wsgi)


@wsgi.get("/")
def wsgi_client() -> str:
    return f'"{client()}"'


@wsgi.get("/route")
@flask_rate_limit("1/minute", key="ip")
def wsgi_route() -> str:
    return f'"{client()}"'


def pieces(check: Any = bool) -> Iterator[str]:
    for _ in range(50):
        yield "a"
        time.sleep(0.05)
        check()


@wsgi.get("/slow")
def wsgi_slow() -> Response:
    return Response(pieces())


@wsgi.get("/guarded")
def wsgi_guarded() -> Response:
    return Response(pieces(keep_deadline))


@wsgi.get("/thread")
def wsgi_thread() -> str:
    time.sleep(0.5)
    keep_deadline()
    return ""
