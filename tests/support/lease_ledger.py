"""The arithmetic of `lease.lua`, for tests that have no server: one bucket and its leases, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from resilience.ratelimit._machine import Quota
from resilience.ratelimit.on_redis.leases._machine import KEPT, LeaseRenewal

__all__ = ("LeaseLedger",)


class _Record(NamedTuple):
    number: int
    tokens: int
    granted: int
    ends_at: float


class LeaseLedger:
    """A bucket as the script keeps it. Counts are in tokens, and times in seconds.

    Attributes:
        records: The lease of each holder.
    """

    def __init__(self, quota: Quota, clock: Callable[[], float]) -> None:
        self._quota = quota
        self._clock = clock
        self._full_at = 0.0
        self.records: dict[bytes, _Record] = {}

    @property
    def missing(self) -> float:
        """Tokens that are missing from a full bucket."""
        return max(0.0, self._full_at - self._clock()) / self._quota.interval

    def call(
        self,
        holder: bytes,
        renewal: LeaseRenewal,
        released: Callable[[bytes, int], None] = lambda _holder, _tokens: None,
    ) -> tuple[int, float]:
        """Run the script; return the tokens granted and the seconds until the bucket is full.

        Args:
            holder: The instance that calls.
            renewal: What it says.
            released: Called with each lease that was taken back: its holder and its tokens.
        """
        now, burst = self._clock(), self._quota.burst
        missing = self.missing
        for other, record in list(self.records.items()):
            if other != holder and record.ends_at <= now:
                released(other, record.tokens)
                missing -= record.tokens
                del self.records[other]
        missing = max(0.0, missing)
        own = self.records.get(holder)
        kept, wanted = renewal.kept, renewal.wanted
        is_late = own is not None and own.number >= renewal.number
        if own is None:
            missing = min(max(0.0, missing + renewal.count - renewal.back), max(missing, burst))
        elif is_late:
            kept = wanted = 0
        elif own.number == renewal.held:
            missing = max(0.0, missing - renewal.back)
        else:
            missing = max(0.0, missing - own.granted - renewal.back)
        granted = max(0, min(wanted, int(burst - missing + 1e-6)))
        missing += granted
        self._full_at = now + missing * self._quota.interval
        if not is_late:
            self.records.pop(holder, None)
            if kept + granted:
                self.records[holder] = _Record(renewal.number, kept + granted, granted, now + KEPT)
        return granted, missing * self._quota.interval
