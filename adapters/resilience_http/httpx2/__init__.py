"""Guards the clients of httpx2: `ResilienceTransport` for its `Client`, `AsyncResilienceTransport` for `AsyncClient`.

They need `pip install "resilience-plugins[httpx2]"`. The library is imported when you use the first of the names.
"""

from __future__ import annotations

from resilience.plugins import lazy_names

TYPE_CHECKING = False  # as at the root of `resilience`
if TYPE_CHECKING:
    from resilience_http.httpx2._aio import AsyncResilienceTransport
    from resilience_http.httpx2._sync import ResilienceTransport

__all__ = ("AsyncResilienceTransport", "ResilienceTransport")

__getattr__, __dir__ = lazy_names(
    __name__,
    {"_aio": ("AsyncResilienceTransport",), "_sync": ("ResilienceTransport",)},
    {"_aio": "httpx2", "_sync": "httpx2"},
)
