"""A limit for some routes, besides the limit of the whole service: the base of the adapters' `rate_limit`."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience.options import Text, Whole, checked
from resilience.ratelimit import TokenBucket
from resilience.server._quota import ServerQuota
from resilience.server._rate_key import KeyRule, key_text

if TYPE_CHECKING:
    from resilience.server._context import RequestContext
    from resilience.server._gate import ServerGate

__all__ = ("RouteLimit",)

_COST, _COMPUTED_COST = Whole(1), Whole(0)
_NAME = Text()
_MAX_NAME = 100
_ANY_RATE = "1/second"
_BY_REQUEST = "by-request"
_MAX_QUOTAS = 256

ChargeArguments: TypeAlias = "tuple[ServerQuota, str, int]"


class RouteLimit:
    """The limit of a route. One object may be used for any number of routes, in several applications.

    Routes count apart, unless a `name` makes them share their buckets. Of the routes with one name, those whose rate is
    a function share buckets among themselves, and so do the others.

    Args:
        rate: Text such as "5/minute", or a function that returns such text. None or "" from a function is no limit.
        burst: Requests that may come at once; None for the amount of the rate.
        key: `ip`, `user`, `header:<name>`, or a function that returns a key. None for the rule of the server; also for
            a request for which the function returns None or "".
        cost: Tokens that a request takes, at least 1 and at most the burst; or a function that returns them. A request
            that costs 0 is not limited.
        name: The name of the buckets that several routes share.

    The adapter calls the functions, with arguments of its own, and gives the results to `charge_for`.

    Raises:
        ConfigurationError: An argument is wrong. A bad rate fails at its own line, not at the first request.
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
        allowed = Whole(1, bucket.burst) if is_size_known else _COST  # a higher cost would always be refused
        self.cost = cost if callable(cost) else checked(cost, "cost", allowed)
        self.key = key if callable(key) else None
        """The function that returns the key; None if `key` is a rule, or if the rule of the server applies."""
        self._rule = None if key is None or callable(key) else KeyRule(key)
        self.header = None if self._rule is None else self._rule.header
        """The lower-case name of the header that holds the key; the adapter puts it into `context.headers`."""
        self._burst = burst
        self._name = None if name is None else checked(name, "name", _NAME)
        self._quotas: dict[tuple[int, str], tuple[ServerGate, ServerQuota]] = {}
        self._rate = bucket.rate_text  # one spelling for all texts that mean the same rate
        self._bucket = _bucket_name(name, _BY_REQUEST if callable(rate) else self._rate, burst)

    def charge_for(
        self, gate: ServerGate, context: RequestContext, route: str, *, rate: str | None, key: object, cost: int
    ) -> ChargeArguments | None:
        """Return the arguments of `ServerGate.charge` for one request: quota, key and cost.

        None for a CORS preflight, without a rate, for a cost of 0, with the option `limits` switched off, and if the
        limit is by address and the address cannot be known.

        Args:
            gate: The gate whose limiter keeps the buckets.
            context: The request.
            route: The template of the route. Never the path: clients can vary it, and would get new buckets.
            rate: The rate, as text; None or "" for no limit.
            key: What the key function returned; None or "" for the key of the rule.
            cost: The tokens to take.
        """
        if context.is_preflight or not rate or not gate.options.limits:
            return None
        if cost is not self.cost:
            cost = checked(cost, "cost", _COMPUTED_COST)
            if not cost:
                return None
        key = key_text(key)
        if key is None:
            key = gate.key_of(context) if self._rule is None else gate.warn_without(context, self._rule.of(context))
            if key is None:
                return None
        quota, bucket_key = self._quota(gate, rate), f"{self._name or route} {key}"
        if callable(self.rate):  # computed rates share the name of one bucket, so the number of names stays bounded
            bucket_key = f"{quota.bucket.rate_text} {bucket_key}"
        if self._name is None and (before := _limits_before(context, quota)):
            bucket_key = f"{bucket_key} {before + 1}"  # limits that are written alike count apart
        return quota, bucket_key, cost

    def _quota(self, gate: ServerGate, rate: str) -> ServerQuota:
        """Return the quota in the buckets of the application that asks."""
        known = self._quotas.get((id(gate), rate))
        if known is None or known[0] is not gate:
            if len(self._quotas) >= _MAX_QUOTAS:
                self._quotas.clear()  # the tokens are in the buckets, which stay
            known = self._quotas[id(gate), rate] = gate, self._new_quota(gate, rate)
        return known[1]

    def _new_quota(self, gate: ServerGate, rate: str) -> ServerQuota:
        quota = gate.quota_for(rate, self._rate, self._burst, name=self._bucket)
        if not callable(self.rate):
            return quota
        return ServerQuota(rate, quota.bucket.with_rate(rate, self._burst), waits=quota.waits)


def _limits_before(context: RequestContext, quota: ServerQuota) -> int:
    """Return how many limits of the same rate have charged this request. Not by key: a client may choose its keys."""
    return sum(known.bucket.name == quota.bucket.name for known, _, _ in context.charges)


def _bucket_name(name: str | None, rate: str, burst: int | None) -> str:
    """Return a valid name for a limiter; a name that is too long is cut, and a digest of the whole is added."""
    text = "/".join(filter(None, ("route", name, rate, None if burst is None else str(burst))))
    plain = re.sub(r"[^A-Za-z0-9._/-]+", "-", text)
    if len(plain) <= _MAX_NAME:
        return plain
    return f"{plain[: _MAX_NAME - 17]}-{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
