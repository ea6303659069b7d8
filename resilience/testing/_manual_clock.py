"""A clock that a test owns: for one policy, or for all policies of the process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator

from resilience.clock import SYSTEM_SLEEPER
from resilience.testing._process_clock import PROCESS_CLOCK

__all__ = ("ManualClock", "manual_clock")


class ManualClock:
    """A clock that moves only by `advance` and by sleeps. It is also a `sleeper` for a pipeline: no sleep takes time.

    Args:
        now: The time in seconds at the start.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.slept: list[float] = []
        """The length of every sleep, in seconds."""

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds

    def sleep(self, seconds: float, /) -> None:
        """Let `seconds` pass, and return at once."""
        self.slept.append(seconds)
        self.advance(seconds)

    def asleep(self, seconds: float, /) -> Awaitable[None]:
        """Let `seconds` pass, and let other tasks run once."""
        self.sleep(seconds)
        return asyncio.sleep(0)


@contextlib.contextmanager
def manual_clock() -> Iterator[ManualClock]:
    """Stop the time of all policies of the process while the `with` block runs. The test moves it.

    The clock counts for each policy, deadline and limiter that was given no clock of its own. Waits between attempts,
    and of a `RateLimit` with `max_wait`, move the clock and return at once. Waits for other threads, tasks and servers
    take real time: those of a `Timeout`, a `Hedge`, a `Bulkhead` and of Redis. Buckets on Redis use the time of the
    server.

    The block needs the clock of the pytest plugin, which stands in from the start of pytest. Without pytest, call
    `resilience.testing.install()` before the first import of a module that makes policies.

    Raises:
        RuntimeError: A module of the toolkit was imported before the clock was installed.

    Example:
        ::

            with manual_clock() as clock:
                with pytest.raises(CircuitOpenError):
                    charge("order-1")
                clock.advance(30)
                charge("order-1")  # the trial of the half-open circuit
    """
    if late := PROCESS_CLOCK.modules_without():
        reason = f"{', '.join(late)} got the real clock; call resilience.testing.install() before their first import"
        raise RuntimeError(f"manual_clock: {reason}")
    outer = SYSTEM_SLEEPER.stand_in
    if isinstance(outer, ManualClock):  # a block in a block, or in a test with the fixture: there is one time
        yield outer
        return
    clock = ManualClock(PROCESS_CLOCK())
    PROCESS_CLOCK.use(clock)
    SYSTEM_SLEEPER.stand_in = clock
    try:
        yield clock
    finally:
        SYSTEM_SLEEPER.stand_in = outer
        PROCESS_CLOCK.use(None)
