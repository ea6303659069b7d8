"""A limit for some routes, besides the one for the whole service: what every framework's `rate_limit` stands on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience.inbound._key import KeyRule
from resilience.options import Whole, checked
from resilience.ratelimit import TokenBucket

if TYPE_CHECKING:
    from resilience.inbound._context import RequestContext
    from resilience.inbound._gate import Inbound
    from resilience.inbound._quota import Quota

__all__ = ("RouteLimit",)

_COST = Whole(1)
_ANY_RATE = "1/second"
_MOST_QUOTAS = 256

Due: TypeAlias = "tuple[Quota, str, int]"


class RouteLimit:
    """What a route asks of its callers. One object may stand on any number of routes, in several applications.

    `rate`, `key` and `cost` are values or functions: what a function is given, and when, is the adapter's affair, which
    hands the results to `due`. Raises `ConfigurationError` for a bad argument, so that a bad rate fails where it is
    written and not at the first request.
    """

    def __init__(
        self,
        rate: str | Callable[..., Any],
        burst: int | None = None,
        key: str | Callable[..., Any] | None = None,
        cost: int | Callable[..., Any] = 1,
        name: str | None = None,
    ) -> None:
        self.rate = rate
        self.cost = cost if callable(cost) else checked(cost, "cost", _COST)
        self.key = key if callable(key) else None
        """The function that says whose quota is charged; None where `key` is a rule, or the server's applies."""
        self._rule = None if key is None or callable(key) else KeyRule(key)
        self.header = None if self._rule is None else self._rule.header
        """The lower-case name of the header the key is read from; the adapter puts it into `context.headers`."""
        self._burst, self._name = burst, name
        self._quotas: dict[tuple[int, str], tuple[Inbound, Quota]] = {}
        sample = _ANY_RATE if callable(rate) else rate
        TokenBucket(sample, burst, name=self._bucket_name(sample))

    def due(
        self, inbound: Inbound, context: RequestContext, place: str, *, rate: str, key: str | None, cost: int
    ) -> Due:
        """Return what `Inbound.charge` takes: the quota, whose it is, and how much of it.

        `place` names the route as its template does, never the path, which is the client's to vary. Routes count apart
        unless a `name` makes several share a limit.
        """
        if key is None:
            key = inbound.key_of(context) if self._rule is None else self._rule.of(context)
        if cost is not self.cost:
            cost = checked(cost, "cost", _COST)
        return self._quota(inbound, rate), f"{self._name or place} {key}", cost

    def _quota(self, inbound: Inbound, rate: str) -> Quota:
        """Return the quota in the buckets of the application that asks."""
        known = self._quotas.get((id(inbound), rate))
        if known is None or known[0] is not inbound:
            if len(self._quotas) >= _MOST_QUOTAS:
                self._quotas.clear()
            quota = inbound.quota_for(rate, rate, self._burst, name=self._bucket_name(rate))
            known = self._quotas[id(inbound), rate] = inbound, quota
        return known[1]

    def _bucket_name(self, rate: object) -> str:
        words = ["route", self._name or "", str(rate), "" if self._burst is None else str(self._burst)]
        return re.sub(r"[^A-Za-z0-9._/-]+", "-", "/".join(filter(None, words)))[:100]
