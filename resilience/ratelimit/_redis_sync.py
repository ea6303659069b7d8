"""Asking Redis and blocking for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._redis import RedisLedger

__all__ = ("reset", "take")


def take(ledger: RedisLedger, key: str, cost: int, allowance: float) -> Decision:
    """Pay `cost` tokens on Redis, or decide alone while it is away. Never raises because of Redis."""
    store = ledger.store
    redis_key, arguments = ledger.question(key, cost, allowance)
    with store.outage.attempt() as attempt:
        if attempt.may_try:
            return ledger.answer(store.script.run(store.connection.sync, redis_key, arguments), cost)
    return ledger.alone(key, cost, allowance)


def reset(ledger: RedisLedger, key: str) -> None:
    """Delete the bucket of `key`; while Redis is away, do nothing."""
    with ledger.store.outage.attempt() as attempt:
        if attempt.may_try:
            ledger.store.connection.sync.delete(ledger.redis_key(key))
