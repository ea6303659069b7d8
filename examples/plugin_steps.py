"""Policies of a third party that use the optional steps of the contract. `plugin_policy.py` is the simple example.

`Turns` settles permits, `LastAnswer` owns the call. They are made to show each step once: read them beside
`docs/plugin-authors.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from resilience import PolicyBase, RejectedError
from resilience.plugins import Steps
from resilience.policy import Named, RetryAfter, Substitute, Verdict, Wait


class TurnRefusedError(RejectedError):
    """There is no place, and no turn within the time that a caller may wait."""

    code = "TURN_REFUSED"


class Turn:
    """The permit: one running call."""

    __slots__ = ("attempt", "is_last", "is_settled")

    def __init__(self) -> None:
        self.attempt = 1
        self.is_last = self.is_settled = False


class Turns(PolicyBase):
    """Lets at most `places` calls run at a time, and makes a failed call again.

    Args:
        places: The number of calls that may run at a time, at least 1.
        attempts: The number of attempts of a call, at least 1.
        max_wait: Seconds for which a call waits for a place; 0 refuses it at once.
        delay: Seconds between the admission of a call and its start.
        fast: A permit for all calls that need no place, or None. It can change at any time, in any thread.
        empty_is_failure: Whether a call that returned None has failed.
        only: A name. The policy applies to functions of this name only; None for all functions.
        name: A metric label.
    """

    kind = "turns"
    settles_once = True  # `on_abandon` ignores a permit that is settled

    def __init__(
        self,
        places: int = 1,
        *,
        attempts: int = 1,
        max_wait: float = 0.0,
        delay: float = 0.0,
        fast: object = None,
        empty_is_failure: bool = False,
        only: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.retries = attempts > 1  # a verdict may be `RetryAfter`
        self.waits = max_wait > 0  # the engine uses `admit_blocking` and `admit_awaiting`
        self.may_wait = delay > 0 and not self.waits  # `admit` may return `Wait`
        self.fast_permit = fast
        self.neighbours: tuple[str, ...] = ()
        self._attempts, self._delay = attempts, delay
        self._max_wait, self._empty_is_failure, self._only = max_wait, empty_is_failure, only
        self._places = threading.BoundedSemaphore(places)

    def choose_steps(self, steps: Steps) -> Steps:
        """Leave out the steps that the options do not need: an absent step costs a call nothing."""
        return replace(
            steps,
            fast_permit=None if self.fast_permit is None else steps.fast_permit,
            applies_to=None if self._only is None else self.applies_to,
        )

    def applies_to(self, fn: Any) -> bool:
        """Asked once, when a function is wrapped."""
        return self._only in {None, getattr(fn, "__name__", None)}

    def bind(self, policies: tuple[Any, ...]) -> None:
        """Asked once, when a pipeline is made and all policies have their names."""
        self.neighbours = tuple(policy.name for policy in policies if policy is not self)

    def admit(self) -> Turn | Wait:
        """Take a place, or refuse the call."""
        turn = self._admitted(is_admitted=self._places.acquire(blocking=False))
        return Wait(self._delay, turn) if self.may_wait else turn

    def admit_blocking(self) -> Turn:
        """Take a place; block the thread until one is free."""
        return self._admitted(is_admitted=self._places.acquire(timeout=self._max_wait))

    async def admit_awaiting(self) -> Turn:
        """Take a place; suspend the task until one is free. A cancelled task has taken nothing."""
        until = time.monotonic() + self._max_wait
        while not (is_admitted := self._places.acquire(blocking=False)) and time.monotonic() < until:  # noqa: ASYNC110 - a semaphore of threads has no event for tasks
            await asyncio.sleep(0.001)
        return self._admitted(is_admitted=is_admitted)

    def _admitted(self, *, is_admitted: bool) -> Turn:
        if not is_admitted:
            raise TurnRefusedError(f"{self.name}: every place is taken", policy=self.name)
        return Turn()

    def on_success(self, permit: Any, result: Any, /) -> Verdict:
        """Settle a normal return. None can be a failure; `NO_RESULT` is not."""
        return self._settled(permit, is_failure=self._empty_is_failure and result is None)

    def on_failure(self, permit: Any, error: Exception, /) -> Verdict:
        """Make another attempt, unless another policy refused the call."""
        return self._settled(permit, is_failure=not isinstance(error, RejectedError))

    def _settled(self, permit: Any, *, is_failure: bool) -> Verdict:
        if is_failure and isinstance(permit, Turn) and permit.attempt < self._attempts and not permit.is_last:
            permit.attempt += 1
            return RetryAfter(0.0, permit)
        self.on_abandon(permit)
        return None

    def no_more_attempts(self, permit: Any, /) -> Any:
        """Note that a generator has yielded items: it cannot be started again."""
        if isinstance(permit, Turn):
            permit.is_last = True
        return permit

    def on_abandon(self, permit: Any, /) -> None:
        """Give the place back, once; a fast permit has none."""
        if isinstance(permit, Turn) and not permit.is_settled:
            permit.is_settled = True
            self._places.release()

    def snapshot(self) -> dict[str, Any]:
        """Return the present state as plain data."""
        return {"neighbours": list(self.neighbours), "fast": self.fast_permit is not None}


class LastAnswer(Named):
    """Answers a failed call by the last result of the same arguments. Outer policies still score the failure."""

    kind = "last_answer"
    accepts_leading_args = True  # the `around` methods take `leading_args`

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self._known: dict[Any, Any] = {}

    def around(self, call: Callable[..., Any], /, *, leading_args: int = 0) -> Callable[..., Any]:
        """Return the answer as the result: the policy is outermost."""

        def answered(*args: Any) -> Any:
            try:
                return self._keep(args[leading_args:], call(*args))
            except Exception as error:  # noqa: BLE001 - any failure has a stand-in
                return self._answer(args[leading_args:], error)

        return answered

    def around_nested(self, call: Callable[..., Any], /, *, leading_args: int = 0) -> Callable[..., Any]:
        """Raise a `Substitute`: the policies outside score the error, and the caller gets the answer."""

        def answered(*args: Any) -> Any:
            try:
                return self._keep(args[leading_args:], call(*args))
            except Exception as error:
                raise Substitute(self._answer(args[leading_args:], error), error=error) from error

        return answered

    def around_async(
        self, call: Callable[..., Awaitable[Any]], /, *, leading_args: int = 0
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Do for an awaited call what `around` does for a blocking one."""

        async def answered(*args: Any) -> Any:
            try:
                return self._keep(args[leading_args:], await call(*args))
            except Exception as error:  # noqa: BLE001 - any failure has a stand-in
                return self._answer(args[leading_args:], error)

        return answered

    def around_nested_async(
        self, call: Callable[..., Awaitable[Any]], /, *, leading_args: int = 0
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Do for an awaited call what `around_nested` does for a blocking one."""

        async def answered(*args: Any) -> Any:
            try:
                return self._keep(args[leading_args:], await call(*args))
            except Exception as error:
                raise Substitute(self._answer(args[leading_args:], error), error=error) from error

        return answered

    @contextlib.asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Guard an `async with` block, which has no result to remember."""
        yield

    def _keep(self, args: tuple[Any, ...], result: Any) -> Any:
        self._known[args] = result
        return result

    def _answer(self, args: tuple[Any, ...], error: Exception) -> Any:
        if args not in self._known:
            raise error
        return self._known[args]
