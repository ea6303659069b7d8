"""The options of client interceptors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from grpc import StatusCode

from resilience.client import ClientOptions
from resilience.options import Choice, Listing, Options, Refused, Text, option, rule_of

__all__ = ("CallOptions",)

_STATUSES = tuple(code.name for code in StatusCode if code is not StatusCode.OK)


class _StatusListing(Listing):
    """Names of gRPC statuses, or the statuses themselves."""

    def __init__(self) -> None:
        super().__init__(Choice(*_STATUSES))
        self.expected = "a list of gRPC statuses other than OK, such as UNAVAILABLE"

    def check(self, value: object, /) -> tuple[Any, ...]:
        """Return the names."""
        if not isinstance(value, Iterable):
            raise Refused
        return super().check(value if isinstance(value, str) else [getattr(each, "name", each) for each in value])


class _MethodListing(Listing):
    """Methods, by the rule of the `idempotent_methods` setting."""

    def __init__(self) -> None:
        super().__init__(cast("Listing", rule_of(ClientOptions.fields()["idempotent_methods"])).each)
        self.expected = f"a list of methods, each {self.each.expected}"


@dataclass(frozen=True, kw_only=True)
class CallOptions(Options):
    """Which calls may be repeated, and after which statuses."""

    idempotent: tuple[str, ...] = option(
        (),
        _MethodListing(),
        "methods that may be called twice: only they are retried and hedged",
    )
    retryable: tuple[str, ...] = option(
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"),
        _StatusListing(),
        "statuses after which such a call is worth another attempt",
    )
    target: str = option(
        "any target",
        Text("the target of the channel", longest=1000),
        "the server of the channel: circuits, limits and bulkheads are one for each target",
    )
