"""The event loop of asyncio that runs the caller, or one clear error if there is none.

Some parts suspend the caller with timers, futures and tasks of asyncio. Other async libraries, such as trio, have none
of these. `asyncio.get_running_loop` would raise "no running event loop" there, and an error from the midst of a policy
says neither the cause nor the policy.

This module does not import asyncio: blocking programs do not pay for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from resilience._support.usage import warn_once
from resilience.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ("needs_asyncio", "running_loop", "warn_if_loop_waits")

_ADVICE = "run the coroutine on asyncio, or make the call in blocking code, in a thread"


def running_loop(user: object) -> AbstractEventLoop:
    """Return the event loop of asyncio whose task runs the caller. Call it before anything is taken or started.

    Args:
        user: The part that needs asyncio, for the text of the error: a policy, or a name.

    Raises:
        ConfigurationError: No task of asyncio runs the caller.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:  # else nothing in this process can run a task of it
        try:
            loop: AbstractEventLoop = asyncio.get_running_loop()
        except RuntimeError:
            raise needs_asyncio(user) from None
        if asyncio.current_task(loop) is not None:  # None if trio runs as a guest of the loop
            return loop
    raise needs_asyncio(user)


def warn_if_loop_waits(user: object, wait: float) -> None:
    """Warn once if a blocking wait of `user` is about to stop an event loop, and with it all tasks of the loop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    name = str(getattr(user, "name", user))
    warn_once(
        ("blocking wait", name),
        f"{name} blocks a running event loop with time.sleep for {wait:.3g} s: all tasks of the loop stop. Guard a "
        f"coroutine function, or make the call in a thread: await asyncio.to_thread(function, ...)",
    )


def needs_asyncio(user: object) -> ConfigurationError:
    """Return the error of a part that needs asyncio and is not run by it.

    It says nothing about the dependency: circuit breakers do not count it, and it is not retried unless asked for.

    Args:
        user: The part that needs asyncio: a policy, or a name.
    """
    name = user if isinstance(user, str) else f"{type(user).__name__} {getattr(user, 'name', '')!r}"
    library = _running_library()
    runs = "no task of asyncio runs this code" if library is None else f"this coroutine runs under {library}"
    return ConfigurationError(f"{name} needs asyncio, and {runs}; {_ADVICE}")


def _running_library() -> str | None:
    """Return the name of the async library that runs the caller, None if it is unknown or asyncio without a task."""
    sniffio = sys.modules.get("sniffio")  # imported by every library that can be recognised
    try:
        library = None if sniffio is None else str(sniffio.current_async_library())
    except RuntimeError:  # none is running, or one that sniffio does not know
        return None
    return None if library == "asyncio" else library
