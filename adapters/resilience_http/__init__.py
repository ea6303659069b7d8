"""Guards outgoing HTTP: transports for httpx2 and httpx, and an adapter for requests. You use the client as before.

The transports for httpx2 are in `resilience_http.httpx2`. Those for httpx are here, and in `resilience_http.httpx`.
Each library is an extra: `pip install "resilience-plugins[httpx2]"`, `[httpx]` or `[requests]`. It is imported when you
use the first name that needs it.
"""

from __future__ import annotations

from resilience.plugins import lazy_names

TYPE_CHECKING = False  # as at the root of `resilience`
if TYPE_CHECKING:
    from resilience_http._envelope import raise_for_envelope
    from resilience_http._pipeline import host_of, per_host
    from resilience_http._requests import ResilienceAdapter
    from resilience_http._sessions import requests_sessions
    from resilience_http.httpx import AsyncResilienceTransport, ResilienceTransport

__all__ = (
    "AsyncResilienceTransport",
    "ResilienceAdapter",
    "ResilienceTransport",
    "host_of",
    "per_host",
    "raise_for_envelope",
    "requests_sessions",
)

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_envelope": ("raise_for_envelope",),
        "_pipeline": ("host_of", "per_host"),
        "_requests": ("ResilienceAdapter",),
        "_sessions": ("requests_sessions",),
        "httpx._aio": ("AsyncResilienceTransport",),
        "httpx._sync": ("ResilienceTransport",),
    },
    {"_requests": "requests", "_sessions": "requests", "httpx._aio": "httpx", "httpx._sync": "httpx"},
)
