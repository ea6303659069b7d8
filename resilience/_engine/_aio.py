"""The awaiting driver: `_sync.py` with `await` where the inner function and the sleep are."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from resilience._engine._keyed_call import by_key
from resilience._engine._steps import TRANSPARENT, Steps
from resilience.clock import SYSTEM_SLEEPER
from resilience.events import Emitter
from resilience.policy import Decision, Pending, Replace, RetryAfter, Substitute, Verdict, Wait
from resilience.running import running_loop

__all__ = ("AwaitingSleep", "admitted", "compile_async", "decided", "finish", "held", "resume")

P = ParamSpec("P")
R = TypeVar("R")
AwaitingSleep = Callable[[float], Awaitable[object]]
AsyncCall = Callable[P, Coroutine[Any, Any, R]]


def compile_async(
    policies: tuple[Steps, ...], fn: Callable[P, Any], sleep: AwaitingSleep, within: tuple[Steps, ...] = ()
) -> Callable[P, Coroutine[Any, Any, Any]]:
    """Compose `policies`, first one outermost, around `fn`, whose result is awaited.

    `within` are the policies inside `fn`, which run in a thread.
    """
    call: Callable[P, Coroutine[Any, Any, Any]] = fn
    for position, steps in reversed(list(enumerate(policies))):
        call = _compose(steps, call, sleep, is_nested=position > 0)
    if call is fn:
        call = _guard(TRANSPARENT, call, sleep)
    elif policies[0].slot is not None:
        call = _awaiting(call)
    return _delivering(call) if any(steps.may_substitute for steps in (*policies[1:], *within)) else call


def _compose(
    steps: Steps, inner: Callable[P, Awaitable[R]], sleep: AwaitingSleep, *, is_nested: bool
) -> AsyncCall[P, R]:
    if steps.slot is not None:
        return by_key(steps, lambda known: _compose(known, inner, sleep, is_nested=is_nested))
    if steps.around_async is None:
        if steps.retries and Emitter.observer is not None:
            trace = Emitter.observer.trace_attempts
            return cast("AsyncCall[P, R]", trace(steps.policy, inner, lambda attempt: _guard(steps, attempt, sleep)))
        return _guard(steps, inner, sleep)
    nested = steps.around_nested_async
    around = nested if is_nested and nested is not None else steps.around_async
    return around(inner)


def _awaiting(inner: Callable[P, Awaitable[R]]) -> AsyncCall[P, R]:
    """Return a coroutine function that calls `inner`, a plain function that picks a coroutine function by key."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await (inner(*args, **kwargs) if kwargs else inner(*args))  # type: ignore[call-arg]  # none to pass

    return call


def _delivering(inner: AsyncCall[P, R]) -> AsyncCall[P, R]:
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await inner(*args, **kwargs)
        except Substitute as given:
            return given.value  # type: ignore[no-any-return]  # the stand-in has the type of the function's result

    return call


_begun: ContextVar[tuple[Any, list[Any]] | None] = ContextVar("resilience_begun", default=None)
"""The resumed call whose first attempt the blocking chain has made, and the awaitable, until the call takes it."""


def resume(fn: Callable[P, Any]) -> AsyncCall[P, Any]:
    """Return a coroutine function for a plain function: it awaits the result if that is an awaitable."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        begun = _begun.get()
        is_first = begun is not None and begun[0] is call and begun[1]
        result = begun[1].pop() if begun is not None and is_first else fn(*args, **kwargs)
        return await result if hasattr(type(result), "__await__") else result

    return call


def finish(resumed: AsyncCall[..., Any], guarded: AsyncCall[P, Any], awaitable: Any) -> AsyncCall[P, Any]:
    """Return `guarded`, a chain around `resumed`, for the call whose first attempt returned `awaitable`."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        before, first = _begun.get(), [awaitable]
        _begun.set((resumed, first))
        try:
            return await guarded(*args, **kwargs)
        finally:
            _begun.set(before)
            if first and inspect.iscoroutine(first[0]):
                first[0].close()  # refused, or answered by a policy: a coroutine that is never awaited would warn

    return call


async def held(steps: Steps, permit: object, after: float, sleep: AwaitingSleep) -> object:
    """Sleep while the call holds `permit`; a cancellation gives it back."""
    if after > 0:
        try:
            if sleep == SYSTEM_SLEEPER.asleep:
                running_loop(steps.policy)  # the sleeper would refuse as well, but its error would not name the policy
            await sleep(after)
        except BaseException:
            steps.on_abandon(permit)
            raise
    return permit


def check_wait(steps: Steps, verdict: Verdict, sleep: AwaitingSleep, error: Exception) -> None:
    """Refuse the wait of a verdict if no asyncio runs here, with the failure of the call as the cause."""
    if isinstance(verdict, RetryAfter) and verdict.after > 0 and sleep == SYSTEM_SLEEPER.asleep:
        try:
            running_loop(steps.policy)
        except BaseException as refusal:
            steps.on_abandon(verdict.permit)
            refusal.__cause__ = error
            raise


async def admitted(steps: Steps, sleep: AwaitingSleep) -> object:
    """Return the permit of a call, sleeping first if the policy asks for it."""
    permit = None if steps.fast_permit is None else steps.fast_permit.fast_permit
    if permit is not None:
        return permit
    if steps.admit_awaiting is not None:
        return await steps.admit_awaiting()
    permit = None if steps.admit is None else steps.admit()
    if type(permit) is Wait:
        permit = await held(steps, permit.permit, permit.after, sleep)
    return permit


async def decided(steps: Steps, permit: object, pending: Pending) -> Decision:
    """Await a verdict. If that raises, the policy has settled nothing, and the permit is given back."""
    try:
        return await pending.decision
    except BaseException:
        steps.on_abandon(permit)
        raise


def _guard(steps: Steps, inner: Callable[P, Awaitable[R]], sleep: AwaitingSleep) -> AsyncCall[P, R]:
    admit, admit_awaiting, fast = steps.admit, steps.admit_awaiting, steps.fast_permit
    on_success, on_failure, on_abandon = steps.on_success, steps.on_failure, steps.on_abandon

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        permit = fast.fast_permit if fast is not None else None
        if permit is None:
            if admit_awaiting is not None:
                permit = await admit_awaiting()
            elif admit is not None:
                permit = admit()
                if type(permit) is Wait:
                    permit = await held(steps, permit.permit, permit.after, sleep)
        while True:
            try:
                # Without keywords no dictionary is made, as in the blocking driver.
                result = await (inner(*args, **kwargs) if kwargs else inner(*args))  # type: ignore[call-arg]  # see above
            except Exception as error:
                verdict = on_failure(permit, error)
                if type(verdict) is Pending:
                    verdict = await decided(steps, permit, verdict)
                if verdict is None:
                    raise
                check_wait(steps, verdict, sleep, error)
                steps.discard(error, verdict)
            except Substitute as given:
                verdict = steps.settle(permit, given)
                if type(verdict) is Pending:
                    verdict = await decided(steps, permit, verdict)
                if verdict is None:
                    raise
            except BaseException:
                on_abandon(permit)
                raise
            else:
                if on_success is None:
                    return result
                verdict = on_success(permit, result)
                if type(verdict) is Pending:
                    verdict = await decided(steps, permit, verdict)
                if verdict is None:
                    return result
                del result  # the discarded result must not keep its resources while the call waits
            if isinstance(verdict, Replace):
                return verdict.value  # type: ignore[no-any-return]  # the replacement has the type of the function's result
            permit = await held(steps, verdict.permit, verdict.after, sleep)

    return call
