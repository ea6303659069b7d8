"""Waiting for a shared bucket in a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.clock import SYSTEM_SLEEPER

if TYPE_CHECKING:
    from resilience.ratelimit._policy import RateLimit
    from resilience.ratelimit._store import Ledger

__all__ = ("admit",)


async def admit(policy: RateLimit, ledger: Ledger) -> None:
    """Take a token and wait for its turn, or raise `RateLimitedError`."""
    decision = policy.checked(await ledger.atake(policy.key, 1, policy.options.max_wait))
    if decision.wait and not policy.options.shadow:
        try:
            await SYSTEM_SLEEPER.asleep(decision.wait)
        except BaseException:
            ledger.give_back(policy.key, decision)
            raise
