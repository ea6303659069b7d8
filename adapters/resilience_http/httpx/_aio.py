"""The transport for `httpx.AsyncClient`."""

from __future__ import annotations

import httpx

from resilience_http._transports._aio import AsyncClientRoutes, AsyncGuardedTransport
from resilience_http._transports._bodies_aio import AsyncBodies
from resilience_http._transports._internals import hand_over_options
from resilience_http._transports._misuse import refuse_transport
from resilience_http.httpx._sync import LIBRARY

__all__ = ("AsyncResilienceTransport",)


class AsyncResilienceTransport(
    AsyncGuardedTransport[httpx.Request, httpx.Response, httpx.AsyncBaseTransport], httpx.AsyncBaseTransport
):
    """Guards every request of a `httpx.AsyncClient`, as `ResilienceTransport` does for a `httpx.Client`.

    It needs asyncio: under another async library (trio), a request raises `ConfigurationError` and is not sent.

    Example:
        >>> import httpx
        >>> from resilience_http import AsyncResilienceTransport
        >>> client = httpx.AsyncClient(transport=AsyncResilienceTransport())
    """

    library = LIBRARY
    bodies = AsyncBodies(LIBRARY)
    routes = LIBRARY.derived(AsyncClientRoutes, LIBRARY.async_transport)


hand_over_options(LIBRARY.async_client, AsyncResilienceTransport, LIBRARY.client_defaults)
refuse_transport(LIBRARY.client, AsyncResilienceTransport, is_awaiting=False)
