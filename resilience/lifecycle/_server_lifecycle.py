"""The side of a lifecycle that server adapters use: `Lifecycle.server`."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilience.lifecycle._life import Life
from resilience.lifecycle._machine import STARTING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ("ServerLifecycle",)


class ServerLifecycle:
    """Connects the start and the end of a server to a lifecycle. For adapters; a service calls `Lifecycle`.

    Obtain it as `lifecycle.server`. Use it if the server announces its own start and end, as an ASGI server does, or
    announces neither, as a WSGI server does.

    Args:
        life: The private object of the lifecycle.

    Example:
        >>> from resilience import Lifecycle
        >>> lifecycle = Lifecycle()
        >>> lifecycle.server.started_if_no_hooks()
        True
        >>> lifecycle.state
        'ready'
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._stops_at_exit = False

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The event loop that called `astart()`. None in blocking code, before the start and after the end.

        Background work that may hold async clients of the service runs in this loop.
        """
        return self._life.loop

    @property
    def drain_file_exists(self) -> bool:
        """Whether the file named by the option `drain_file` exists now."""
        return self._life.drain_file_exists

    async def prepare(self) -> None:
        """Start as `Lifecycle.astart`, but do not become ready: call `started()` after the application's own start.

        Raises:
            StartupError: A dependency is missing, or a required hook failed.
        """
        from resilience.lifecycle._aio import AsyncLife  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        await AsyncLife(self._life).prepare()

    def started_if_no_hooks(self) -> bool:
        """Declare the start finished, unless there is a start hook or a dependency. Return whether the state changed.

        Call this at the first request if the server does not announce its start. A stopped process stays stopped.
        """
        return self._life.state is STARTING and not self._life.needs_start and self._life.started()

    def watch_drain(self, wake: Callable[[], None]) -> Callable[[], None] | None:
        """Call `wake` when a drain begins, in the thread that begins it.

        `wake` must not wait. Return a function that ends the watch, and may be called twice. If a drain has begun
        already, return None and do not call `wake`.
        """
        return self._life.watch_drain(wake)

    async def await_drain_hooks(self) -> bool:
        """Suspend until no drain hook is running. Return whether that came within their timeouts."""
        from resilience.lifecycle._aio import AsyncLife  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        return await AsyncLife(self._life).wait_drain_hooks()

    def stop_at_exit(self) -> None:
        """Stop when the interpreter ends. Call this if the server does not announce the end.

        Nothing is called if the lifecycle has been garbage-collected by then.
        """
        if not self._stops_at_exit:
            self._stops_at_exit = True
            atexit.register(_stop_if_begun, weakref.ref(self._life))


def _stop_if_begun(reference: weakref.ref[Life]) -> None:
    life = reference()
    if life is not None:
        life.stop_if_begun()
