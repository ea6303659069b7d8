"""Full names of methods, `/shop.Orders/Get`: what they belong to, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("is_listed", "is_untouched", "service_of")

_UNTOUCHED = ("/grpc.health.v1.Health/", "/grpc.reflection.")


def service_of(method: str) -> str:
    """Return `shop.Orders` of `/shop.Orders/Get`."""
    return method.strip("/").rpartition("/")[0]


def is_listed(method: str, patterns: Iterable[str]) -> bool:
    """Whether one of `patterns` means `method`."""
    forms = {"*", f"{service_of(method)}/*", method.lstrip("/")}
    return any(pattern.lstrip("/") in forms for pattern in patterns)


def is_untouched(method: str) -> bool:
    """Whether a method is infrastructure's: health and reflection are never guarded, refused, timed or counted."""
    return method.startswith(_UNTOUCHED)
