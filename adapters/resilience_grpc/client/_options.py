"""What the interceptors of a channel can be told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from grpc import StatusCode

from resilience.client import ClientOptions
from resilience.options import Choice, Listing, Options, Refused, option, rule_of

__all__ = ("CallOptions",)

_STATUSES = tuple(code.name for code in StatusCode if code is not StatusCode.OK)


class _Statuses(Listing):
    """Names of gRPC statuses, or the statuses themselves."""

    def __init__(self) -> None:
        super().__init__(Choice(*_STATUSES))
        self.expected = "a list of gRPC statuses other than OK, such as UNAVAILABLE"

    def check(self, value: Any, /) -> tuple[Any, ...]:
        """Return names."""
        if not isinstance(value, Iterable):
            raise Refused
        return super().check(value if isinstance(value, str) else [getattr(each, "name", each) for each in value])


class _Methods(Listing):
    """Methods, as the variable has them, but told as code has them."""

    def __init__(self) -> None:
        super().__init__(cast("Listing", rule_of(ClientOptions.fields()["idempotent_methods"])).each)
        self.expected = f"a list of methods, each {self.each.expected}"


@dataclass(frozen=True, kw_only=True)
class CallOptions(Options):
    """Which calls may be repeated, and after which statuses."""

    idempotent: tuple[str, ...] = option(
        (),
        _Methods(),
        "methods that may be called twice: only they are retried and hedged",
    )
    retryable: tuple[str, ...] = option(
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"),
        _Statuses(),
        "statuses after which such a call is worth another attempt",
    )
