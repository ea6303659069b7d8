"""One object for each event loop, closed when the loop is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from resilience.running import needs_asyncio

if TYPE_CHECKING:
    import asyncio

__all__ = ("PerLoop",)


class ClosedByAwaiting(Protocol):
    """An object that a loop can close."""

    async def aclose(self) -> None:
        """Close it."""
        ...


T = TypeVar("T", bound=ClosedByAwaiting)


class PerLoop(Generic[T]):
    """Keeps the objects that `build` makes, one for each event loop.

    Args:
        build: Makes the object for the running loop, without I/O.
        lock: Held while an object is made.
    """

    def __init__(self, build: Callable[[], T], lock: AbstractContextManager[object]) -> None:
        self._build = build
        self._lock = lock
        self._kept: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def current(self) -> T:
        """Return the object of the running loop. Raises `ConfigurationError` if no loop is running."""
        if (loop := _running_loop()) is None:
            raise needs_asyncio("an awaiting client of Redis")
        if (kept := self._kept.get(loop)) is not None:
            return kept[0]
        with self._lock:
            for closed in [known for known in self._kept if known.is_closed()]:
                del self._kept[closed]
            made = self._build()
            keeper = _close_with_loop(made)
            _start(keeper)
            self._kept[loop] = (made, keeper)
        return made

    def all(self) -> list[T]:
        """Return the objects of all loops."""
        return [made for made, _ in tuple(self._kept.values())]

    async def aclose(self) -> None:
        """Close the object of the running loop, if there is one. Does nothing if asyncio runs no loop."""
        loop = _running_loop()
        if loop is not None and (kept := self._kept.pop(loop, None)) is not None:
            await kept[1].aclose()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running loop of asyncio. It may run no task: a callback of the loop may ask for its client."""
    import asyncio  # noqa: PLC0415 - a blocking program never pays for the event loop's 40 ms import

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _close_with_loop(made: ClosedByAwaiting) -> AsyncGenerator[None, None]:
    """Close `made` when this generator is closed: an event loop closes its open generators when it ends."""
    try:
        yield
    finally:
        await made.aclose()


def _start(keeper: AsyncGenerator[None, None]) -> None:
    # Its first step suspends nowhere, so it can be taken without awaiting; that registers it with the loop.
    try:
        keeper.asend(None).send(None)
    except StopIteration:
        return
