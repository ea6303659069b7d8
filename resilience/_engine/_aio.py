"""The awaiting driver: `_sync.py` with `await` where the inner function and the sleep are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from resilience._engine._sync import decides
from resilience.errors import ConfigurationError
from resilience.policy import AroundPolicy, Policy, PolicyBase, Replace, ScopedPolicy, Wait

__all__ = (
    "AwaitingSleep",
    "compile_async",
    "compile_async_block",
    "compile_async_generator",
    "enter",
    "resume",
)

P = ParamSpec("P")
R = TypeVar("R")
AwaitingSleep = Callable[[float], Awaitable[object]]
AsyncCall = Callable[P, Coroutine[Any, Any, R]]


def compile_async(
    policies: tuple[Policy | AroundPolicy, ...], fn: Callable[P, Any], sleep: AwaitingSleep
) -> Callable[P, Coroutine[Any, Any, Any]]:
    """Compose `policies`, first one outermost, around `fn`, whose result is awaited."""
    call: Callable[P, Coroutine[Any, Any, Any]] = fn
    for policy in reversed(policies):
        call = policy.around_async(call) if isinstance(policy, AroundPolicy) else _guard(policy, call, sleep)
    return _guard(PolicyBase(), fn, sleep) if call is fn else call


def resume(fn: Callable[P, Any], first: Any = None) -> AsyncCall[P, Any]:
    """Adapt a plain function that may return an awaitable: whatever it produced is what the caller awaits.

    `first` stands in for the first attempt, where the blocking chain has already made it.
    """

    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        nonlocal first
        result, first = (fn(*args, **kwargs) if first is None else first), None
        return await result if hasattr(type(result), "__await__") else result

    return call


def _admission(policy: Policy) -> Callable[[], Awaitable[Any]] | None:
    """Return the awaiting admission, or None where the plain one does."""
    if getattr(policy, "waits", False):
        awaiting: Callable[[], Awaitable[Any]] = policy.admit_awaiting  # type: ignore[attr-defined]  # WaitingPolicy, decided by `waits`
        return awaiting
    return None


async def _held(policy: Policy, permit: Any, after: float, sleep: AwaitingSleep) -> Any:
    """Sleep while holding `permit`; whatever interrupts the sleep gives it back."""
    if after > 0:
        try:
            await sleep(after)
        except BaseException:
            policy.on_abandon(permit)
            raise
    return permit


def _guard(policy: Policy, inner: Callable[P, Awaitable[R]], sleep: AwaitingSleep) -> AsyncCall[P, R]:
    admit, on_success, admit_awaiting = decides(policy, "admit"), decides(policy, "on_success"), _admission(policy)
    on_failure, on_abandon = policy.on_failure, policy.on_abandon

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if admit_awaiting is not None:
            permit = await admit_awaiting()
        else:
            permit = None if admit is None else admit()
            if type(permit) is Wait:
                permit = await _held(policy, permit.permit, permit.after, sleep)
        while True:
            try:
                # As in the blocking driver: no dictionary where there are no keywords.
                result = await (inner(*args, **kwargs) if kwargs else inner(*args))  # type: ignore[call-arg]  # see above
            except Exception as error:
                verdict = on_failure(permit, error)
                if verdict is None:
                    raise
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
            permit = await _held(policy, verdict.permit, verdict.after, sleep)

    return call


def compile_async_generator(
    policies: tuple[Policy, ...], fn: Callable[P, AsyncGenerator[Any, Any]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Any, Any]]:
    """Compose `policies` around an async generator function; permits are held from the first item to the end."""
    call = fn
    for policy in reversed(policies):
        call = _guard_generator(policy, call, sleep)
    return call


class _Stream:
    """What `yield from` is to a generator, an item at a time: forwards send, throw and close to an async generator."""

    __slots__ = ("_generator", "started")

    def __init__(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generator = generator
        self.started = False

    async def step(self, sent: Any, thrown: BaseException | None) -> Any:
        item = await (self._generator.asend(sent) if thrown is None else self._generator.athrow(thrown))
        self.started = True
        return item

    async def close(self) -> None:
        await self._generator.aclose()


def _guard_generator(
    policy: Policy, inner: Callable[P, AsyncGenerator[Any, Any]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Any, Any]]:
    admit, on_success, on_failure, on_abandon = policy.admit, policy.on_success, policy.on_failure, policy.on_abandon
    admit_awaiting = _admission(policy)

    async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
        permit = admit() if admit_awaiting is None else await admit_awaiting()
        if type(permit) is Wait:
            permit = await _held(policy, permit.permit, permit.after, sleep)
        while True:
            stream = _Stream(inner(*args, **kwargs))
            sent: Any = None
            thrown: BaseException | None = None
            try:
                while True:
                    item = await stream.step(sent, thrown)
                    sent = thrown = None
                    try:
                        sent = yield item
                    except GeneratorExit:
                        await stream.close()
                        raise
                    except BaseException as error:  # noqa: BLE001 - it belongs to the inner generator, which is handed it
                        thrown = error
            except StopAsyncIteration:
                verdict = on_success(permit, None)
                if verdict is None:
                    return
            except Exception as error:
                verdict = on_failure(permit, error)
                if verdict is None:
                    raise
                if not isinstance(verdict, Replace) and stream.started:
                    on_abandon(verdict.permit)  # items are out: another attempt would send them twice
                    raise
            except BaseException:
                on_abandon(permit)
                raise
            if isinstance(verdict, Replace):
                return
            if stream.started:
                on_abandon(verdict.permit)
                return
            permit = await _held(policy, verdict.permit, verdict.after, sleep)

    return call


def compile_async_block(
    policies: tuple[Policy | AroundPolicy, ...], name: str, sleep: AwaitingSleep
) -> Callable[[], AsyncGenerator[None, None]]:
    """Compose `policies` around the body of an `async with`: a generator of one item, entered and left in one task."""
    call = _block
    for policy in reversed(policies):
        if not isinstance(policy, AroundPolicy):
            call = _guard_generator(policy, call, sleep)
        elif isinstance(policy, ScopedPolicy):
            call = _scoped(policy.scope, call)
        else:
            raise ConfigurationError(
                f"pipeline {name!r} cannot guard an `async with` block with {policy.name!r}: it has to own the call"
            )
    return call


async def enter(block: AbstractAsyncContextManager[None], refused: Callable[[], object]) -> None:
    """Enter `block`; tell `refused` where that fails."""
    try:
        await block.__aenter__()
    except BaseException:
        refused()
        raise


async def _block() -> AsyncGenerator[None, None]:
    yield


def _scoped(
    scope: Callable[[], AbstractAsyncContextManager[Any]], inner: Callable[[], AsyncGenerator[None, None]]
) -> Callable[[], AsyncGenerator[None, None]]:
    async def call() -> AsyncGenerator[None, None]:
        async with scope(), asynccontextmanager(inner)():
            yield

    return call
