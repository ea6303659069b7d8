"""Rate limits for routes, routers and applications, as dependencies."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from fastapi import params
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.status import WS_1013_TRY_AGAIN_LATER
from starlette.types import Scope

from resilience import Resilience
from resilience.envelope import envelope_of
from resilience.errors import RateLimitedError
from resilience.server import RequestContext, RouteLimit, ServerGate, is_preflight
from resilience_fastapi._answers import context_of, ids_of
from resilience_fastapi._middleware import ResilienceMiddleware
from resilience_fastapi._scope import template_of, user_of

__all__ = ("rate_limit",)

T = TypeVar("T", bound=Callable[..., Any])
_EXEMPT = "_resilience_exempt_from"

Key: TypeAlias = str | Callable[[HTTPConnection], str | Awaitable[str]]


# Annotations in here are objects, not text: FastAPI cannot resolve the text of a callable object's signature.
class RouteDependency(params.Depends):
    """The dependency, as FastAPI keeps it and as it is called. One object may stand on any number of routes."""

    def __init__(self, limit: RouteLimit) -> None:
        super().__init__(self)
        self._limit = limit

    # By identity: it is its own dependency, and two limits are two, however alike they are.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<rate_limit {self._limit.rate}>"

    def exempt(self, endpoint: T) -> T:
        """Spare one endpoint this limit, which it would get from its router or application.

        Stands below the route: `@app.get("/")`, then `@limit.exempt`. Other limits of the endpoint hold.
        """
        setattr(endpoint, _EXEMPT, (*getattr(endpoint, _EXEMPT, ()), self))
        return endpoint

    async def __call__(self, connection: HTTPConnection) -> None:
        """Charge the caller, or raise `RateLimitedError`; where nobody would answer that, what FastAPI answers."""
        if self in getattr(connection.scope.get("endpoint"), _EXEMPT, ()):
            return
        if is_preflight(connection.scope.get("method", ""), connection.headers):
            return
        limit = self._limit
        rate: str | None = await _value(limit.rate, connection)
        if rate is None:
            return
        try:
            await _charge(limit, rate, connection)
        except RateLimitedError as refusal:
            if _is_answered(refusal, connection.scope):
                raise
            raise _as_fastapi_has_it(refusal, connection.scope) from refusal


async def _charge(limit: RouteLimit, rate: str, connection: HTTPConnection) -> None:
    context = context_of(connection.scope)
    if context is None:
        context = _unaccompanied(connection)
    gate = context.gate or _standalone()
    if context.user is None:
        context.user = user_of(connection.scope)
    if limit.header is not None and limit.header in connection.headers:
        context.headers = {**context.headers, limit.header: connection.headers[limit.header]}
    cost: int = await _value(limit.cost, connection)
    key = None if limit.key is None else str(await _value(limit.key, connection))
    due = limit.charge_for(gate, context, _place(connection.scope), rate=rate, key=key, cost=cost)
    if due is not None:
        await gate.acharge(context, *due)


def _place(scope: Scope) -> str:
    method = scope.get("method", "WEBSOCKET")
    return f"{'GET' if method == 'HEAD' else method} {template_of(scope)}"


async def _value(given: Any, connection: HTTPConnection) -> Any:
    """Return what was given, or what the function given says about this connection."""
    found = given(connection) if callable(given) else given
    return await found if inspect.isawaitable(found) else found


def rate_limit(
    rate: str | Callable[[HTTPConnection], str | Awaitable[str | None] | None],
    *,
    burst: int | None = None,
    key: Key | None = None,
    cost: int | Callable[[HTTPConnection], int | Awaitable[int]] = 1,
    name: str | None = None,
) -> RouteDependency:
    """Return a dependency for a route, a router or an application: `dependencies=[rate_limit("5/minute")]`.

    The endpoint needs no `request` parameter. Each route, under each prefix it is included with or mounted at, has
    buckets of its own, unless a `name` makes several share them; what a client writes for a parameter, of the path or
    of a mount, gives it no others. `key` is `"ip"`, `"user"`, `"header:<name>"` or a function; by default what the
    server's `rate_limit_key` says. `rate`, `key` and `cost` may be functions of the connection, of either colour,
    called in the event loop; with a `rate` of None the request is not limited. A request over the limit is answered
    with 429 and `Retry-After`, a websocket handshake is denied: with the envelope where the application has `install`
    or the middleware, and a handler of its own wins; as FastAPI answers an `HTTPException` where it has none of these.
    Raises `ConfigurationError` for a bad argument.
    """
    return RouteDependency(RouteLimit(rate, burst, key, cost, name))


def _is_answered(refusal: RateLimitedError, scope: Scope) -> bool:
    """Whether the application has a handler for this, its own or ours, or the layer that answers in its place."""
    app = scope.get("app")
    handlers = getattr(app, "exception_handlers", ())
    if any(kind in handlers for kind in type(refusal).__mro__[: -len(Exception.__mro__)]):
        return True
    layers = getattr(app, "user_middleware", ())
    return scope["type"] == "http" and any(layer.cls is ResilienceMiddleware for layer in layers)


def _as_fastapi_has_it(refusal: RateLimitedError, scope: Scope) -> HTTPException | WebSocketException:
    """Return what any application answers without being told how, in the shape its other errors have."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        return WebSocketException(WS_1013_TRY_AGAIN_LATER, refusal.code)
    envelope = envelope_of(refusal, **ids_of(scope))
    return HTTPException(envelope.http_status, envelope.message, envelope.response_headers())


@functools.cache
def _standalone() -> ServerGate:
    """Return the gate of an application without the middleware: limits work, in the memory of this process."""
    return ServerGate.of(Resilience())


def _unaccompanied(connection: HTTPConnection) -> RequestContext:
    gate = _standalone()
    peer = connection.client
    return gate.receive({}, None if peer is None else peer.host)
