"""Encodes renewals for the script `lease.lua`, and decodes its replies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from resilience.ratelimit.on_redis._codec import BucketCodec, units_of
from resilience.ratelimit.on_redis.leases._machine import KEPT
from resilience.redis import LuaScript
from resilience.redis._errors import MALFORMED, raised, unreadable

if TYPE_CHECKING:
    from resilience.ratelimit._machine import Quota
    from resilience.ratelimit.on_redis.leases._machine import LeaseRenewal
    from resilience.redis._exchange import Reply
    from resilience.redis._script import ScriptCall

__all__ = ("LEASE", "LeaseAnswer", "LeaseCodec")

LEASE: Final = LuaScript(Path(__file__).with_name("lease.lua").read_text(encoding="utf-8"))
"""The script that leases tokens."""


class LeaseAnswer(NamedTuple):
    """The answer of the server to a renewal.

    Attributes:
        granted: Tokens that were leased.
        missing: Seconds until the bucket is full.
    """

    granted: int
    missing: float


class LeaseCodec:
    """The language of one quota, about leases. No I/O.

    Args:
        quota: The name, the rate and the size of the buckets.
        prefix: The start of every key.
    """

    def __init__(self, quota: Quota, prefix: str) -> None:
        self._bucket = BucketCodec(quota, prefix)
        self._units = units_of(quota)

    def keys(self, key: str) -> tuple[bytes, bytes, bytes]:
        """Return the Redis keys of the bucket, of its leases and of their ends. All are in one hash slot."""
        bucket = self._bucket.redis_key(key)
        return bucket, bucket + b":leases", bucket + b":leases:ends"

    def encode(self, key: str, instance: bytes, renewal: LeaseRenewal) -> ScriptCall:
        """Return the script call.

        Args:
            key: Which bucket.
            instance: The holder of the lease.
            renewal: The numbers to send.
        """
        numbers = (renewal.held, renewal.number, renewal.count, renewal.kept, renewal.back, renewal.wanted)
        return self.keys(key), (*self._units, instance, *numbers, int(KEPT * 1e6))

    def decode(self, reply: Reply) -> LeaseAnswer:
        """Return the answer.

        Raises:
            Exception: The reply is an error, or cannot be read.
        """
        try:
            granted, missing = map(int, cast("list[int]", raised(reply)))
        except MALFORMED as error:
            raise unreadable(error) from error
        return LeaseAnswer(granted, self._units.seconds(missing))
