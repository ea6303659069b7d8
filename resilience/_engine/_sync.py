"""The blocking driver. Each policy of a chain becomes one closure, once; calls run through the closures.

`_guard` and its twin in `_aio.py` are the same loop; the conformance suite runs both over the same cases.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

from resilience.policy import AroundPolicy, Policy, PolicyBase, Replace, Wait

__all__ = ("Defer", "Sleep", "compile_sync", "compile_sync_generator", "decides")

P = ParamSpec("P")
R = TypeVar("R")
Sleep = Callable[[float], object]
Defer = Callable[[Any], tuple[Callable[..., Any], Callable[..., Any] | None]]
"""Given the awaitable a plain function returned: how to finish this call, and every later one (None: found anew)."""


class _ReturnedAwaitable(BaseException):
    """A plain function handed back an awaitable: the call has not happened yet, so nothing may be scored."""

    def __init__(self, awaitable: Any) -> None:
        self.awaitable = awaitable


def _plain(result: object) -> type:
    """Return the type of `result`, to be remembered as one that needs no second look."""
    kind = type(result)
    if hasattr(kind, "__await__"):
        raise _ReturnedAwaitable(result)
    return kind


def decides(policy: Policy, step: str) -> Callable[..., Any] | None:
    """Return the method of that name, or None where the policy left it as it was: the step then costs nothing."""
    method: Callable[..., Any] = getattr(policy, step)
    return None if getattr(method, "__func__", None) is getattr(PolicyBase, step) else method


def compile_sync(
    policies: tuple[Policy | AroundPolicy, ...], fn: Callable[P, R], sleep: Sleep, defer: Defer
) -> Callable[P, R]:
    """Compose `policies`, first one outermost, around the blocking function `fn`."""
    call = fn
    for position, policy in reversed(list(enumerate(policies))):
        if isinstance(policy, AroundPolicy):
            call = policy.around(call)
        else:
            call = _guard(policy, call, sleep, defer if position == 0 else None)
    if not policies or isinstance(policies[0], AroundPolicy):
        call = _guard(PolicyBase(), call, sleep, defer)
    return call


def _admission(policy: Policy, sleep: Sleep) -> Callable[[], Any] | None:
    if getattr(policy, "waits", False):
        blocking: Callable[[], Any] = policy.admit_blocking  # type: ignore[attr-defined]  # a WaitingPolicy: it `waits`
        return blocking
    if not getattr(policy, "may_wait", False):
        return decides(policy, "admit")

    def admit() -> Any:
        permit = policy.admit()
        if type(permit) is not Wait:
            return permit
        return _held(policy, permit.permit, permit.after, sleep)

    return admit


def _held(policy: Policy, permit: Any, after: float, sleep: Sleep) -> Any:
    """Sleep while holding `permit`; whatever interrupts the sleep gives it back."""
    if after > 0:
        try:
            sleep(after)
        except BaseException:
            policy.on_abandon(permit)
            raise
    return permit


def _guard(policy: Policy, inner: Callable[P, R], sleep: Sleep, defer: Defer | None) -> Callable[P, R]:
    admit, on_success = _admission(policy, sleep), decides(policy, "on_success")
    on_failure, on_abandon = policy.on_failure, policy.on_abandon
    plain: type = type(None)
    later: Callable[P, R] | None = None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal plain, later
        if later is not None:
            return later(*args, **kwargs)
        permit = None if admit is None else admit()
        while True:
            try:
                # Passing on an empty `**kwargs` would cost a dictionary for each policy of each call.
                result = inner(*args, **kwargs) if kwargs else inner(*args)  # type: ignore[call-arg]  # none to pass
                if type(result) is not plain:  # most functions return one type: remembering it makes the test cheap
                    plain = _plain(result)
            except Exception as error:
                verdict = on_failure(permit, error)
                if verdict is None:
                    raise
            except _ReturnedAwaitable as signal:
                on_abandon(permit)
                if defer is None:
                    raise
                finish, later = defer(signal.awaitable)
                return finish(*args, **kwargs)  # type: ignore[no-any-return]  # the awaitable form of R
            except BaseException:
                on_abandon(permit)
                raise
            else:
                if on_success is None:
                    return result
                verdict = on_success(permit, result)
                if verdict is None:
                    return result
            if isinstance(verdict, Replace):
                return verdict.value  # type: ignore[no-any-return]  # a policy's word stands for the function's
            permit = _held(policy, verdict.permit, verdict.after, sleep)

    return call


class _Progress(Generator[Any, Any, Any]):
    """A generator that remembers whether it has handed over an item: after that, nothing can start it again."""

    def __init__(self, generator: Generator[Any, Any, Any]) -> None:
        self._generator = generator
        self.started = False

    def send(self, value: Any) -> Any:
        item = self._generator.send(value)
        self.started = True
        return item

    def throw(self, *error: Any) -> Any:
        item = self._generator.throw(*error)
        self.started = True
        return item

    def close(self) -> None:
        self._generator.close()


def compile_sync_generator(
    policies: tuple[Policy, ...], fn: Callable[P, Generator[Any, Any, Any]], sleep: Sleep
) -> Callable[P, Generator[Any, Any, Any]]:
    """Compose `policies` around a generator function. A permit is held from the first item asked for to the end."""
    call = fn
    for policy in reversed(policies):
        call = _guard_generator(policy, call, sleep)
    return call


def _guard_generator(
    policy: Policy, inner: Callable[P, Generator[Any, Any, Any]], sleep: Sleep
) -> Callable[P, Generator[Any, Any, Any]]:
    admit, on_success, on_failure, on_abandon = (
        _admission(policy, sleep),
        policy.on_success,
        policy.on_failure,
        policy.on_abandon,
    )

    def call(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
        permit = None if admit is None else admit()
        while True:
            progress = _Progress(inner(*args, **kwargs))
            try:
                result = yield from progress
            except Exception as error:
                verdict = on_failure(permit, error)
                if verdict is None:
                    raise
                if not isinstance(verdict, Replace) and progress.started:
                    on_abandon(verdict.permit)  # items are out: another attempt would send them twice
                    raise
            except BaseException:
                on_abandon(permit)
                raise
            else:
                verdict = on_success(permit, result)
                if verdict is None:
                    return result
                if not isinstance(verdict, Replace) and progress.started:
                    on_abandon(verdict.permit)
                    return result
            if isinstance(verdict, Replace):
                return verdict.value
            permit = _held(policy, verdict.permit, verdict.after, sleep)

    return call
