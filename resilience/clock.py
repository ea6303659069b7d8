"""Time as a thing that is passed in, so that tests own it.

Inside a process time is monotonic (L7): a step of the wall clock changes nothing. Time that instances share is the
Redis server's and never passes through here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ("SYSTEM_SLEEPER", "Clock", "Sleeper", "SystemSleeper", "monotonic")

Clock = Callable[[], float]
"""Seconds from an arbitrary start; never goes back."""

monotonic: Clock = time.monotonic


class Sleeper(Protocol):
    """The two ways to let time pass. Both return early only by raising."""

    def sleep(self, seconds: float, /) -> None:
        """Block this thread for `seconds`."""
        ...

    def asleep(self, seconds: float, /) -> Awaitable[None]:
        """Suspend this task for `seconds`. `SYSTEM_SLEEPER` raises `ConfigurationError` where asyncio does not run."""
        ...


class SystemSleeper:
    """Lets the real time pass, unless a test has put another sleeper in its place."""

    stand_in: Sleeper | None = None

    def sleep(self, seconds: float, /) -> None:
        """Block this thread for `seconds`."""
        (time.sleep if self.stand_in is None else self.stand_in.sleep)(seconds)

    def asleep(self, seconds: float, /) -> Awaitable[None]:
        """Suspend this task for `seconds`."""
        if self.stand_in is not None:
            return self.stand_in.asleep(seconds)
        import asyncio  # noqa: PLC0415 - a blocking program never pays for the event loop's 40 ms import

        from resilience.running import running_loop  # noqa: PLC0415 - errors are a level above clocks

        running_loop("a wait")
        return asyncio.sleep(seconds)


SYSTEM_SLEEPER = SystemSleeper()
"""The sleeper of a pipeline that gets none."""
