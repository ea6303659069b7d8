"""A timeout that the transport itself keeps, in place of a thread or a cancellation of ours."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from resilience._support.awaiting import CoroutineFunction
from resilience.errors import DeadlineExceededError
from resilience.timeout import Deadline, Timeout, allowed_by_service

__all__ = ("TransportTimeout",)

P = ParamSpec("P")
R = TypeVar("R")


class TransportTimeout:
    """Gives each attempt the seconds of a `Timeout`, as a deadline that the transport reads and keeps.

    Use it in place of the `Timeout` when a transport has timeouts of its own, as gRPC has. The policy puts a deadline
    in force and makes the call in place: no thread is needed, the other side learns how long it may take, and the
    transport ends the call. The policy counts a call that the transport has ended for want of time, and emits
    `timeout.elapsed` for it, as the `Timeout` would.

    Args:
        timeout: The policy of the pipeline. Name, options, events and figures are those of this object.
        errors: The class of the errors that the transport raises. An error that is of this class and a
            `DeadlineExceededError` means that the transport ended the call; no other error is counted.
        margin: Seconds, at least 0, that the client context keeps back of every deadline (`ClientOptions.margin`). The
            policy adds them to its own deadline, so that an attempt gets all the seconds of the timeout.
    """

    kind = "timeout"

    def __init__(self, timeout: Timeout, errors: type[Exception], margin: float = 0.0) -> None:
        self._timeout, self._errors, self._margin = timeout, errors, margin
        self.events, self.describe, self.snapshot = timeout.events, timeout.describe, timeout.snapshot

    @property
    def name(self) -> str:
        """The name of the timeout."""
        return self._timeout.name

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Make the blocking `call` under a deadline."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            seconds = self._timeout.time_limit.allowance()
            with self._deadline(seconds):
                try:
                    return call(*args, **kwargs)
                except DeadlineExceededError as error:
                    self._count(error, seconds)
                    raise

        return timed

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> CoroutineFunction[P, R]:
        """Make the awaiting `call` under a deadline."""

        async def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            seconds = self._timeout.time_limit.allowance()
            with self._deadline(seconds):
                try:
                    return await call(*args, **kwargs)
                except DeadlineExceededError as error:
                    self._count(error, seconds)
                    raise

        return timed

    def _deadline(self, seconds: float | None) -> Deadline:
        clock = self._timeout.time_limit.clock
        if seconds is None:
            return Deadline(math.inf, clock=clock)
        now, allowed = clock() + self._margin, allowed_by_service(seconds, self._timeout.options.seconds)
        return Deadline(now + seconds, limit=None if allowed is None else now + allowed, clock=clock)

    def _count(self, error: DeadlineExceededError, seconds: float | None) -> None:
        if seconds is not None and isinstance(error, self._errors):
            self._timeout.time_limit.exceeded(seconds)
            error.policy = error.policy or self.name  # a retry outside asks whose time is over
