"""Our part of the application's life: around its own, so that it starts after us and stops before us."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.types import Message, Send

from resilience import Resilience
from resilience.lifecycle import STARTING, Lifecycle

__all__ = ("Lifespan", "begin", "begins")

_log = logging.getLogger("resilience")

Inner = Callable[[Any], AbstractAsyncContextManager[Any]]


class Lifespan:
    """The application's lifespan with ours around it; what it yields is passed on as it is.

    Start hooks run before the application's own start, stop hooks after its end; the last of them closes the toolkit.
    """

    def __init__(self, inner: Inner, resilience: Resilience) -> None:
        self.inner = inner
        self.resilience = resilience

    def __call__(self, app: Any) -> AbstractAsyncContextManager[Any]:
        """Return the context the application lives in."""
        return self._span(app)

    @asynccontextmanager
    async def _span(self, app: Any) -> AsyncIterator[Any]:
        lifecycle = self.resilience.lifecycle
        lifecycle.install_signals()  # the server has installed its own by now, and is called after us
        try:
            await lifecycle.aprepare()
            async with self.inner(app) as state:
                lifecycle.started()
                try:
                    yield state
                finally:
                    lifecycle.drain()
                    await lifecycle.await_drain_hooks()
        finally:
            await lifecycle.astop()


def begin(lifecycle: Lifecycle) -> None:
    """Be ready, where there is no `Lifespan` to say so and no start that takes one; in the log, why not."""
    if not lifecycle.started_if_no_hooks() and lifecycle.state == STARTING:
        _log.warning("not ready: start hooks and dependencies are run by install(app) in the lifespan, or by astart()")


def begins(send: Send, lifecycle: Lifecycle) -> Send:
    """Return `send` for an application's lifespan: once its start is complete, `begin`. A `Lifespan` comes before."""

    async def watched(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            begin(lifecycle)
        await send(message)

    return watched
