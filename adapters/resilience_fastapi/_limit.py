"""Rate limits for routes, routers and applications, as dependencies."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from fastapi import HTTPException, WebSocketException, params
from starlette.requests import HTTPConnection
from starlette.status import WS_1013_TRY_AGAIN_LATER
from starlette.types import Scope

from resilience import Resilience
from resilience.envelope import envelope_of
from resilience.errors import ConfigurationError, RateLimitedError, named
from resilience.server import RequestContext, RouteLimit, ServerGate, is_preflight
from resilience_fastapi._errors import ids_of
from resilience_fastapi._exchange import SCOPE_KEY
from resilience_fastapi._middleware import ResilienceMiddleware
from resilience_fastapi._scope import template_of, user_of

__all__ = ("rate_limit",)

T = TypeVar("T", bound=Callable[..., Any])
_EXEMPT = "_resilience_exempt_from"
_STANDALONE = "resilience.standalone"

Key: TypeAlias = str | Callable[[HTTPConnection], str | Awaitable[str | None] | None]


# Annotations in this file are objects, not text: FastAPI cannot resolve the text of a callable object's signature.
class RouteDependency(params.Depends):
    """A dependency and its own callable. One object may be used for any number of routes."""

    def __init__(self, limit: RouteLimit) -> None:
        super().__init__(self)
        self._limit = limit
        # FastAPI awaits a callable object if its attribute `__call__` is a coroutine function; Python calls the type's.
        vars(self)["__call__"] = self._charge

    # By identity: two limits count apart, also if they are written alike.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<rate_limit {self._limit.rate}>"

    def exempt(self, endpoint: T) -> T:
        """Exempt one endpoint from this limit of its router or application. Other limits of the endpoint hold.

        Write it below the route: `@app.get("/")`, then `@limit.exempt`.
        """
        setattr(endpoint, _EXEMPT, (*getattr(endpoint, _EXEMPT, ()), self))
        return endpoint

    def __call__(self, connection: HTTPConnection) -> Coroutine[Any, Any, None]:
        """Return the coroutine that charges the client; refuse a function, as a decorator gets it."""
        given: object = connection
        if not isinstance(given, HTTPConnection):
            line = f'@app.get("/path", dependencies=[rate_limit("{self._limit.rate}")])'
            reason = f"rate_limit is a dependency, not a decorator of {named(given)}"
            raise ConfigurationError(f"{reason}: write {line}")
        return self._charge(connection)

    async def _charge(self, connection: HTTPConnection) -> None:
        """Charge the client, or raise `RateLimitedError`; `HTTPException` if the application does not answer that."""
        if self in getattr(connection.scope.get("endpoint"), _EXEMPT, ()):
            return
        if is_preflight(connection.scope.get("method", ""), connection.headers):
            return
        limit = self._limit
        rate: str | None = await _value(limit.rate, connection)
        if not rate:
            return
        try:
            await _charge(limit, rate, connection)
        except RateLimitedError as refusal:
            if _is_answered(refusal, connection.scope):
                raise
            raise _as_http_exception(refusal, connection.scope) from refusal


async def _charge(limit: RouteLimit, rate: str, connection: HTTPConnection) -> None:
    scope = connection.scope
    context: RequestContext | None = scope.get(SCOPE_KEY) or scope.get(_STANDALONE)
    if context is None:  # one for all limits of a request
        context = scope[_STANDALONE] = _standalone_context(connection)
    gate = context.gate or _standalone()
    if not gate.options.limits:  # before the functions of the application are asked
        return
    if context.user is None:
        context.user = user_of(connection.scope)
    if limit.header is not None and limit.header in connection.headers:
        context.headers = {**context.headers, limit.header: connection.headers[limit.header]}
    cost: int = await _value(limit.cost, connection)
    key = None if limit.key is None else await _value(limit.key, connection)
    arguments = limit.charge_for(gate, context, _route(connection.scope), rate=rate, key=key, cost=cost)
    if arguments is not None:
        await gate.acharge(context, *arguments)


def _route(scope: Scope) -> str:
    method = scope.get("method", "WEBSOCKET")
    return f"{'GET' if method == 'HEAD' else method} {template_of(scope)}"


async def _value(given: object, connection: HTTPConnection) -> Any:
    """Return `given`, or the result of the function `given` for this connection."""
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

    The endpoint needs no `request` parameter. Each route has buckets of its own, under each prefix or mount. Parameters
    of a path or of a mount do not matter: a client that varies them gets no new bucket.

    A request over the limit is answered with 429 and `Retry-After`; a websocket handshake is denied. The body is the
    envelope if the application has `install` or the middleware, and a handler of the application wins. Without either,
    the answer is that of FastAPI to an `HTTPException`.

    `rate`, `key` and `cost` may be functions of the connection, coroutine functions too. They run in the event loop.

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
    return RouteDependency(RouteLimit(rate, burst, key, cost, name))


def _is_answered(refusal: RateLimitedError, scope: Scope) -> bool:
    """Return whether the application has a handler for `refusal`, its own or ours, or our layer, which answers it."""
    app = scope.get("app")
    handlers = getattr(app, "exception_handlers", ())
    if any(kind in handlers for kind in type(refusal).__mro__[: -len(Exception.__mro__)]):
        return True
    layers = getattr(app, "user_middleware", ())
    return scope["type"] == "http" and any(layer.cls is ResilienceMiddleware for layer in layers)


def _as_http_exception(refusal: RateLimitedError, scope: Scope) -> HTTPException | WebSocketException:
    """Return an exception that FastAPI itself answers, in the shape of the application's other errors."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        return WebSocketException(WS_1013_TRY_AGAIN_LATER, refusal.code)
    envelope = envelope_of(refusal, **ids_of(scope))
    return HTTPException(envelope.http_status, envelope.message, envelope.response_headers())


@functools.cache
def _standalone() -> ServerGate:
    """Return the gate for applications without the middleware: their limits are in the memory of this process."""
    return ServerGate.of(Resilience())


def _standalone_context(connection: HTTPConnection) -> RequestContext:
    gate = _standalone()
    peer = connection.client
    return gate.receive({}, None if peer is None else peer.host)
