"""The awaiting driver for async generator functions, and for blocks, which are generators of one item."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, ParamSpec, TypeVar

from resilience._engine._aio import AwaitingSleep, admitted, check_wait, decided, held
from resilience._engine._keyed_call import by_key
from resilience._engine._steps import TRANSPARENT, Steps
from resilience.errors import ConfigurationError
from resilience.policy import NO_RESULT, STARTED, Pending, Replace

__all__ = ("compile_async_block", "compile_async_generator")

P = ParamSpec("P")
Y = TypeVar("Y")
S = TypeVar("S")


def compile_async_generator(
    policies: tuple[Steps, ...], fn: Callable[P, AsyncGenerator[Y, S]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Y, S]]:
    """Compose `policies` around an async generator function; permits are held from its first item to its end."""
    call = fn
    for steps in reversed(policies):
        call = _compose(steps, call, sleep)
    # A plain function picks the generator by key: a generator function around it keeps the colour.
    return _guard_generator(TRANSPARENT, call, sleep) if policies and policies[0].slot is not None else call


def _compose(
    steps: Steps, inner: Callable[P, AsyncGenerator[Y, S]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Y, S]]:
    if steps.slot is not None:
        return by_key(steps, lambda known: _compose(known, inner, sleep))
    return _guard_generator(steps, inner, sleep)


class _Stream(Generic[Y, S]):
    """Forwards send, throw and close to an async generator, one item at a time, as `yield from` does in a generator.

    A generator that is dropped is closed by its event loop. If the loop is closed by then, no code of the generator
    runs any more: the interpreter frees its variables, this object among them, which then abandons the permit.

    The garbage collector may finalize both at once, in any thread, and the event loop closes the generator after that
    all the same. The permit is settled by whichever of the two is first.
    """

    __slots__ = ("_abandon", "_unsettled", "generator", "sent", "started", "thrown")

    generator: AsyncGenerator[Y, S]

    def __init__(self, abandon: Callable[[], object]) -> None:
        self._abandon = abandon
        self._unsettled = [True]
        self.started = False
        self.sent: Any = None  # this starts a generator, whatever S is
        self.thrown: BaseException | None = None

    def __del__(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Abandon the permit, unless it is settled."""
        if self.ended():
            self._abandon()

    async def step(self) -> Y:
        sent, thrown, self.sent, self.thrown = self.sent, self.thrown, None, None
        item = await (self.generator.asend(sent) if thrown is None else self.generator.athrow(thrown))
        if item is not STARTED:
            self.started = True
        return item

    def ended(self) -> bool:
        """Return whether the driver has to settle the permit: True once, unless the permit was abandoned."""
        try:
            self._unsettled.pop()  # atomic: another thread may collect the garbage meanwhile
        except IndexError:
            return False
        return True

    async def close(self) -> None:
        await self.generator.aclose()


def _guard_generator(
    steps: Steps, inner: Callable[P, AsyncGenerator[Y, S]], sleep: AwaitingSleep
) -> Callable[P, AsyncGenerator[Y, S]]:
    on_success, on_failure, on_abandon = steps.on_success, steps.on_failure, steps.on_abandon
    last = steps.no_more_attempts

    async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Y, S]:
        permit = await admitted(steps, sleep)
        while True:
            stream: _Stream[Y, S] = _Stream(functools.partial(on_abandon, permit))
            try:
                stream.generator = inner(*args, **kwargs)  # raises if the arguments do not fit
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
                verdict = None
                if stream.ended():
                    if stream.started and last is not None:
                        permit = last(permit)
                    verdict = None if on_success is None else on_success(permit, NO_RESULT)
                if type(verdict) is Pending:
                    verdict = await decided(steps, permit, verdict)
            except Exception as error:
                if not stream.ended():
                    raise
                if stream.started and last is not None:
                    permit = last(permit)
                verdict = on_failure(permit, error)
                if type(verdict) is Pending:
                    verdict = await decided(steps, permit, verdict)
                if verdict is None:
                    raise
                if not isinstance(verdict, Replace) and stream.started:
                    on_abandon(verdict.permit)  # another attempt would yield the items twice
                    raise
                check_wait(steps, verdict, sleep, error)
                steps.discard(error, verdict)
            except BaseException:
                stream.abandon()
                raise
            if verdict is None or isinstance(verdict, Replace):
                return
            if stream.started:
                on_abandon(verdict.permit)
                return
            permit = await held(steps, verdict.permit, verdict.after, sleep)

    return call


def compile_async_block(
    policies: tuple[Steps, ...], name: str, sleep: AwaitingSleep
) -> Callable[[], AsyncGenerator[None, None]]:
    """Compose `policies` around the body of an `async with`: a generator of one item, entered and left in one task."""
    call = _block
    for steps in reversed(policies):
        if steps.scope is not None:
            call = _scoped(steps.scope, call)
        elif steps.slot is None and not steps.owns_call:
            call = _guard_generator(steps, call, sleep)
        else:
            why = "it has to own the call" if steps.slot is None else "a block has no arguments"
            raise ConfigurationError(f"pipeline {name!r} cannot guard an `async with` block with {steps.name!r}: {why}")
    return call


async def _block() -> AsyncGenerator[None, None]:
    yield


def _scoped(
    scope: Callable[[], AbstractAsyncContextManager[object]], inner: Callable[[], AsyncGenerator[None, None]]
) -> Callable[[], AsyncGenerator[None, None]]:
    async def call() -> AsyncGenerator[None, None]:
        async with scope(), asynccontextmanager(inner)():
            yield

    return call
