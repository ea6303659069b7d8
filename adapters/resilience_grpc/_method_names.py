"""Full names of methods, such as `/shop.Orders/Get`: their service, and the patterns that match them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("is_infrastructure", "is_listed", "service_of")

_INFRASTRUCTURE = ("/grpc.health.v1.Health/", "/grpc.reflection.")


def service_of(method: str) -> str:
    """Return the service of a method: `shop.Orders` of `/shop.Orders/Get`."""
    return method.strip("/").rpartition("/")[0]


def is_listed(method: str, patterns: Iterable[str]) -> bool:
    """Return whether one of `patterns` matches a method.

    Args:
        method: A full name, such as `/shop.Orders/Get`.
        patterns: Methods (`shop.Orders/Get`), all methods of a service (`shop.Orders/*`), or `*` for all methods.
    """
    forms = {"*", f"{service_of(method)}/*", method.lstrip("/")}
    return any(pattern.lstrip("/") in forms for pattern in patterns)


def is_infrastructure(method: str) -> bool:
    """Return whether a method is one of health or reflection, which are never guarded, refused, timed or counted."""
    return method.startswith(_INFRASTRUCTURE)
