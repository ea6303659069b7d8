"""The single flight: one call for everybody who wants the same thing at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

from resilience._support.sharing import KEY, Keys
from resilience.errors import DeadlineExceededError
from resilience.options import checked
from resilience.policy import Named
from resilience.singleflight import _sync
from resilience.singleflight._options import SingleFlightOptions
from resilience.singleflight._space import LoopSpace, Space
from resilience.timeout import Deadline, DeadlineWait, allowed_by_service

__all__ = ("SingleFlight",)

P = ParamSpec("P")
R = TypeVar("R")


class SingleFlight(Named):
    """Makes one call for all callers that want the same thing while it is under way: they share what it comes to.

    Calls are the same when the function and its arguments are (`self` is one of them); `key`, a function of the
    arguments, says otherwise. Everybody gets the same result object, or a copy of the error. Threads wait for threads,
    tasks for tasks of their own event loop; each for as long as its own deadline and `max_wait` allow, then it gets
    `DeadlineExceededError`. The call runs with the context variables of the first caller, until the latest deadline of
    all: `Deadline.current()` moves when a caller with more time joins. If the call failed for lack of time that later
    callers have, they make another one together.

    A caller that is cancelled or interrupted leaves the others alone: in a loop the call goes on until the last of them
    has left, in threads the next in line makes it. A result that serves only once (an iterator) is not shared.

    Raises `TypeError` for arguments that cannot be hashed. Generator functions are refused: there is no one result.
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
        self.epoch = self.calls = self.shared = 0

    def around(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Share the blocking `call` among threads."""
        return _sync.around(self, Space(Keys(self._key, leading_args)), call)

    def around_async(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Share the awaiting `call` among the tasks of a loop."""
        from resilience.singleflight import _aio  # noqa: PLC0415 - only what awaits pays for asyncio

        return _aio.around_async(self, LoopSpace(), Keys(self._key, leading_args), call)

    def forget(self) -> None:
        """Have nobody join the calls under way now: they may have read what has just changed."""
        self.epoch += 1

    def patience(self, deadline: Deadline | None) -> DeadlineWait:
        """Return how long a caller with this `deadline` can wait; raise where no time is left."""
        patience = DeadlineWait(deadline, self.options.max_wait)
        if not patience.seconds and patience.seconds is not None:
            raise self.exceeded(0.0)
        return patience

    def exceeded(self, seconds: float | None) -> DeadlineExceededError:
        """Return the error of a caller whose time was up while it waited."""
        message = f"{self.name}: somebody else's call did not end in time"
        allowed = None if seconds is None else allowed_by_service(seconds, self.options.max_wait)
        return DeadlineExceededError(message, policy=self.name, seconds=seconds, allowed=allowed)

    def snapshot(self) -> dict[str, Any]:
        """Return how many calls were made so far, and how many callers were answered by one that was not theirs."""
        return {"calls": self.calls, "shared": self.shared}

    def __repr__(self) -> str:
        return f"<SingleFlight {self.name!r} {self.calls} calls, {self.shared} shared>"
