"""A rate limit for one route, as a dependency."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.requests import HTTPConnection
from starlette.types import Scope

from resilience import Resilience
from resilience.inbound import Inbound, RequestContext, RouteLimit
from resilience_fastapi._answers import context_of
from resilience_fastapi._scope import template_of, user_of

__all__ = ("rate_limit",)

Key: TypeAlias = str | Callable[[HTTPConnection], str | Awaitable[str]]


# Annotations in here are objects, not text: FastAPI cannot resolve the text of a callable object's signature.
class RouteDependency:
    """The dependency. One object may stand on any number of routes."""

    def __init__(self, limit: RouteLimit) -> None:
        self._limit = limit

    async def __call__(self, connection: HTTPConnection) -> None:
        """Charge the caller, or raise `RateLimitedError`."""
        context = context_of(connection.scope)
        if context is None:
            context = _unaccompanied(connection)
        inbound = context.inbound or _standalone()
        if context.user is None:
            context.user = user_of(connection.scope)
        limit = self._limit
        if limit.header is not None and limit.header in connection.headers:
            context.headers = {**context.headers, limit.header: connection.headers[limit.header]}
        rate: str = await _value(limit.rate, connection)
        cost: int = await _value(limit.cost, connection)
        key = None if limit.key is None else str(await _value(limit.key, connection))
        due = limit.due(inbound, context, _place(connection.scope), rate=rate, key=key, cost=cost)
        await inbound.acharge(context, *due)


def _place(scope: Scope) -> str:
    return f"{scope.get('method', 'WEBSOCKET')} {template_of(scope)}"


async def _value(given: Any, connection: HTTPConnection) -> Any:
    """Return what was given, or what the function given says about this connection."""
    found = given(connection) if callable(given) else given
    return await found if inspect.isawaitable(found) else found


def rate_limit(
    rate: str, *, burst: int | None = None, key: Key | None = None, cost: int = 1, name: str | None = None
) -> RouteDependency:
    """Return a dependency that limits the route it stands on: `dependencies=[Depends(rate_limit("5/minute"))]`.

    The endpoint needs no `request` parameter. Each route, under each prefix it is included with, has buckets of its
    own, unless a `name` makes several share them. `key` is `"ip"`, `"user"`, `"header:<name>"` or a function of the
    connection; by default what the server's `rate_limit_key` says. A request over the limit is answered with 429 and
    `Retry-After`, a websocket handshake is denied. Raises `ConfigurationError` for a bad argument.
    """
    return RouteDependency(RouteLimit(rate, burst, key, cost, name))


@functools.cache
def _standalone() -> Inbound:
    """Return the gate of an application without the middleware: limits work, in the memory of this process."""
    return Inbound.of(Resilience())


def _unaccompanied(connection: HTTPConnection) -> RequestContext:
    inbound = _standalone()
    peer = connection.client
    return inbound.receive({}, None if peer is None else peer.host)
