"""Guards the clients of httpx: `ResilienceTransport` for its `Client`, `AsyncResilienceTransport` for `AsyncClient`.

They need `pip install "resilience-plugins[httpx]"`. The library is imported when you use the first of the names.
"""

from __future__ import annotations

from resilience.plugins import lazy_names

TYPE_CHECKING = False  # as at the root of `resilience`
if TYPE_CHECKING:
    from resilience_http.httpx._aio import AsyncResilienceTransport
    from resilience_http.httpx._sync import ResilienceTransport

__all__ = ("AsyncResilienceTransport", "ResilienceTransport")

__getattr__, __dir__ = lazy_names(
    __name__,
    {"_aio": ("AsyncResilienceTransport",), "_sync": ("ResilienceTransport",)},
    {"_aio": "httpx", "_sync": "httpx"},
)
