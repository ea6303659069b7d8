"""A rate limit for one route, as a dependency."""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import HTTPConnection

from resilience import Resilience
from resilience.errors import ConfigurationError, Problem
from resilience.inbound import Inbound, KeyRule, Quota, RequestContext
from resilience.options import Refused, Whole
from resilience.ratelimit import TokenBucket
from resilience_fastapi._answers import context_of
from resilience_fastapi._scope import template_of, user_of

__all__ = ("rate_limit",)

_COST = Whole(1)

Key: TypeAlias = str | Callable[[HTTPConnection], str | Awaitable[str]]


# Annotations in here are objects, not text: FastAPI cannot resolve the text of a callable object's signature.
class RouteLimit:
    """The dependency. One object may stand on any number of routes."""

    def __init__(self, rate: str, burst: int | None, key: Key | None, cost: int, name: str | None) -> None:
        try:
            self._cost = _COST.check(cost)
        except Refused:
            raise ConfigurationError([Problem("cost", cost, _COST.expected)]) from None
        self._bucket_name = _bucket_name(rate, burst, name)
        # Built for its checks: a bad rate fails where it is written, not at the first request.
        TokenBucket(rate, burst, name=self._bucket_name)
        self._rate, self._burst, self._name = rate, burst, name
        self._rule = KeyRule(key) if isinstance(key, str) else None
        self._key = key if callable(key) else None
        self._quotas: dict[int, tuple[Inbound, Quota]] = {}

    async def __call__(self, connection: HTTPConnection) -> None:
        """Charge the caller, or raise `RateLimitedError`."""
        context = context_of(connection.scope)
        if context is None:
            context = _unaccompanied(connection)
        inbound = context.inbound or _standalone()
        if context.user is None:
            context.user = user_of(connection.scope)
        key = f"{self._place(connection)} {await self._key_of(connection, context, inbound)}"
        await inbound.acharge(context, self._quota(inbound), key, self._cost)

    def _place(self, connection: HTTPConnection) -> str:
        scope = connection.scope
        return self._name or f"{scope.get('method', 'WEBSOCKET')} {template_of(scope)}"

    async def _key_of(self, connection: HTTPConnection, context: RequestContext, inbound: Inbound) -> str:
        if self._key is not None:
            found = self._key(connection)
            return str(await found if inspect.isawaitable(found) else found)
        if self._rule is None:
            return inbound.key_of(context)
        if self._rule.header is not None and self._rule.header in connection.headers:
            context.headers = {**context.headers, self._rule.header: connection.headers[self._rule.header]}
        return self._rule(context)

    def _quota(self, inbound: Inbound) -> Quota:
        """Return the quota in the buckets of the application that asks: one dependency may serve several."""
        known = self._quotas.get(id(inbound))
        if known is None or known[0] is not inbound:
            quota = inbound.quota_for(self._rate, self._rate, self._burst, name=self._bucket_name)
            known = self._quotas[id(inbound)] = inbound, quota
        return known[1]


def rate_limit(
    rate: str, *, burst: int | None = None, key: Key | None = None, cost: int = 1, name: str | None = None
) -> RouteLimit:
    """Return a dependency that limits the route it stands on: `dependencies=[Depends(rate_limit("5/minute"))]`.

    The endpoint needs no `request` parameter. Each route, under each prefix it is included with, has buckets of its
    own, unless a `name` makes several share them. `key` is `"ip"`, `"user"`, `"header:<name>"` or a function of the
    connection; by default what the server's `rate_limit_key` says. A request over the limit is answered with 429 and
    `Retry-After`, a websocket handshake is denied. Raises `ConfigurationError` for a bad argument.
    """
    return RouteLimit(rate, burst, key, cost, name)


def _bucket_name(rate: str, burst: int | None, name: str | None) -> str:
    words = ["route", name or "", rate, "" if burst is None else str(burst)]
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", "/".join(filter(None, words)))[:100]


@functools.cache
def _standalone() -> Inbound:
    """Return the gate of an application without the middleware: limits work, in the memory of this process."""
    return Inbound.of(Resilience())


def _unaccompanied(connection: HTTPConnection) -> RequestContext:
    inbound = _standalone()
    peer = connection.client
    return inbound.receive({}, None if peer is None else peer.host)
