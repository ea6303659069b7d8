"""The awaiting half of `Health`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from resilience.health._aio import collect, launch_here
from resilience.health._asking import Asking
from resilience.health._check import Launch
from resilience.health._reply import Question, Reply, reply_to
from resilience.health._report import Report

if TYPE_CHECKING:
    from resilience.health._health import Health

__all__ = ("areply", "areport", "closed")


async def areport(ask: Callable[[Launch], Asking]) -> Report:
    """Return the report, its checks run by the running loop."""
    asking = ask(launch_here())
    return asking.answered(await collect(asking.asked))


async def areply(found: Question | Reply, report: Callable[[Question], Coroutine[Any, Any, Report]]) -> Reply:
    """Return the response to a probe."""
    return found if isinstance(found, Reply) else reply_to(found, await report(found))


async def closed(health: Health) -> None:
    """Close."""
    health.close()
