"""Asking a bucket that may be a network away, without blocking the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.inbound._context import RequestContext
    from resilience.inbound._gate import Inbound
    from resilience.inbound._quota import Quota

__all__ = ("charge",)


async def charge(inbound: Inbound, context: RequestContext, quota: Quota, key: str | None, cost: int) -> None:
    """Charge `context` and judge the answer. Without a key nothing is charged."""
    if key is None:
        return
    inbound.judge(context, quota, await quota.bucket.aacquire(key, cost))
