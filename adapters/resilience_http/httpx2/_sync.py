"""The transport for `httpx2.Client`."""

from __future__ import annotations

import httpx2

from resilience_http._transports._bodies import SyncBodies
from resilience_http._transports._internals import hand_over_options
from resilience_http._transports._library import HTTPXLibrary
from resilience_http._transports._misuse import refuse_transport
from resilience_http._transports._sync import ClientRoutes, GuardedTransport

__all__ = ("LIBRARY", "ResilienceTransport")

LIBRARY: HTTPXLibrary[httpx2.Request, httpx2.Response] = HTTPXLibrary(httpx2)


class HTTPX2Transport(GuardedTransport[httpx2.Request, httpx2.Response, httpx2.BaseTransport], httpx2.BaseTransport):
    """Guards every request of a `httpx2.Client`: `httpx2.Client(transport=ResilienceTransport())`.

    For policies, a response with status 429, or 500 and above, is a failure. The client still gets the last response. A
    request is repeated only if that does no harm (an idempotent method, or an `Idempotency-Key` header) and its body is
    bytes. A bulkhead holds its permit until the response is closed.

    If a policy refuses a request, the error is a `RejectedError` and a `httpx2.ConnectError` (a `BulkheadFullError` and
    a `httpx2.PoolTimeout` if a bulkhead is full). If the time has passed, the error is a `DeadlineExceededError` and a
    `httpx2.TimeoutException`. An `AppError` raised for an answer is a `httpx2.HTTPStatusError`, too.

    Example:
        >>> import httpx2
        >>> from resilience_http.httpx2 import ResilienceTransport
        >>> client = httpx2.Client(transport=ResilienceTransport())
    """

    library = LIBRARY
    bodies = SyncBodies(LIBRARY)
    routes = LIBRARY.derived(ClientRoutes, LIBRARY.transport)


ResilienceTransport = HTTPX2Transport

hand_over_options(LIBRARY.client, HTTPX2Transport, LIBRARY.client_defaults)
refuse_transport(LIBRARY.async_client, HTTPX2Transport, is_awaiting=True)
