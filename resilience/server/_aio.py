"""Asking a bucket that may be a network away, without blocking the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.server._context import RequestContext
    from resilience.server._gate import ServerGate
    from resilience.server._quota import Quota

__all__ = ("charge",)


async def charge(gate: ServerGate, context: RequestContext, quota: Quota, key: str | None, cost: int) -> None:
    """Charge `context` and judge the answer. Without a key nothing is charged."""
    if key is None:
        return
    gate.judge(context, quota, await quota.bucket.aacquire(key, cost))
