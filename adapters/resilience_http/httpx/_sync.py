"""The transport for `httpx.Client`."""

from __future__ import annotations

import httpx

from resilience_http._transports._bodies import SyncBodies
from resilience_http._transports._internals import hand_over_options
from resilience_http._transports._library import HTTPXLibrary
from resilience_http._transports._misuse import refuse_transport
from resilience_http._transports._sync import ClientRoutes, GuardedTransport

__all__ = ("LIBRARY", "ResilienceTransport")

LIBRARY: HTTPXLibrary[httpx.Request, httpx.Response] = HTTPXLibrary(httpx)


class ResilienceTransport(GuardedTransport[httpx.Request, httpx.Response, httpx.BaseTransport], httpx.BaseTransport):
    """Guards every request of a `httpx.Client`: `httpx.Client(transport=ResilienceTransport())`.

    For policies, a response with status 429, or 500 and above, is a failure. The client still gets the last response. A
    request is repeated only if that does no harm (an idempotent method, or an `Idempotency-Key` header) and its body is
    bytes. A bulkhead holds its permit until the response is closed.

    If a policy refuses a request, the error is a `RejectedError` and a `httpx.ConnectError` (a `BulkheadFullError` and
    a `httpx.PoolTimeout` if a bulkhead is full). If the time has passed, the error is a `DeadlineExceededError` and a
    `httpx.TimeoutException`. An `AppError` raised for an answer is a `httpx.HTTPStatusError`, too.

    Example:
        >>> import httpx
        >>> from resilience_http import ResilienceTransport
        >>> client = httpx.Client(transport=ResilienceTransport())
    """

    library = LIBRARY
    bodies = SyncBodies(LIBRARY)
    routes = LIBRARY.derived(ClientRoutes, LIBRARY.transport)


hand_over_options(LIBRARY.client, ResilienceTransport, LIBRARY.client_defaults)
refuse_transport(LIBRARY.async_client, ResilienceTransport, is_awaiting=True)
