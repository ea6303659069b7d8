"""Guards outgoing HTTP: transports for httpx, and an adapter for requests. You use the client itself as before.

Each needs its library: `pip install "resilience-plugins[httpx]"` or `"resilience-plugins[requests]"`. A library is
imported when you use the first name that needs it.
"""

from __future__ import annotations

from resilience.plugins import lazy_names

TYPE_CHECKING = False  # as at the root of `resilience`
if TYPE_CHECKING:
    from resilience_http._envelope import raise_for_envelope
    from resilience_http._httpx import ResilienceTransport
    from resilience_http._httpx_async import AsyncResilienceTransport
    from resilience_http._pipeline import host_of, per_host
    from resilience_http._requests import ResilienceAdapter

__all__ = (
    "AsyncResilienceTransport",
    "ResilienceAdapter",
    "ResilienceTransport",
    "host_of",
    "per_host",
    "raise_for_envelope",
)

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_envelope": ("raise_for_envelope",),
        "_httpx": ("ResilienceTransport",),
        "_httpx_async": ("AsyncResilienceTransport",),
        "_pipeline": ("host_of", "per_host"),
        "_requests": ("ResilienceAdapter",),
    },
    {"_httpx": "httpx", "_httpx_async": "httpx", "_requests": "requests"},
)
