"""The rate limits of a server: a token bucket, and the headers that describe it to its clients.

Source: draft-ietf-httpapi-ratelimit-headers, two structured fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from resilience.ratelimit import Decision, Rate, TokenBucket

__all__ = ("Charge", "ServerQuota", "quota_headers")


class ServerQuota:
    """A bucket, under the name and with the size that clients see in the `RateLimit` headers.

    Args:
        label: The name in the headers. Characters that a structured field cannot hold are left out.
        bucket: The bucket that is charged.
        waits: Whether the bucket may block the caller, as one on Redis does. A bucket in memory need not be awaited.
    """

    __slots__ = ("bucket", "label", "policy", "waits")

    def __init__(self, label: str, bucket: TokenBucket, *, waits: bool = True) -> None:
        self.bucket = bucket
        self.waits = waits
        quoted = "".join(c for c in label if " " <= c <= "~" and c not in '"\\')
        self.label = f'"{quoted}"'
        members = [f"{self.member(each)};q={each.amount};w={each.period_seconds}" for each in bucket.rates]
        self.policy = ", ".join(members)

    def member(self, rate: Rate) -> str:
        """Return the name of a rate in the headers. Each of several rates has a name of its own."""
        return self.label if len(self.bucket.rates) == 1 else f'{self.label[:-1]} {rate}"'


Charge: TypeAlias = tuple[ServerQuota, Decision, str]
"""One decision about one request, and the key that it was made for."""


def quota_headers(charges: Sequence[Charge]) -> tuple[tuple[str, str], ...]:
    """Return the `RateLimit-Policy` and `RateLimit` fields for some decisions."""
    policies = ", ".join([quota.policy for quota, _, _ in charges])
    return ("RateLimit-Policy", policies), (
        "RateLimit",
        ", ".join([_state(quota, decision) for quota, decision, _ in charges]),
    )


def _state(quota: ServerQuota, decision: Decision) -> str:
    """Return the member of the `RateLimit` field: the remaining tokens (`r`), and the seconds to the next one (`t`).

    Of several rates, it is the tightest one that the client sees.

    A refused client is given its `Retry-After` as `t`, because the draft wants the two to agree.
    """
    after = decision.reset_after if decision.allowed else decision.retry_after or decision.reset_after
    return f"{quota.member(decision.quota.rate)};r={max(0, int(decision.remaining))};t={math.ceil(after)}"
