"""The transport for `httpx2.AsyncClient`."""

from __future__ import annotations

import httpx2

from resilience_http._transports._aio import AsyncClientRoutes, AsyncGuardedTransport
from resilience_http._transports._bodies_aio import AsyncBodies
from resilience_http._transports._internals import hand_over_options
from resilience_http._transports._misuse import refuse_transport
from resilience_http.httpx2._sync import LIBRARY

__all__ = ("AsyncResilienceTransport",)


class AsyncHTTPX2Transport(
    AsyncGuardedTransport[httpx2.Request, httpx2.Response, httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport
):
    """Guards every request of a `httpx2.AsyncClient`, as `ResilienceTransport` does for a `httpx2.Client`.

    It needs asyncio: under another async library (trio), a request raises `ConfigurationError` and is not sent.

    Example:
        >>> import httpx2
        >>> from resilience_http.httpx2 import AsyncResilienceTransport
        >>> client = httpx2.AsyncClient(transport=AsyncResilienceTransport())
    """

    library = LIBRARY
    bodies = AsyncBodies(LIBRARY)
    routes = LIBRARY.derived(AsyncClientRoutes, LIBRARY.async_transport)


AsyncResilienceTransport = AsyncHTTPX2Transport

hand_over_options(LIBRARY.async_client, AsyncHTTPX2Transport, LIBRARY.client_defaults)
refuse_transport(LIBRARY.client, AsyncHTTPX2Transport, is_awaiting=False)
