"""Unhandled errors: who answers them, and through which layers the answer goes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from resilience_fastapi._answers import context_of

__all__ = ("adopt_fault_handler", "call", "cors_inside", "through_cors")

_MOST_LAYERS = 64


def _layers(outermost: Any) -> Iterator[Any]:
    layer = outermost
    for _ in range(_MOST_LAYERS):
        if layer is None:
            return
        yield layer
        layer = getattr(layer, "app", None)


def cors_inside(app: ASGIApp) -> CORSMiddleware | None:
    """Return the CORS layer below us, if any: our own answers never reach it, and browsers hide what it did not see."""
    return next((layer for layer in _layers(app) if isinstance(layer, CORSMiddleware)), None)


def through_cors(cors: CORSMiddleware | None, response: ASGIApp) -> ASGIApp:
    """Return `response` with the headers the application's own CORS rules give it."""
    if cors is None:
        return response
    layer = copy.copy(cors)
    layer.app = response
    return layer


def adopt_fault_handler(app: Any) -> bool:
    """Return whether the application answers its unhandled errors itself, by a handler for 500 or by debug pages.

    Such a handler runs outside all middleware, so its answers are given the request id here.
    """
    stack = getattr(app, "middleware_stack", None)
    layer = next((layer for layer in _layers(stack) if isinstance(layer, ServerErrorMiddleware)), None)
    if layer is None:
        return False
    if layer.handler is not None:
        layer.handler = _Identified(layer.handler)
    return layer.handler is not None or layer.debug


async def call(handler: Any, request: HTTPConnection, error: BaseException) -> Any:
    """Call an exception handler of either colour."""
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004 - an object with an async __call__ is a handler too
        return await handler(request, error)
    return await run_in_threadpool(handler, request, error)


class _Identified:
    """The application's own handler, seeing the request it is called for and sending its id."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    async def __call__(self, request: Request, error: Exception) -> Response:
        context = context_of(request.scope)
        if context is None:
            response: Response = await call(self.handler, request, error)
            return response
        with context:
            response = await call(self.handler, request, error)
        response.headers["X-Request-ID"] = context.request_id
        return response
