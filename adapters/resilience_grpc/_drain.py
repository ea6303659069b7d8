"""The end of a server: routers are told, work under way is finished, and nothing is lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import grpc.aio

from resilience import Resilience
from resilience.options import seconds
from resilience_grpc._health import health_of

__all__ = ("adrain", "drain")

_LAST_WORDS = 1.0
"""Seconds for what is nobody's request: statuses on their way, streams of reflection."""


def drain(
    server: grpc.Server, resilience: Resilience | None = None, *, grace: float | str | timedelta | None = None
) -> bool:
    """End `server` without losing an RPC; return whether all of them were finished within `grace`.

    Health says NOT_SERVING while the server goes on for the `drain_delay` setting. Then nothing new is accepted, RPCs
    under way have `grace` (by default `drain_timeout`) to end, the rest is cancelled, and the stop hooks run. Streams
    of the health service hold nothing up. Call it from the thread that waits for the end, not from a signal handler.

    RPCs are those that `resilience` counts, by default the toolkit that `add_health` gave this server: streams that its
    interceptors leave alone, such as reflection's, are given a second. Without either, all RPCs of the server count.
    """
    known = health_of(server)
    toolkit = Resilience.of(known[0] if resilience is None and known is not None else resilience)
    lifecycle = toolkit.lifecycle
    limit = lifecycle.options.drain_timeout if grace is None else seconds(grace, "grace")
    lifecycle.wait_drained(0)
    stopped = server.stop(limit + _LAST_WORDS)  # cancels nothing before it is known here whether all have finished
    if known is not None:
        known[1].end()
    is_counted = resilience is not None or known is not None
    is_idle = lifecycle.wait_idle(limit) if is_counted else stopped.wait(limit)
    server.stop(_LAST_WORDS if is_idle else 0).wait(limit + _LAST_WORDS)
    lifecycle.stop()
    return is_idle


async def adrain(
    server: grpc.aio.Server, resilience: Resilience | None = None, *, grace: float | str | timedelta | None = None
) -> bool:
    """Do the same for a server of `grpc.aio`."""
    known = health_of(server)
    toolkit = Resilience.of(known[0] if resilience is None and known is not None else resilience)
    lifecycle = toolkit.lifecycle
    limit = lifecycle.options.drain_timeout if grace is None else seconds(grace, "grace")
    await lifecycle.await_drained(0)
    stopping = asyncio.create_task(server.stop(limit + _LAST_WORDS))
    await asyncio.wait([stopping], timeout=0)  # begins, so that nothing new comes in
    if known is not None:
        known[1].end()
    if resilience is not None or known is not None:
        is_idle = await lifecycle.await_idle(limit)
    else:
        is_idle = bool((await asyncio.wait([stopping], timeout=limit))[0])
    await server.stop(_LAST_WORDS if is_idle else 0)
    await stopping
    await lifecycle.astop()
    return is_idle
