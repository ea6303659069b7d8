"""The blocking driver. Each policy of a chain becomes one closure, once; calls run through the closures.

`_guard` and its twin in `_aio.py` are the same loop; the conformance suite runs both over the same cases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from resilience._engine._colour import Defer, ReturnedAwaitable
from resilience._engine._keyed_call import by_key
from resilience._engine._steps import TRANSPARENT, Steps
from resilience.clock import SYSTEM_SLEEPER
from resilience.events import Emitter
from resilience.policy import Replace, Substitute, Wait
from resilience.running import warn_if_loop_waits

__all__ = ("Sleep", "admission", "compile_sync", "held")

P = ParamSpec("P")
R = TypeVar("R")
Sleep = Callable[[float], object]


def _plain(result: object) -> type:
    """Return the type of `result`, so that the next result of this type is not checked again."""
    kind = type(result)
    if hasattr(kind, "__await__"):
        raise ReturnedAwaitable(result)
    return kind


def compile_sync(
    policies: tuple[Steps, ...], fn: Callable[P, R], sleep: Sleep, defer: Defer, *, is_part: bool = False
) -> Callable[P, R]:
    """Compose `policies`, first one outermost, around the blocking function `fn`.

    `is_part`: a chain of other policies stands outside, and unpacks substitutes for the caller.
    """
    call = fn
    for position, steps in reversed(list(enumerate(policies))):
        call = _compose(steps, call, sleep, None if position else defer, is_nested=is_part or position > 0)
    if not policies or policies[0].owns_call:  # a closure of the driver must see if the function returns an awaitable
        call = _guard(TRANSPARENT, call, sleep, defer)
    return _delivering(call) if not is_part and any(steps.may_substitute for steps in policies[1:]) else call


def _compose(
    steps: Steps, inner: Callable[P, R], sleep: Sleep, defer: Defer | None, *, is_nested: bool
) -> Callable[P, R]:
    if steps.slot is not None:
        deferred = None if steps.owns_call else defer
        return by_key(steps, lambda known: _compose(known, inner, sleep, None, is_nested=is_nested), deferred)
    if steps.around is None:
        if steps.retries and Emitter.observer is not None:
            return Emitter.observer.trace_attempts(
                steps.policy, inner, lambda attempt: _guard(steps.blocking(), attempt, sleep, defer)
            )
        return _guard(steps.blocking(), inner, sleep, defer)
    around = steps.around_nested if is_nested and steps.around_nested is not None else steps.around
    return around(inner)


def _delivering(inner: Callable[P, R]) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return inner(*args, **kwargs)
        except Substitute as given:
            return given.value  # type: ignore[no-any-return]  # the stand-in has the type of the function's result

    return call


def admission(steps: Steps, sleep: Sleep) -> Callable[[], object] | None:
    """Return the admission of a blocking call, which sleeps if the policy asks for it; None if it admits all."""
    if steps.admit_blocking is not None:
        return steps.admit_blocking
    ask = steps.admit
    if ask is None or not steps.may_wait:
        return ask
    interrupted = steps.on_interrupt

    def admit() -> object:
        permit = ask()
        try:
            if type(permit) is Wait:
                permit, after = permit.permit, permit.after
                held(steps, permit, after, sleep)
        except BaseException:
            interrupted(permit)
            raise
        return permit

    return admit


def held(steps: Steps, permit: object, after: float, sleep: Sleep) -> object:
    """Sleep while the call holds `permit`; an interrupt of the sleep gives it back."""
    if after > 0:
        try:
            if sleep == SYSTEM_SLEEPER.sleep:
                warn_if_loop_waits(steps.policy, after)
            sleep(after)
        except BaseException:
            steps.on_abandon(permit)
            raise
    return permit


def _guard(steps: Steps, inner: Callable[P, R], sleep: Sleep, defer: Defer | None) -> Callable[P, R]:
    """Return `inner` guarded by one policy.

    An empty `**kwargs` is not passed on: it would cost a dictionary for each policy of each call. Most functions return
    results of one type: the closure remembers the last type, so that it need not search for awaitables again.
    """
    admit, fast, discard = admission(steps, sleep), steps.fast_permit, steps.discard
    on_success, on_failure, on_abandon = steps.on_success, steps.on_failure, steps.on_abandon
    interrupted = steps.on_interrupt
    plain: type = type(None)
    later: Callable[P, R] | None = None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal plain, later
        if later is not None:
            return later(*args, **kwargs)
        permit = fast.fast_permit if fast is not None else None
        if permit is None and admit is not None:
            permit = admit()
        verdict: Any  # never `Pending`: `blocking` refused such policies
        is_settled = False
        try:
            while True:
                try:
                    result = inner(*args, **kwargs) if kwargs else inner(*args)  # type: ignore[call-arg]  # none to pass
                    if type(result) is not plain:
                        plain = _plain(result)
                except Exception as error:
                    verdict = on_failure(permit, error)
                    if verdict is None:
                        is_settled = True
                        raise
                    discard(error, verdict)
                except Substitute as given:
                    verdict = steps.settle(permit, given)
                    if verdict is None:
                        is_settled = True
                        raise
                except BaseException:
                    is_settled = True
                    on_abandon(permit)
                    raise
                else:
                    if on_success is None:
                        return result
                    verdict = on_success(permit, result)
                    if verdict is None:
                        return result
                    del result  # the discarded result must not keep its resources while the call waits
                if isinstance(verdict, Replace):
                    return verdict.value  # type: ignore[no-any-return]  # the replacement has the type of the function's result
                permit, after = verdict.permit, verdict.after
                if after > 0:
                    held(steps, permit, after, sleep)
        except ReturnedAwaitable as signal:
            if defer is None:
                raise
            finish, later = defer(signal.awaitable)
            return finish(*args, **kwargs)  # type: ignore[no-any-return]  # the awaitable form of R
        except BaseException:  # an interrupt before a step or in it; a step that settled the permit did not raise it
            if not is_settled:
                interrupted(permit)
            raise

    return call
