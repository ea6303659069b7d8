"""Encodes payments for the script `token_bucket.lua` and refunds for `refund.lua`, and decodes the replies.

The numbers of Lua on Redis are doubles. They are exact up to 2^53, so a quota is expressed in whole units: `token`
units pay for one token, and `refill` units come back in a microsecond.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from resilience.errors import ConfigurationError, Problem
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._store import checked_cost, checked_key, stored_key
from resilience.redis._errors import MALFORMED, unreadable

if TYPE_CHECKING:
    from resilience.redis._exchange import Reply

__all__ = ("BucketCall", "BucketCodec", "ScriptUnits", "outcomes", "units_of")

_MAX_EXACT = 2**52
"""Half of the largest exact whole number of a double: the sum of two such numbers is still exact."""
_MAX_ERROR = Fraction(1, 1_000_000_000)
_CACHED_KEYS = 1024

BucketCall: TypeAlias = tuple[tuple[bytes], tuple[int, ...]]
"""The Redis key of one bucket, and the arguments of a script."""


class ScriptUnits(NamedTuple):
    """A quota in whole numbers.

    Attributes:
        token: Units that one token costs.
        refill: Units that come back in a microsecond.
        capacity: Units in a full bucket.
    """

    token: int
    refill: int
    capacity: int

    def limit(self, allowance: float) -> int:
        """Return how many units may be missing if a call may wait for `allowance` seconds."""
        return min(_MAX_EXACT, self.capacity + int(allowance * 1e6) * self.refill)

    def seconds(self, units: int) -> float:
        """Return the time in which that many units come back."""
        return units / self.refill / 1e6


def units_of(quota: Quota) -> ScriptUnits:
    """Return the quota in units: exact, or off by less than a billionth if exact numbers would be too large.

    Raises:
        ConfigurationError: Not even the approximation fits: a bucket that takes a lifetime to fill.
    """
    exact = Fraction(quota.rate.period_seconds * 1_000_000, quota.rate.amount)
    interval = exact
    if quota.burst * exact.numerator > _MAX_EXACT:
        finest = int(_MAX_EXACT / (quota.burst * exact))
        interval = exact.limit_denominator(finest) if finest else Fraction(0)
    if not interval or abs(interval - exact) / exact > _MAX_ERROR or quota.burst * interval.numerator > _MAX_EXACT:
        raise ConfigurationError([Problem("burst", quota.burst, f"a bucket that {quota.rate} fills within 140 years")])
    return ScriptUnits(interval.numerator, interval.denominator, quota.burst * interval.numerator)


class BucketCodec:
    """The language of one quota: keys and arguments of the script, and decisions from its replies. No I/O.

    Args:
        quota: The name, the rate and the size of the buckets.
        prefix: The start of every key.
    """

    def __init__(self, quota: Quota, prefix: str) -> None:
        self._quota = quota
        self._prefix = prefix
        self._units = units_of(quota)
        self.redis_key = functools.lru_cache(_CACHED_KEYS)(self._redis_key)

    def encode(self, key: str, cost: int, allowance: float) -> BucketCall:
        """Return the Redis key and the arguments of the script.

        Raises:
            ConfigurationError: `key` or `cost` is not valid.
        """
        checked_cost(cost)
        token, refill, capacity = self._units
        limit = self._units.limit(allowance) if allowance else capacity
        checked_key(key)  # before the cache, which needs a key that has a hash
        return (self.redis_key(key),), (token, refill, limit, cost)

    def encode_refund(self, key: str, cost: int) -> BucketCall:
        """Return the Redis key and the arguments of the script `refund.lua`."""
        token, refill, capacity = self._units
        return (self.redis_key(key),), (refill, cost * token, capacity)

    def encode_level(self, key: str, seconds: float) -> BucketCall:
        """Return the Redis key and the arguments of the script `settle.lua`: the bucket is full in `seconds`."""
        _, refill, capacity = self._units
        return (self.redis_key(key),), (refill, min(capacity, int(seconds * 1e6) * refill))

    def _redis_key(self, key: str) -> bytes:
        """Return the Redis key. All of it is a hash tag, so that keys added later live on the same node."""
        parts = f"{{{self._prefix}:ratelimit:{self._quota.name}:{stored_key(key)}}}"
        return parts.encode("utf-8", "surrogatepass")

    def decode(self, reply: Reply, cost: int) -> Decision:
        """Return the decision for the one caller of a call for one bucket."""
        try:
            units = int(cast("int", reply))
        except MALFORMED as error:
            raise unreadable(error) from error
        return self.decode_one(units if units >= 0 else -1 - units, cost, allowed=units >= 0)

    def decode_one(self, missing: int, cost: int, *, allowed: bool) -> Decision:
        """Return a decision, after which `missing` units are missing from a full bucket."""
        try:
            full_at = self._units.seconds(missing)
        except MALFORMED as error:
            raise unreadable(error) from error
        return Decision.of(self._quota, cost, allowed=allowed, full_at=full_at, made_at=0.0)

    def decode_batch(self, admitted: int, missing: int, cost: int, callers: int) -> list[Decision]:
        """Return the decisions for callers that asked for the same payment at once.

        Args:
            admitted: How many of the callers were admitted, the first ones.
            missing: The units that are missing from a full bucket after the last of them.
            cost: Tokens that each caller asked for.
            callers: The number of callers.
        """
        price = cost * self._units.token
        later = range(min(admitted, callers) - 1, -1, -1)  # how many callers were admitted after each
        granted = [self.decode_one(missing - others * price, cost, allowed=True) for others in later]
        # An object for each caller: a bucket in shadow turns its own refusal into an admission.
        return granted + [self.decode_one(missing, cost, allowed=False) for _ in range(callers - admitted)]


def outcomes(reply: Reply, buckets: int) -> list[tuple[int, int] | Exception]:
    """Return the callers admitted and the units missing then, or the error, for each bucket of a call for several.

    Raises:
        InvalidResponse: Of redis-py, if the script returns no such reply.
    """
    try:
        text, *errors = reply if isinstance(reply, list) else (reply,)
        if not isinstance(text, bytes | str):  # text if the URL asks for decoded replies
            raise TypeError(type(text).__name__)
        numbers = [int(word) for word in text.split()]
        if len(numbers) != 2 * buckets:
            raise ValueError(len(numbers))
        found = zip(numbers[::2], numbers[1::2], strict=True)
        return [(admitted, last) if admitted >= 0 else errors[last - 1] for admitted, last in found]
    except MALFORMED as error:
        raise unreadable(error) from error
