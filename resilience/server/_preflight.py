"""CORS preflights: a browser asks whether it may send a request, before it does.

Fetch standard, "CORS-preflight request": https://fetch.spec.whatwg.org/#cors-preflight-request
"""

from __future__ import annotations

from typing import Protocol

__all__ = ("is_preflight",)


class Headers(Protocol):
    """The headers of a request, which find names in any case."""

    def __contains__(self, name: str, /) -> bool: ...


_NAMED = ("origin", "access-control-request-method")


def is_preflight(method: str, headers: Headers) -> bool:
    """Return whether a request is a preflight.

    A preflight carries no credentials and no header of the page's, so it cannot be charged to anyone. If it is refused,
    the browser does not send the request itself, and the page sees a network error in place of a 429.
    """
    return method == "OPTIONS" and all(name in headers for name in _NAMED)
