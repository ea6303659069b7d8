"""Our part of the application's lifespan: it starts before the application, and stops after it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.types import Message, Send

from resilience import Resilience
from resilience.lifecycle import STARTING, Lifecycle

__all__ = ("Lifespan", "set_ready", "when_started")

_log = logging.getLogger("resilience")

Inner = Callable[[Any], AbstractAsyncContextManager[Any]]


class Lifespan:
    """The application's own lifespan with ours around it. The state that the inner one yields is passed on.

    Start hooks run before the application's own start, stop hooks after its own stop. The last stop hook closes the
    toolkit.
    """

    def __init__(self, inner: Inner, resilience: Resilience) -> None:
        self.inner = inner
        self.resilience = resilience

    def __call__(self, app: object) -> AbstractAsyncContextManager[Any]:
        """Return the context manager around the life of the application."""
        return self._span(app)

    @asynccontextmanager
    async def _span(self, app: object) -> AsyncIterator[Any]:
        lifecycle = self.resilience.lifecycle
        lifecycle.install_signals()  # the server has installed its own by now: they are called after ours
        try:
            await lifecycle.server.prepare()
            async with self.inner(app) as state:
                lifecycle.started()
                try:
                    yield state
                finally:
                    lifecycle.drain()
                    await lifecycle.server.await_drain_hooks()
        finally:
            await lifecycle.astop()


def set_ready(lifecycle: Lifecycle) -> None:
    """Make the service ready if there are no start hooks; else log why it is not ready."""
    if not lifecycle.server.started_if_no_hooks() and lifecycle.state == STARTING:
        _log.warning("not ready: start hooks and dependencies are run by install(app) in the lifespan, or by astart()")


def when_started(send: Send, lifecycle: Lifecycle) -> Send:
    """Return a `send` that calls `set_ready` when the application's own start is complete."""

    async def watched(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            set_ready(lifecycle)
        await send(message)

    return watched
