"""A limit for some routes, besides the one for the whole service: what every framework's `rate_limit` stands on."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience.options import Text, Whole, checked
from resilience.ratelimit import TokenBucket
from resilience.server._key import KeyRule
from resilience.server._quota import Quota

if TYPE_CHECKING:
    from resilience.server._context import RequestContext
    from resilience.server._gate import ServerGate

__all__ = ("RouteLimit",)

_COST = Whole(1)
_NAME = Text()
_LONGEST = 100
_ANY_RATE = "1/second"
_BY_REQUEST = "by-request"
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
        bucket = TokenBucket(_ANY_RATE if callable(rate) else rate, burst)
        is_size_known = burst is not None or not callable(rate)
        most = Whole(1, bucket.burst) if is_size_known else _COST  # what costs more would be refused each time
        self.cost = cost if callable(cost) else checked(cost, "cost", most)
        self.key = key if callable(key) else None
        """The function that says whose quota is charged; None where `key` is a rule, or the server's applies."""
        self._rule = None if key is None or callable(key) else KeyRule(key)
        self.header = None if self._rule is None else self._rule.header
        """The lower-case name of the header the key is read from; the adapter puts it into `context.headers`."""
        self._burst = burst
        self._name = None if name is None else checked(name, "name", _NAME)
        self._quotas: dict[tuple[int, str], tuple[ServerGate, Quota]] = {}
        self._rate = str(bucket.rate)  # however it was written
        self._bucket = _bucket_name(name, _BY_REQUEST if callable(rate) else self._rate, burst)

    def due(
        self, gate: ServerGate, context: RequestContext, place: str, *, rate: str, key: str | None, cost: int
    ) -> Due | None:
        """Return what `ServerGate.charge` takes: the quota, whose it is, and how much of it.

        None for a CORS preflight, and if the limit is by address and the address cannot be known.

        `place` names the route as its template does, never the path, which is the client's to vary. Routes count apart
        unless a `name` makes several share a limit: those whose rate is computed, and those whose is not, each among
        themselves.
        """
        if context.is_preflight:
            return None
        if key is None:
            key = gate.key_of(context) if self._rule is None else gate.known(context, self._rule.of(context))
            if key is None:
                return None
        if cost is not self.cost:
            cost = checked(cost, "cost", _COST)
        quota, whose = self._quota(gate, rate), f"{self._name or place} {key}"
        # Where rates are computed, all their buckets are kept under one name: there is no end to names otherwise.
        return quota, f"{quota.bucket.rate} {whose}" if callable(self.rate) else whose, cost

    def _quota(self, gate: ServerGate, rate: str) -> Quota:
        """Return the quota in the buckets of the application that asks."""
        known = self._quotas.get((id(gate), rate))
        if known is None or known[0] is not gate:
            if len(self._quotas) >= _MOST_QUOTAS:
                self._quotas.clear()  # what was spent is in the buckets, which stay
            known = self._quotas[id(gate), rate] = gate, self._new_quota(gate, rate)
        return known[1]

    def _new_quota(self, gate: ServerGate, rate: str) -> Quota:
        quota = gate.quota_for(rate, self._rate, self._burst, name=self._bucket)
        if not callable(self.rate):
            return quota
        return Quota(rate, quota.bucket.with_rate(rate, self._burst), waits=quota.waits)


def _bucket_name(name: str | None, rate: str, burst: int | None) -> str:
    """Return what a limiter may be called; of a name too long for that, what shows and a digest of it all."""
    text = "/".join(filter(None, ("route", name, rate, None if burst is None else str(burst))))
    plain = re.sub(r"[^A-Za-z0-9._/-]+", "-", text)
    if len(plain) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 17]}-{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
