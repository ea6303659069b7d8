"""The single flight: one call for all callers that want the same thing at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import ParamSpec, TypeVar, cast

from resilience._support.awaiting import CoroutineFunction
from resilience._support.sharing import KEY, Keys
from resilience.options import checked
from resilience.policy import Named
from resilience.singleflight import _sync
from resilience.singleflight._flights import FlightGroup, LoopFlights, ThreadFlights
from resilience.singleflight._options import SingleFlightOptions

__all__ = ("SingleFlight",)

P = ParamSpec("P")
R = TypeVar("R")


class SingleFlight(Named):
    """Makes one call for all callers that want the same thing while the call is in flight: they share its outcome.

    Two calls are the same if the function and its arguments are equal; `self` is one of the arguments. All callers get
    the same result object, or a copy of the error. Threads wait for threads, and tasks for tasks of their own event
    loop. A caller waits until its own deadline, and at most `max_wait`; then it gets `DeadlineExceededError`.

    The call runs with the context variables of its first caller, until the latest deadline of all its callers:
    `Deadline.current()` moves when a caller with more time joins. If the call fails for lack of time, the later callers
    that have more time make another call together.

    A caller that is cancelled or interrupted does not disturb the others. In an event loop the call goes on until its
    last caller has left. In threads, the caller that has waited longest makes the call again. A result that serves only
    one caller, such as an iterator, is not shared. Generator functions are refused when they are wrapped.

    Args:
        max_wait: The longest wait for a call that another caller makes: seconds, a `timedelta`, or text such as
            `"500ms"`. Above 0. None (the default) for as long as the caller's deadline allows.
        key: A function of the call's arguments that returns a hashable value. Calls with equal values are the same.
            None (the default) takes the arguments themselves.
        name: The name in errors and snapshots. None takes it from the first pipeline that holds the policy.

    Raises:
        ConfigurationError: An option has the wrong type or value.
        TypeError: At a call whose arguments cannot be hashed; give `key`.

    Example:
        >>> import time
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from resilience import Pipeline, SingleFlight
        >>> flight = SingleFlight()
        >>> @Pipeline("prices", flight)
        ... def price(item):
        ...     time.sleep(0.2)
        ...     return 12.0
        >>> with ThreadPoolExecutor(8) as pool:
        ...     list(pool.map(price, ["lamp"] * 3))
        [12.0, 12.0, 12.0]
        >>> flight.snapshot()
        {'calls': 1, 'shared': 2}

    See also Go's `golang.org/x/sync/singleflight`.
    """

    kind = "single_flight"
    accepts_leading_args = True

    def __init__(
        self,
        max_wait: float | str | timedelta | None = None,
        *,
        key: Callable[..., Hashable] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.options = SingleFlightOptions.of(max_wait=cast("float | None", max_wait))
        self._key: Callable[..., Hashable] | None = checked(key, "key", KEY)
        self._group = FlightGroup(self.name, self.options.max_wait)
        self._is_made = True

    def renamed(self) -> None:
        """Use the new name in errors."""
        self._group.name = self.name

    def around(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Share the blocking `call` among threads."""
        return _sync.around(self._group, ThreadFlights(Keys(self._key, leading_args)), call)

    def around_async(self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0) -> CoroutineFunction[P, R]:
        """Share the awaiting `call` among the tasks of a loop."""
        from resilience.singleflight import _aio  # noqa: PLC0415 - it imports asyncio

        return _aio.around_async(self._group, LoopFlights(), Keys(self._key, leading_args), call)

    def forget(self) -> None:
        """Let no further caller join the calls that are in flight now: they may have read a value that has changed."""
        self._group.epoch += 1

    def snapshot(self) -> dict[str, int]:
        """Return how many calls were made so far, and how many callers got the outcome of another caller's call."""
        return {"calls": self._group.calls, "shared": self._group.shared}

    def __repr__(self) -> str:
        return f"<SingleFlight {self.name!r} {self._group.calls} calls, {self._group.shared} shared>"
