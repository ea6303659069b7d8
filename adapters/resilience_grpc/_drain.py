"""The end of a server: load balancers learn of it, requests in flight finish, and nothing is lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import grpc.aio

from resilience import Resilience
from resilience.options import seconds
from resilience_grpc._colour_checks import check_server
from resilience_grpc._health import health_of

__all__ = ("adrain", "drain")

_GRACE_FOR_OTHERS = 1.0
"""Seconds for RPCs that are not counted: statuses that are being sent, streams of reflection."""


def drain(
    server: grpc.Server, resilience: Resilience | None = None, *, grace: float | str | timedelta | None = None
) -> bool:
    """Stop a server without losing an RPC. Return whether all RPCs finished within `grace`.

    1. Health says NOT_SERVING, and the server goes on serving for the `drain_delay` setting.
    2. The server accepts nothing new. RPCs in flight have `grace` to end. Streams of health end at once.
    3. The remaining RPCs are cancelled, and the stop hooks run.

    RPCs in flight are those that the interceptors of the toolkit count. Streams that the interceptors leave alone, such
    as reflection's, have a second. Without `resilience` and `add_health`, all RPCs of the server count. Call `drain`
    from the thread that waits for the end, not from a signal handler.

    Args:
        server: The server.
        resilience: The toolkit that counts the RPCs. Default: that of `add_health`, else `Resilience.from_env()`.
        grace: How long RPCs may go on, in seconds or as text. Default: the `drain_timeout` setting.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> drain(grpc.server(ThreadPoolExecutor(8)), Resilience(), grace="5s")
        True
    """
    check_server(server, "drain", is_aio=False)
    attached = health_of(server)
    toolkit = Resilience.of(attached[0] if resilience is None and attached is not None else resilience)
    lifecycle = toolkit.lifecycle
    limit = lifecycle.options.drain_timeout if grace is None else seconds(grace, "grace")
    lifecycle.wait_drained(0)
    stopped = server.stop(limit + _GRACE_FOR_OTHERS)  # cancels nothing before it is known whether all have finished
    if attached is not None:
        attached[1].end()
    is_counted = resilience is not None or attached is not None
    is_idle = lifecycle.wait_idle(limit) if is_counted else stopped.wait(limit)
    server.stop(_GRACE_FOR_OTHERS if is_idle else 0).wait(limit + _GRACE_FOR_OTHERS)
    lifecycle.stop()
    return is_idle


async def adrain(
    server: grpc.aio.Server, resilience: Resilience | None = None, *, grace: float | str | timedelta | None = None
) -> bool:
    """Stop a server of `grpc.aio` without losing an RPC. Return whether all RPCs finished within `grace`.

    It does what `drain` does for a server on threads.

    Args:
        server: The server.
        resilience: The toolkit that counts the RPCs. Default: that of `add_health`, else `Resilience.from_env()`.
        grace: How long RPCs may go on, in seconds or as text. Default: the `drain_timeout` setting.
    """
    check_server(server, "adrain", is_aio=True)
    attached = health_of(server)
    toolkit = Resilience.of(attached[0] if resilience is None and attached is not None else resilience)
    lifecycle = toolkit.lifecycle
    limit = lifecycle.options.drain_timeout if grace is None else seconds(grace, "grace")
    await lifecycle.await_drained(0)
    stopping = asyncio.create_task(server.stop(limit + _GRACE_FOR_OTHERS))
    await asyncio.wait([stopping], timeout=0)  # starts the task, so that nothing new comes in
    if attached is not None:
        attached[1].end()
    if resilience is not None or attached is not None:
        is_idle = await lifecycle.await_idle(limit)
    else:
        is_idle = bool((await asyncio.wait([stopping], timeout=limit))[0])
    await server.stop(_GRACE_FOR_OTHERS if is_idle else 0)
    await stopping
    await lifecycle.astop()
    return is_idle
