"""One small service for each server that can listen on a Unix socket."""

from __future__ import annotations

from fastapi import FastAPI
from flask import Flask

from resilience.inbound import current_request
from resilience_fastapi import install, rate_limit
from resilience_flask import FlaskResilience
from resilience_flask import rate_limit as flask_rate_limit

__all__ = ("asgi", "wsgi")

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


wsgi = Flask(__name__)
FlaskResilience(wsgi)


@wsgi.get("/")
def wsgi_client() -> str:
    return f'"{client()}"'


@wsgi.get("/route")
@flask_rate_limit("1/minute", key="ip")
def wsgi_route() -> str:
    return f'"{client()}"'
