"""Policies of a third party that use, together, every step of the engine. `plugin_policy.py` is the simple example.

`Places`, `Pace` and `AskAgain` settle permits. `LastAnswer` and `OneThread` own the call. `PlacesByPlan` has one policy
for each key. `ignoring` changes the steps of any policy. `docs/plugin-authors.md` explains the steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial, partialmethod
from typing import Any

from resilience import ConfigurationError, Policy, PolicyBase, RejectedError, RetryAfter, Wait
from resilience.errors import cut_off_by_caller
from resilience.events import Emitter
from resilience.plugins import KeyedPolicy, Steps
from resilience.policy import NO_RESULT, AroundPolicy, Decision, Named, Pending, Substitute, Verdict
from resilience.running import running_loop

Call = Callable[..., Any]
Repair = Callable[[], Awaitable[object]]
AwaitedCall = Callable[..., Coroutine[Any, Any, Any]]


class Places(PolicyBase):
    """Lets at most `places` calls run at a time; others wait `max_wait` seconds. An operator can lift the limit."""

    kind = "places"
    waits = True  # the engine uses `admit_blocking` and `admit_awaiting`
    settles_once = True  # `on_abandon` ignores a permit that is settled

    def __init__(self, places: int = 1, *, max_wait: float = 0.0, events: Emitter | None = None) -> None:
        super().__init__()
        self.events = Emitter() if events is None else events
        self.fast_permit: str | None = None  # while an operator sets it, calls use it without `admit`
        self.places, self._max_wait = places, max_wait
        self._free = threading.Semaphore(places)
        self._held: set[object] = set()  # the permits of the running calls

    def choose_steps(self, steps: Steps) -> Steps:
        """Leave out the steps that these options do not need: an absent step costs a call nothing."""
        return steps if self._max_wait else replace(steps, admit_blocking=None, admit_awaiting=None)

    def admit(self) -> object:
        """Take a place, or refuse the call."""
        return self._permit(has_place=self._free.acquire(blocking=False))

    def admit_blocking(self) -> object:
        """Take a place; block the thread until one is free."""
        return self._permit(has_place=self._free.acquire(timeout=self._max_wait))

    async def admit_awaiting(self) -> object:
        """Take a place; suspend the task until one is free. A cancelled task has taken nothing."""
        running_loop(self)  # raises a clear error if the task is not one of asyncio
        until = time.monotonic() + self._max_wait
        while not (has_place := self._free.acquire(blocking=False)) and time.monotonic() < until:  # noqa: ASYNC110 - a semaphore of threads has no event for tasks
            await asyncio.sleep(0.001)
        return self._permit(has_place=has_place)

    def _permit(self, *, has_place: bool) -> object:
        if not has_place:
            self.events.emit("places.refused", self.name, time.monotonic(), "warning", places=self.places)
            raise RejectedError(f"{self.name}: all {self.places} places are taken", policy=self.name)
        self._held.add(permit := object())
        return permit

    def on_success(self, permit: object, _outcome: object, /) -> None:
        """Give the place back."""
        self.on_abandon(permit)

    on_failure = on_success

    def on_abandon(self, permit: object, /) -> None:
        """Give the place back, once. The fast permit has none."""
        with contextlib.suppress(KeyError):
            self._held.remove(permit)
            self._free.release()

    @property
    def is_idle(self) -> bool:
        """Whether `Keyed` may drop this policy: no call has a place, and the limit is in force."""
        return not self._held and self.fast_permit is None

    @property
    def is_refusing(self) -> bool:
        """Whether `Keyed` should keep this policy if it can: a new one would admit calls that this one refuses."""
        return len(self._held) >= self.places

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {"running": len(self._held), "is_lifted": self.fast_permit is not None}


class Pace(PolicyBase):
    """Starts at most one call in `interval` seconds; the other calls wait for their turn."""

    kind = "pace"
    may_wait = True  # `admit` may return `Wait`

    def __init__(self, interval: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval, self._clock, self._next = interval, clock, clock()
        self._lock = threading.Lock()

    def bind(self, policies: tuple[Any, ...]) -> None:
        """Refuse to stand outside of a policy that retries: only the first attempt would wait for its turn."""
        records = [Steps.of(policy) for policy in policies]
        position = [steps.policy for steps in records].index(self)
        for steps in records[position + 1 :]:
            if steps.retries:
                raise ConfigurationError(f"{self.name!r} must stand after {steps.name!r}, to pace every attempt")

    def admit(self) -> Wait:
        """Take the next turn; the engine sleeps until then. A call cancelled during the sleep loses its turn."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._interval
        return Wait(turn - now, None)


class AskAgain(PolicyBase):
    """Makes a call again after an `OSError`, or until `is_ready(result)`; awaits `repair`, such as a login, before."""

    kind = "ask_again"
    retries = True  # a verdict may be `RetryAfter`

    def __init__(self, attempts: int = 2, *, is_ready: Call | None = None, repair: Repair | None = None) -> None:
        super().__init__()
        self.awaits = repair is not None  # a verdict may be `Pending`: no blocking call is guarded
        self._attempts, self._is_ready, self._repair = attempts, is_ready, repair

    def admit(self) -> int:
        """Admit every call. The permit is the number of attempts that the call has left."""
        return self._attempts

    def on_success(self, permit: int, result: object, /) -> Verdict:
        """Ask again if the answer is not ready. `NO_RESULT` is no answer: a generator or a block has ended."""
        is_ready = self._is_ready is None or result is NO_RESULT or self._is_ready(result)
        return None if is_ready else self._ask_again(permit)

    def on_failure(self, permit: int, error: Exception, /) -> Verdict:
        """Ask again, unless the caller's deadline ended the call."""
        return self._ask_again(permit) if isinstance(error, OSError) and not cut_off_by_caller(error) else None

    def _ask_again(self, attempts_left: int) -> Verdict:
        if attempts_left <= 1:
            return None
        again = RetryAfter(0.0, attempts_left - 1)
        return again if self._repair is None else Pending(self._repaired(self._repair, again))

    async def _repaired(self, repair: Repair, again: RetryAfter) -> Decision:
        await repair()  # its error, if it fails, reaches the caller; the engine abandons the permit
        return again

    def no_more_attempts(self, _permit: int, /) -> int:
        """Return the permit of a last attempt: the generator has yielded items and cannot be started again."""
        return 1


class LastAnswer(Named):
    """Answers a failed call by the last result for the same arguments. It keeps all results: let these be few."""

    kind = "last_answer"
    accepts_leading_args = True  # in `pipeline.call(fn, ...)` the first argument is the function

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self._known: dict[Hashable, Any] = {}

    def around(self, call: Call, /, *, leading_args: int = 0, is_nested: bool = False) -> Call:
        """Return a function that makes a blocking call."""

        def answered(*args: Any, **kwargs: Any) -> Any:
            key = (args[leading_args:], frozenset(kwargs.items()))
            try:
                result = call(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the last answer stands for any failure
                return self._answer(key, error, is_nested=is_nested)
            if not inspect.isawaitable(result):  # the engine makes such calls through `around_async`
                self._known[key] = result
            return result

        return answered

    def around_async(self, call: Call, /, *, leading_args: int = 0, is_nested: bool = False) -> AwaitedCall:
        """Return a function that makes an awaited call."""

        async def answered(*args: Any, **kwargs: Any) -> Any:
            key = (args[leading_args:], frozenset(kwargs.items()))
            try:
                self._known[key] = result = await call(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the last answer stands for any failure
                return self._answer(key, error, is_nested=is_nested)
            return result

        return answered

    around_nested = partialmethod(around, is_nested=True)  # used if other policies stand outside
    around_nested_async = partialmethod(around_async, is_nested=True)
    scope = contextlib.nullcontext  # an `async with` block has no result: it runs as it is

    def _answer(self, key: Hashable, error: Exception, *, is_nested: bool) -> Any:
        """Return the answer. In a nested policy, raise it: the policies outside count the error."""
        if key not in self._known:
            raise error
        if is_nested:
            raise Substitute(self._known[key], error=error) from error
        return self._known[key]


class OneThread(Named):
    """Makes all blocking calls in one thread, for a library that is not thread-safe. Do not nest such calls."""

    kind = "one_thread"

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self._executor = ThreadPoolExecutor(max_workers=1)

    def around(self, call: Call, /) -> Call:
        """Block the caller until the thread has made the call."""
        return lambda *args, **kwargs: self._executor.submit(copy_context().run, call, *args, **kwargs).result()

    def run_in_threads(self, call: Call, /) -> AwaitedCall:
        """Suspend the caller until the thread has made the call. The policies inside run in the thread as well."""

        async def made(*args: Any, **kwargs: Any) -> Any:
            loop = running_loop(self)  # before the thread begins the call
            return await loop.run_in_executor(self._executor, partial(copy_context().run, call, *args, **kwargs))

        return made

    def around_async(self, _call: Call, /) -> AwaitedCall:
        """Refuse: the engine has `run_in_threads`."""
        raise ConfigurationError(f"{self.name!r} cannot run a coroutine in its thread")

    def applies_to(self, fn: object) -> bool:
        """Leave coroutine functions out: they run in the thread of their loop. Asked when a function is wrapped."""
        return not inspect.iscoroutinefunction(fn)


@dataclass
class PlanSlot:
    """The places of one plan, and the calls that the engine has compiled with them."""

    policy: Places
    compiled: dict[Any, Call] = field(default_factory=dict)


class PlacesByPlan(Named):
    """Gives each plan of your customers its own places. A call whose `plan_of(...)` is unknown uses the first plan."""

    kind = "places_by_plan"

    def __init__(self, plan_of: Callable[..., str], plans: Mapping[str, int]) -> None:
        super().__init__()
        self._plan_of, self.events = plan_of, Emitter()
        self._slots = {plan: PlanSlot(Places(places, events=self.events)) for plan, places in plans.items()}
        self._first = next(iter(self._slots.values()))
        self.template = self._first.policy  # the engine reads its steps, which are those of each plan

    def slot(self, /, *args: Any, **kwargs: Any) -> PlanSlot:
        """Return the slot of the plan."""
        return self._slots.get(self._plan_of(*args, **kwargs), self._first)

    def join(self, pipeline: str) -> None:
        """Take a name from the pipeline, and give each plan a name of its own."""
        super().join(pipeline)
        for plan, slot in self._slots.items():
            slot.policy.name = f"{self.name}.{plan}"

    def describe(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return super().describe() | {"options": {plan: slot.policy.places for plan, slot in self._slots.items()}}

    def snapshot(self) -> dict[str, Any]:
        """Return the state of each plan as plain data."""
        return {plan: slot.policy.snapshot() for plan, slot in self._slots.items()}


def ignoring(policy: Policy | AroundPolicy | KeyedPolicy | Steps, *errors: type[Exception]) -> Steps:
    """Return `policy`, changed to give its permit back after these errors: it counts none of them and retries none."""

    def adapt(steps: Steps) -> Steps:
        def on_failure(permit: Any, error: Exception, /) -> Verdict:
            if not isinstance(error, errors):
                return steps.on_failure(permit, error)
            steps.on_abandon(permit)
            return None

        return replace(steps, on_failure=on_failure)

    return Steps.of(policy).adapted(adapt)  # if it is one policy for each key: the policy of each key
