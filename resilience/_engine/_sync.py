"""The blocking driver. Each policy of a chain becomes one closure, once; calls run through the closures.

`_guard` and its twin in `_aio.py` are the same loop; the conformance suite runs both over the same cases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from resilience._engine._parts import (
    Defer,
    Member,
    ReturnedAwaitable,
    blocks,
    by_key,
    decides,
    has_fast_permit,
    is_around,
    is_keyed,
    on_interrupt,
    scored,
    stands_in,
)
from resilience.policy import Policy, PolicyBase, Replace, Substitute, Wait

__all__ = ("Defer", "Sleep", "admission", "compile_sync", "held")

P = ParamSpec("P")
R = TypeVar("R")
Sleep = Callable[[float], object]


def _plain(result: object) -> type:
    """Return the type of `result`, to be remembered as one that needs no second look."""
    kind = type(result)
    if hasattr(kind, "__await__"):
        raise ReturnedAwaitable(result)
    return kind


def compile_sync(
    policies: tuple[Member, ...], fn: Callable[P, R], sleep: Sleep, defer: Defer, *, is_part: bool = False
) -> Callable[P, R]:
    """Compose `policies`, first one outermost, around the blocking function `fn`.

    `is_part`: others stand around them, and deliver to the caller.
    """
    call = fn
    for position, policy in reversed(list(enumerate(policies))):
        call = _compose(policy, call, sleep, None if position else defer, is_inner=is_part or position > 0)
    if not policies or not _sees_results(policies[0]):
        call = _guard(PolicyBase(), call, sleep, defer)
    return _delivering(call) if not is_part and stands_in(policies[1:]) else call


def _sees_results(policy: Member) -> bool:
    """Whether `policy` is guarded by a closure of ours, which finds out that the function has returned an awaitable."""
    return not is_around(policy.template if is_keyed(policy) else policy)


def _compose(
    policy: Member, inner: Callable[P, R], sleep: Sleep, defer: Defer | None, *, is_inner: bool
) -> Callable[P, R]:
    if is_keyed(policy):
        deferred = defer if _sees_results(policy) else None
        return by_key(policy, lambda known: _compose(known, inner, sleep, None, is_inner=is_inner), deferred)
    if not is_around(policy):
        return _guard(blocks(cast("Policy", policy)), inner, sleep, defer)
    around: Callable[[Callable[P, R]], Callable[P, R]] = policy.around
    return getattr(policy, "around_nested", around)(inner) if is_inner else around(inner)


def _delivering(inner: Callable[P, R]) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return inner(*args, **kwargs)
        except Substitute as given:
            return given.value  # type: ignore[no-any-return]  # a fallback's word stands for the function's

    return call


def admission(policy: Policy, sleep: Sleep) -> Callable[[], Any] | None:
    """Return what admits a call, sleeping where the policy says so, or None where there is nothing to ask."""
    if getattr(policy, "waits", False):
        blocking: Callable[[], Any] = policy.admit_blocking  # type: ignore[attr-defined]  # a WaitingPolicy: it `waits`
        return blocking
    if not getattr(policy, "may_wait", False):
        return decides(policy, "admit")

    interrupted = on_interrupt(policy)

    def admit() -> Any:
        permit = policy.admit()
        try:
            if type(permit) is Wait:
                permit, after = permit.permit, permit.after
                held(policy, permit, after, sleep)
        except BaseException:
            interrupted(permit)
            raise
        return permit

    return admit


def held(policy: Policy, permit: Any, after: float, sleep: Sleep) -> Any:
    """Sleep while holding `permit`; whatever interrupts the sleep gives it back."""
    if after > 0:
        try:
            sleep(after)
        except BaseException:
            policy.on_abandon(permit)
            raise
    return permit


def _guard(policy: Policy, inner: Callable[P, R], sleep: Sleep, defer: Defer | None) -> Callable[P, R]:
    """Return `inner` guarded by one policy.

    An empty `**kwargs` is not passed on: it would cost a dictionary for each policy of each call. Most functions return
    one type: remembering it makes the search for awaitables cheap. No verdict is `Pending`: `blocks` refused these.
    """
    admit, on_success, on_abandon = admission(policy, sleep), decides(policy, "on_success"), policy.on_abandon
    interrupted, standing = on_interrupt(policy), policy if has_fast_permit(policy) else None
    plain: type = type(None)
    later: Callable[P, R] | None = None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal plain, later
        if later is not None:
            return later(*args, **kwargs)
        permit = standing.fast_permit if standing is not None else None
        if permit is None and admit is not None:
            permit = admit()
        is_settled = False
        try:
            while True:
                try:
                    result = inner(*args, **kwargs) if kwargs else inner(*args)  # type: ignore[call-arg]  # none to pass
                    if type(result) is not plain:
                        plain = _plain(result)
                except (Exception, Substitute) as error:
                    verdict = scored(policy, permit, error)
                    is_settled = verdict is None
                    if is_settled:
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
                    del result  # an unwanted result must not live on, with what it holds, while the call waits
                if isinstance(verdict, Replace):
                    return verdict.value  # type: ignore[no-any-return]  # a policy's word stands for the function's
                permit = held(policy, verdict.permit, verdict.after, sleep)
        except ReturnedAwaitable as signal:
            if defer is None:
                raise
            finish, later = defer(signal.awaitable)
            return finish(*args, **kwargs)  # type: ignore[no-any-return]  # the awaitable form of R
        except BaseException:  # an interrupt on the way to a step or in it: a step that has settled did not raise it
            if not is_settled:
                interrupted(permit)
            raise

    return call
