"""The contract of a store of buckets, and the checks that every store makes of its arguments.

`MemoryStore` and `RedisStore` keep this contract; a third party's store may keep it too.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from resilience._support.keys import bounded_key
from resilience._support.measured import Measurement
from resilience.clock import Clock
from resilience.errors import ConfigurationError, Problem
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._options import MOST_LEASED

__all__ = (
    "AcquiringBuckets",
    "Buckets",
    "CountingBuckets",
    "DrainableBuckets",
    "JointStore",
    "LeasingStore",
    "LocalBuckets",
    "PeekingBuckets",
    "RefundingBuckets",
    "SpendingBuckets",
    "Store",
    "WindowStore",
    "checked_cost",
    "checked_key",
    "measurement_of",
    "open_buckets",
    "open_windows",
    "stored_key",
)

_MAX_COST = 1_000_000_000


class Buckets(Protocol):
    """The buckets of one quota, one for each key. Safe to use from any thread and task."""

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, or none if they do not fit; may block.

        Args:
            key: Which bucket.
            cost: Tokens to pay, 1 or more.
            allowance: How many seconds the caller is ready to wait for its tokens.
        """
        ...

    def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Coroutine[Any, Any, Decision]:
        """Pay `cost` tokens, or none, without blocking the thread. For the arguments see `take`."""
        ...

    def give_back(self, key: str, decision: Decision) -> None:
        """Undo the payment of a wait that was cancelled, if no later call waits behind it. Never blocks."""
        ...

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`."""
        ...


@runtime_checkable
class SpendingBuckets(Buckets, Protocol):
    """Buckets that need no `Decision` for a call that is admitted. Only for a store that does not wait."""

    def spend(self, key: str, /) -> Decision | None:
        """Pay one token; returns the refusal, or None if the token was paid."""
        ...


@runtime_checkable
class CountingBuckets(Buckets, Protocol):
    """Buckets that count their decisions, for metrics. To read them takes no lock."""

    @property
    def allowed(self) -> int:
        """Decisions for the call."""
        ...

    @property
    def refused(self) -> int:
        """Decisions against it."""
        ...

    def forget_counts(self) -> None:
        """Count from zero: a test begins."""
        ...


@runtime_checkable
class RefundingBuckets(Buckets, Protocol):
    """Buckets that can undo a payment."""

    def refund(self, key: str, decision: Decision) -> None:
        """Undo the payment of `decision`, also if later calls have paid after it; may block."""
        ...

    def arefund(self, key: str, decision: Decision) -> Coroutine[Any, Any, None]:
        """Undo the payment of `decision` without blocking the thread."""
        ...


@runtime_checkable
class AcquiringBuckets(Buckets, Protocol):
    """Buckets whose callers wait for their turn by themselves. A limiter hands these functions out as its own."""

    def acquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Pay `cost` tokens, or none if they do not fit in time; may block.

        Args:
            key: Which bucket.
            cost: Tokens to pay, 1 or more.
            wait: The longest wait for the turn of the call; None to refuse at once.
        """
        ...

    def aacquire(
        self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None
    ) -> Coroutine[Any, Any, Decision]:
        """Pay `cost` tokens, or none, without blocking the thread. For the arguments see `acquire`."""
        ...


@runtime_checkable
class PeekingBuckets(Buckets, Protocol):
    """Buckets that can decide without taking tokens."""

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now, and the state of the bucket; may block."""
        ...

    def apeek(self, key: str = "", cost: int = 1) -> Coroutine[Any, Any, Decision]:
        """Return whether `cost` tokens would be paid now, without blocking the thread."""
        ...


@runtime_checkable
class LocalBuckets(Buckets, Protocol):
    """Buckets in this process: reading them takes no round trip."""

    def look(self, key: str = "") -> Decision:
        """Return the state of a bucket, taking nothing."""
        ...


@runtime_checkable
class DrainableBuckets(Buckets, Protocol):
    """Buckets in this process that an outcome of a call may empty, without a round trip."""

    def drain(self, key: str = "", wait: float = 0.0) -> None:
        """Take all tokens; the next one comes in `wait` seconds at the earliest."""
        ...


@runtime_checkable
class Store(Protocol):
    """Opens buckets. Two quotas with the same name share them."""

    @property
    def waits(self) -> bool:
        """Whether a decision may block. If so, policies call `take` or `atake`, by the kind of call."""
        ...

    def open(self, quota: Quota, clock: Clock) -> Buckets:
        """Return the buckets of `quota.name`."""
        ...


@runtime_checkable
class JointStore(Store, Protocol):
    """Opens buckets of several rates, which pay all rates or none."""

    def open_joint(self, quotas: tuple[Quota, ...], clock: Clock) -> Buckets:
        """Return the buckets of some quotas with one name."""
        ...


@runtime_checkable
class WindowStore(Store, Protocol):
    """Opens windows, which count calls in place of buckets."""

    def open_windows(self, strategy: str, quota: Quota, clock: Clock) -> Buckets:
        """Return the windows of `quota.name`, counted by `strategy`."""
        ...


@runtime_checkable
class LeasingStore(Store, Protocol):
    """Opens buckets whose tokens are taken ahead."""

    def open_leased(self, quota: Quota, clock: Clock, most: int) -> Buckets:
        """Return the buckets of `quota.name`.

        Args:
            quota: The name, the rate and the size of the buckets.
            clock: Returns seconds that never go back.
            most: The most tokens of a key that this instance takes ahead.
        """
        ...


def open_buckets(store: Store, quotas: tuple[Quota, ...], clock: Clock, lease: int | str | None = None) -> Buckets:
    """Return the buckets of the quotas in `store`.

    Args:
        store: Where the buckets are kept.
        quotas: One for each rate.
        clock: Returns seconds that never go back.
        lease: The most tokens of a bucket to take ahead, or `auto`; None for no lease.

    Raises:
        ConfigurationError: The store cannot keep several rates, or lease tokens.
    """
    if lease is not None:
        if not isinstance(store, LeasingStore):
            raise ConfigurationError(
                [
                    Problem(
                        "lease", lease, "None unless the store is a RedisStore: the memory of a process needs no lease"
                    )
                ]
            )
        return store.open_leased(quotas[0], clock, lease if isinstance(lease, int) else MOST_LEASED)
    if len(quotas) == 1:
        return store.open(quotas[0], clock)
    if isinstance(store, JointStore):
        return store.open_joint(quotas, clock)
    raise ConfigurationError([Problem("store", store, "a store that keeps several rates, by open_joint")])


def open_windows(store: Store, strategy: str, quota: Quota, clock: Clock) -> Buckets:
    """Return the windows of a quota in `store`. Raises `ConfigurationError` if it keeps none."""
    if isinstance(store, WindowStore):
        return store.open_windows(strategy, quota, clock)
    raise ConfigurationError([Problem("store", store, f"a store that keeps {strategy}, by open_windows")])


def measurement_of(name: str, buckets: Buckets, *, shadow: bool) -> Measurement:
    """Return the decisions of a limiter by outcome. The store of a third party may not count them."""
    if not isinstance(buckets, CountingBuckets):
        return Measurement("ratelimit", name)
    counts = {"allowed": buckets.allowed, "shadow" if shadow else "refused": buckets.refused}
    return Measurement("ratelimit", name, counts)


def stored_key(key: str) -> str:
    """Return the key to store. A long key is replaced by its hash, so that clients cannot choose how much we keep."""
    checked_key(key)
    return bounded_key(key)


def checked_key(key: object) -> None:
    """Raise `ConfigurationError` for a key that is not text."""
    if not isinstance(key, str):
        raise ConfigurationError([Problem("key", key, "text")])


def checked_cost(cost: object) -> None:
    """Raise `ConfigurationError` for a cost that is not a whole number from 1 on."""
    if not isinstance(cost, int) or isinstance(cost, bool) or not 1 <= cost <= _MAX_COST:
        raise ConfigurationError([Problem("cost", cost, f"a whole number from 1 to {_MAX_COST:,}")])
