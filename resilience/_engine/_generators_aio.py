"""The awaiting driver for async generator functions, and for blocks, which are generators of one item."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ParamSpec, cast

from resilience._engine._aio import AwaitingSleep, admission, decided, held
from resilience._engine._parts import Member, by_key, discard, no_more_attempts
from resilience.errors import ConfigurationError
from resilience.policy import NO_RESULT, STARTED, KeyedPolicy, Pending, Policy, PolicyBase, Replace, ScopedPolicy, Wait

__all__ = ("compile_async_block", "compile_async_generator", "enter")

P = ParamSpec("P")


def compile_async_generator(
    policies: tuple[Policy | KeyedPolicy, ...], fn: Callable[P, AsyncGenerator[Any, Any]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Any, Any]]:
    """Compose `policies` around an async generator function; permits are held from the first item to the end."""
    call = fn
    for policy in reversed(policies):
        call = _compose(policy, call, sleep)
    # A function that picks a generator by key is none itself: one stands before it, so that the colour stays.
    return _guard_generator(PolicyBase(), call, sleep) if policies and isinstance(policies[0], KeyedPolicy) else call


def _compose(
    policy: Policy | KeyedPolicy, inner: Callable[P, AsyncGenerator[Any, Any]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Any, Any]]:
    if isinstance(policy, KeyedPolicy):
        return by_key(policy, lambda known: _compose(cast("Policy", known), inner, sleep))
    return _guard_generator(policy, inner, sleep)


class _Stream:
    """What `yield from` is to a generator, an item at a time: forwards send, throw and close to an async generator.

    A generator that is dropped is closed by its event loop. If the loop is closed by then, no code of the generator
    runs any more: the interpreter frees its variables, this object among them, which then abandons the permit.

    The garbage collector may finalize both at once, in any thread, and the event loop closes the generator after that
    all the same. The permit is settled by whichever of the two is first.
    """

    __slots__ = ("_abandon", "_unsettled", "generator", "sent", "started", "thrown")

    generator: AsyncGenerator[Any, Any]

    def __init__(self, abandon: Callable[[], object]) -> None:
        self._abandon = abandon
        self._unsettled = [True]
        self.started = False
        self.sent: Any = None
        self.thrown: BaseException | None = None

    def __del__(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Abandon the permit, unless it is settled."""
        if self.ended():
            self._abandon()

    async def step(self) -> Any:
        sent, thrown, self.sent, self.thrown = self.sent, self.thrown, None, None
        item = await (self.generator.asend(sent) if thrown is None else self.generator.athrow(thrown))
        if item is not STARTED:
            self.started = True
        return item

    def ended(self) -> bool:
        """Return whether the driver, which has control again, is to settle the permit: it has not been abandoned."""
        try:
            self._unsettled.pop()  # atomic: another thread may collect the garbage meanwhile
        except IndexError:
            return False
        return True

    async def close(self) -> None:
        await self.generator.aclose()


def _guard_generator(
    policy: Policy, inner: Callable[P, AsyncGenerator[Any, Any]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Any, Any]]:
    admit, on_success, on_failure, on_abandon = policy.admit, policy.on_success, policy.on_failure, policy.on_abandon
    admit_awaiting, last = admission(policy), no_more_attempts(policy)

    async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
        permit = admit() if admit_awaiting is None else await admit_awaiting()
        if type(permit) is Wait:
            permit = await held(policy, permit.permit, permit.after, sleep)
        while True:
            stream = _Stream(functools.partial(on_abandon, permit))
            try:
                stream.generator = inner(*args, **kwargs)  # raises for arguments that do not fit
                while True:
                    item = await stream.step()
                    try:
                        stream.sent = yield item
                    except GeneratorExit:
                        await stream.close()
                        raise
                    except BaseException as error:  # noqa: BLE001 - it belongs to the inner generator, which is handed it
                        stream.thrown = error
            except StopAsyncIteration:
                verdict = on_success(permit, NO_RESULT) if stream.ended() else None
                if type(verdict) is Pending:
                    verdict = await decided(policy, permit, verdict)
            except Exception as error:
                if not stream.ended():
                    raise
                permit = last(permit) if stream.started else permit
                verdict = on_failure(permit, error)
                if type(verdict) is Pending:
                    verdict = await decided(policy, permit, verdict)
                if verdict is None:
                    raise
                if not isinstance(verdict, Replace) and stream.started:
                    on_abandon(verdict.permit)  # items are out: another attempt would send them twice
                    raise
                discard(policy, error, verdict)
            except BaseException:
                stream.abandon()
                raise
            if verdict is None or isinstance(verdict, Replace):
                return
            if stream.started:
                on_abandon(verdict.permit)
                return
            permit = await held(policy, verdict.permit, verdict.after, sleep)

    return call


def compile_async_block(
    policies: tuple[Member, ...], name: str, sleep: AwaitingSleep
) -> Callable[[], AsyncGenerator[None, None]]:
    """Compose `policies` around the body of an `async with`: a generator of one item, entered and left in one task."""
    call = _block
    for policy in reversed(policies):
        if isinstance(policy, Policy):
            call = _guard_generator(policy, call, sleep)
        elif isinstance(policy, ScopedPolicy):
            call = _scoped(policy.scope, call)
        else:
            why = "a block has no arguments" if isinstance(policy, KeyedPolicy) else "it has to own the call"
            raise ConfigurationError(
                f"pipeline {name!r} cannot guard an `async with` block with {policy.name!r}: {why}"
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
