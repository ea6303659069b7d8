"""Rate limits for views, blueprints and applications, as decorators."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Blueprint, Flask, current_app, request
from werkzeug.exceptions import NotFound, TooManyRequests

from resilience import Resilience
from resilience.errors import RateLimitedError
from resilience.server import RequestContext, RouteLimit, ServerGate, is_preflight
from resilience_flask._errors import CONTEXT

__all__ = ("exempt", "is_exempt", "is_not_found", "is_static", "rate_limit")

T = TypeVar("T", bound="Callable[..., Any] | Blueprint | Flask")
_EXEMPT = "_resilience_is_exempt"
_STANDALONE = "resilience.standalone"


def rate_limit(
    rate: str | Callable[[], str | None],
    *,
    burst: int | None = None,
    key: str | Callable[[], str | None] | None = None,
    cost: int | Callable[[], int] = 1,
    name: str | None = None,
) -> Callable[[T], T]:
    """Return a decorator for a view, which also takes a blueprint or an application: `rate_limit("5/minute")(admin)`.

    Write it below the route: `@app.get("/")`, then `@rate_limit("5/minute")`; for a class-based view, in `decorators`.
    Each route has buckets of its own. A request over the limit is answered with 429 and `Retry-After`.

    `rate`, `key` and `cost` may be functions without parameters, called in the request.

    Args:
        rate: A rate such as "5/minute", or a function that returns one. If it returns None or "", there is no limit.
        burst: Requests that may come at once, at least 1; None for the amount of the rate.
        key: "ip", "user", "header:<name>", or a function. None for the setting `rate_limit_key`; also for a request
            for which the function returns None or "".
        cost: Tokens that a request takes, at least 1; or a function. If it returns 0, the request is not limited.
        name: A name for the buckets, which all routes with this name share.

    Raises:
        ConfigurationError: An argument is wrong.
    """
    limit = RouteLimit(rate, burst, key, cost, name)

    def decorate(target: T) -> T:
        if isinstance(target, Blueprint | Flask):
            target.before_request(functools.partial(_charge_unless_exempt, limit))
            return target  # pyright: ignore[reportReturnType] - the argument itself
        return cast(T, _limited(limit, target))

    return decorate


def exempt(target: T) -> T:
    """Exempt a view or a blueprint from the server's rate limit, and from that of its blueprint or application.

    Limits on the view itself hold, and so do `max_concurrent_requests` and the deadline.
    """
    setattr(target, _EXEMPT, True)
    return target


def is_exempt(app: Flask, endpoint: str | None) -> bool:
    """Return whether the view of `endpoint` is exempt, or a blueprint that contains it."""
    if endpoint is None:
        return False
    parts = endpoint.split(".")[:-1]
    names = [".".join(parts[: length + 1]) for length in range(len(parts))]
    things = (app.view_functions.get(endpoint), *map(app.blueprints.get, names))
    return any(hasattr(thing, _EXEMPT) for thing in things)


def is_static(app: Flask, endpoint: str | None) -> bool:
    """Return whether `endpoint` serves the static files of the application or of a blueprint."""
    owner, _, name = (endpoint or "").rpartition(".")
    scaffold = app.blueprints.get(owner) if owner else app
    return name == "static" and scaffold is not None and scaffold.has_static_folder


def is_not_found() -> bool:
    """Return whether no route serves this request. A view that answers 404 has served it."""
    return isinstance(request.routing_exception, NotFound)


def _limited(limit: RouteLimit, view: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function for a view of either colour, as Flask's documentation asks of decorators.

    The charge blocks. It would in an async view too: Flask runs each of them in a loop of its own, so no other request
    would wait.
    """
    is_async = inspect.iscoroutinefunction(view)

    @functools.wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _charge(limit)
        if is_async and not _is_in_loop():
            return current_app.ensure_sync(view)(*args, **kwargs)
        return view(*args, **kwargs)

    return limited


def _is_in_loop() -> bool:
    """Return whether an async decorator calls the view, and awaits the result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _charge_unless_exempt(limit: RouteLimit) -> None:
    if is_exempt(current_app, request.endpoint):
        return
    context: RequestContext | None = request.environ.get(CONTEXT)
    gate = (context and context.gate) or _standalone()
    if gate.options.rate_limit_covers == "all" or not (is_not_found() or is_static(current_app, request.endpoint)):
        _charge(limit)


def _charge(limit: RouteLimit) -> None:
    if is_preflight(request.method, request.headers):
        return
    rate = limit.rate() if callable(limit.rate) else limit.rate
    if not rate:
        return
    context: RequestContext | None = request.environ.get(CONTEXT)
    if context is None:
        _charge_standalone(limit, rate)
    else:
        _charge_context(context, context.gate or _standalone(), limit, rate)


def _charge_context(context: RequestContext, gate: ServerGate, limit: RouteLimit, rate: str) -> None:
    if not gate.options.limits:  # before the functions of the application are asked
        return
    if context.user is None:
        context.user = request.remote_user
    if limit.header is not None and limit.header in request.headers:
        context.headers = {**context.headers, limit.header: request.headers[limit.header]}
    key = None if limit.key is None else limit.key()
    cost: Any = limit.cost() if callable(limit.cost) else limit.cost
    arguments = limit.charge_for(gate, context, _route(), rate=rate, key=key, cost=cost)
    if arguments is not None:
        gate.charge(context, *arguments)


def _route() -> str:
    """Return the route as its rule is written. Never the path: clients can vary it."""
    method = "GET" if request.method == "HEAD" else request.method
    return f"{method} {request.url_rule}"


def _charge_standalone(limit: RouteLimit, rate: str) -> None:
    """Charge in an application without our middleware, and answer a refusal as Werkzeug does."""
    gate, environ = _standalone(), request.environ
    context: RequestContext | None = environ.get(_STANDALONE)
    if context is None:  # one for all limits of a request
        context = environ[_STANDALONE] = gate.receive({}, request.remote_addr)
    try:
        _charge_context(context, gate, limit, rate)
    except RateLimitedError as refusal:
        seconds = refusal.retry_after
        raise TooManyRequests(retry_after=None if seconds is None else -int(-seconds // 1)) from refusal


@functools.cache
def _standalone() -> ServerGate:
    """Return the gate for applications without `FlaskResilience`: their limits are in the memory of this process."""
    return ServerGate.of(Resilience())
