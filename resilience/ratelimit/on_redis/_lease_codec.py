"""Encodes the arguments of the script `lease.lua`, and decodes its replies. No I/O."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resilience.ratelimit._machine import Quota
from resilience.ratelimit.on_redis._codec import units_of
from resilience.redis._errors import MALFORMED, unreadable

if TYPE_CHECKING:
    from resilience.redis._exchange import Reply

__all__ = ("Grant", "LeaseCodec", "lease_script")

_SCRIPT = Path(__file__).with_name("lease.lua")


@functools.cache
def lease_script() -> str:
    """Return the source of the script."""
    return _SCRIPT.read_text(encoding="utf-8")


class Grant(NamedTuple):
    """The answer of a bucket.

    Attributes:
        tokens: The tokens that were taken.
        missing: Seconds until the bucket is full, after that.
    """

    tokens: int
    missing: float


class LeaseCodec:
    """The language of `lease.lua` for one quota.

    Args:
        quota: The rate and the size of the buckets.
    """

    __slots__ = ("_units",)

    def __init__(self, quota: Quota) -> None:
        self._units = units_of(quota)

    def encode(self, minimum: int, wanted: int, returned: int = 0) -> tuple[int, int, int, int, int, int]:
        """Return the arguments of the script.

        Args:
            minimum: The fewest tokens to take: if they do not fit, the script takes none.
            wanted: The most tokens to take.
            returned: Tokens to pay back before.
        """
        token, refill, capacity = self._units
        return (token, refill, capacity, returned, minimum, wanted)

    def decode(self, reply: Reply) -> Grant:
        """Return the answer. Raises redis-py's `InvalidResponse` for a reply that the script does not give."""
        try:
            if not isinstance(reply, list):  # the numbers in a text would be its characters
                raise TypeError(type(reply).__name__)
            return Grant(int(reply[0]), self._units.seconds(int(reply[1])))
        except MALFORMED as error:
            raise unreadable(error) from error
