"""Our part of the application's life: around its own, so that it starts after us and stops before us."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from resilience import Resilience

__all__ = ("Lifespan",)

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
                    await lifecycle.await_deregistered()
        finally:
            await lifecycle.astop()
