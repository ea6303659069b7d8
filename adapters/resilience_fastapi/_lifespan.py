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

    A toolkit that was built for this application is closed with it; one that was given belongs to who gave it.
    """

    def __init__(self, inner: Inner, resilience: Resilience, *, closes: bool) -> None:
        self.inner = inner
        self.resilience = resilience
        self._closes = closes

    def __call__(self, app: Any) -> AbstractAsyncContextManager[Any]:
        """Return the context the application lives in."""
        return self._span(app)

    @asynccontextmanager
    async def _span(self, app: Any) -> AsyncIterator[Any]:
        lifecycle = self.resilience.lifecycle
        try:
            async with self.inner(app) as state:
                lifecycle.started()
                try:
                    yield state
                finally:
                    lifecycle.drain()
        finally:
            lifecycle.stopped()
            if self._closes:
                await self.resilience.aclose()
