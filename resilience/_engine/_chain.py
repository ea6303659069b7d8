"""A sequence of policies and every way to run a call through it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CodeType
from typing import Any, ParamSpec, TypeVar, cast, overload

from resilience._engine import _generators, _sync
from resilience._engine._block import GuardedBlock
from resilience._engine._colour import Colour, code_of, colour_of
from resilience._engine._parts import Compiled
from resilience._engine._steps import Member, Steps
from resilience.clock import SYSTEM_SLEEPER, Sleeper
from resilience.errors import ConfigurationError, Problem

__all__ = ("Chain", "GuardedBlock")

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Through = Callable[..., Any]
"""Makes the call: takes the function, then its arguments."""
_ITERATES = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_SUSPENDS = _ITERATES | inspect.CO_COROUTINE


def _apply(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    return fn(*args, **kwargs)


def _hand_back(awaitable: Any) -> tuple[Callable[..., Any], None]:
    """Let whoever runs a blocking call elsewhere see that it was none."""
    return lambda *_args, **_kwargs: awaitable, None


class Chain:
    """`policies`, first one outermost, compiled once per function that is wrapped."""

    def __init__(
        self,
        name: str,
        policies: tuple[Member, ...],
        sleeper: Sleeper = SYSTEM_SLEEPER,
        *,
        through: Through = _apply,
    ) -> None:
        self.name = name
        self.policies = policies
        self._steps = tuple(map(Steps.of, policies))
        self._sleeper = sleeper
        self._through = through
        self._callers: dict[Colour, Callable[..., Any]] = {}
        self._selects = any(steps.applies_to is not None for steps in self._steps)
        self._selections: dict[tuple[bool, ...], Chain] = {}

    def __call__(self, fn: F) -> F:
        """Return `fn` guarded, in its own colour and with its own signature."""
        return self._wrap(fn, None)

    def wrap_through(self, fn: F) -> F:
        """Do the same, and have every call of `fn` made by the `through` this chain was given."""
        return self._wrap(fn, self._through)

    def _wrap(self, fn: F, through: Through | None) -> F:
        if isinstance(fn, staticmethod | classmethod):
            return cast("F", type(fn)(self._wrap(fn.__func__, through)))
        if not callable(fn):
            raise ConfigurationError([Problem(self.name, fn, "a function, method or other callable to guard")])
        inner = fn if through is None else functools.partial(through, fn)
        return cast("F", functools.wraps(fn)(self._serving(fn)._compile(inner, colour_of(fn))))  # noqa: SLF001 - a chain like this one

    def _serving(self, fn: Any) -> Chain:
        """Return the chain of those policies that serve `fn`: each says so itself, once, and most serve everything."""
        if not self._selects:
            return self
        serving = tuple(steps.applies_to is None or steps.applies_to(fn) for steps in self._steps)
        if serving not in self._selections:
            policies = tuple(itertools.compress(self._steps, serving))
            selection = Chain(self.name, policies, self._sleeper, through=self._through)
            selection._selects = False  # done
            self._selections.setdefault(serving, selection)  # another thread may have been first
        return self._selections[serving]

    @overload
    def wrap_async(self, fn: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @overload
    def wrap_async(self, fn: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def wrap_async(self, fn: Callable[P, Any]) -> Callable[P, Coroutine[Any, Any, Any]]:
        """Guard a plain function that returns an awaitable, as the coroutine function it really is.

        `pipeline(fn)` finds out by itself at the first call; this says so from the start.
        """
        return functools.wraps(fn)(self._serving(fn)._compile_async(fn))  # noqa: SLF001 - a chain like this one

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` guarded.

        The result of a coroutine function is to be awaited; a generator is guarded from its first item to its end.
        """
        if self._selects:
            return self._serving(fn).call(fn, *args, **kwargs)
        code = getattr(fn, "__code__", None)  # inlined: most functions have one
        if type(code) is not CodeType:
            code = code_of(fn)
        if code.co_flags & _SUSPENDS:
            return cast("R", self._caller(colour_of(fn))(fn, *args, **kwargs))
        return cast("R", self.plain_caller(fn, *args, **kwargs))

    @overload
    def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...

    @overload
    def acall(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...

    def acall(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of `fn(*args, **kwargs)` guarded; `fn` may also be a plain function.

        Raises `ConfigurationError` for a generator function: what it makes is iterated, not awaited.
        """
        if self._selects:
            return self._serving(fn).acall(fn, *args, **kwargs)
        code = getattr(fn, "__code__", None)
        if type(code) is not CodeType:
            code = code_of(fn)
        if code.co_flags & _ITERATES:
            raise ConfigurationError(
                [Problem(f"{self.name}.acall", fn, "a function to await; `call` guards generators")]
            )
        return self._acaller(fn, *args, **kwargs)

    def guard(self) -> GuardedBlock:
        """Guard a block: `with pipeline.guard():` or `async with pipeline.guard():`.

        A block is no function that could be marked: policies that serve marked functions alone are left out. Raises
        `ConfigurationError` where another one needs to run the block again, replace its outcome or run it elsewhere:
        a `with` block runs once, here.
        """
        chain = self._serving(None)
        for steps in chain._steps:  # noqa: SLF001 - a chain like this one
            if steps.retries:
                reason = "a `with` block runs only once; wrap a function to have it retried"
                raise ConfigurationError(f"pipeline {self.name!r} cannot guard a block with {steps.name!r}: {reason}")
        return GuardedBlock(chain)

    @Compiled
    def plain_caller(self) -> Callable[..., Any]:
        """Guards one call of the plain function it is given, with its arguments."""
        # Every call may bring another function: what one of them returned says nothing about the next.
        return self._compile_sync(self._through, is_one_function=False)

    def _caller(self, colour: Colour) -> Callable[..., Any]:
        if colour not in self._callers:
            self._callers.setdefault(colour, self._compile(self._through, colour, is_one_function=False))
        return self._callers[colour]

    @Compiled
    def _acaller(self) -> Callable[..., Coroutine[Any, Any, Any]]:
        leaves_the_loop = any(steps.run_in_threads is not None for steps in self._steps)
        fn = self._through if leaves_the_loop else _aio().resume(self._through)
        return self._compile_async(fn, is_one_function=False)

    @Compiled
    def _blocking_block(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        def block() -> Generator[None, None, None]:
            yield

        policies = self._settling("`with` block")
        for steps in policies:
            if steps.slot is not None:
                reason = "a block has no arguments to take the key from"
                raise ConfigurationError(f"pipeline {self.name!r} cannot guard a block with {steps.name!r}: {reason}")
        return contextlib.contextmanager(_generators.compile_sync_generator(policies, block, self._sleeper.sleep))

    @Compiled
    def _awaiting_block(self) -> Callable[[], contextlib.AbstractAsyncContextManager[None]]:
        return contextlib.asynccontextmanager(
            _generators_aio().compile_async_block(self._steps, self.name, self._sleeper.asleep)
        )

    def _compile(self, fn: Callable[..., Any], colour: Colour, *, is_one_function: bool = True) -> Callable[..., Any]:
        if colour is Colour.SYNC:
            return self._compile_sync(fn, is_one_function=is_one_function)
        if colour is Colour.ASYNC:
            return self._compile_async(fn, is_one_function=is_one_function)
        policies = self._settling(colour.value, is_one_function=is_one_function)
        if colour is Colour.GENERATOR:
            return _generators.compile_sync_generator(policies, fn, self._sleeper.sleep)
        return cast("Callable[..., Any]", _generators_aio().compile_async_generator(policies, fn, self._sleeper.asleep))

    def _compile_sync(self, fn: Callable[P, R], *, is_one_function: bool = True) -> Callable[P, R]:
        made: list[tuple[Any, Any]] = []  # what shares results or calls has to be one and the same for all of them

        def awaiting() -> tuple[Any, Any]:  # not cached by a decorator: what is inside of one cannot be redirected
            if not made:
                resumed = _aio().resume(fn)
                made.append((resumed, self._compile_async(resumed, is_one_function=is_one_function)))
            return made[0]  # the first, whoever appended it

        def defer(awaitable: Any) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
            resumed, guarded = awaiting()
            return _aio().finish(resumed, guarded, awaitable), guarded if is_one_function else None

        return _sync.compile_sync(self._for(is_one_function=is_one_function), fn, self._sleeper.sleep, defer)

    def _compile_async(
        self, fn: Callable[P, Any], *, is_one_function: bool = True
    ) -> Callable[P, Coroutine[Any, Any, Any]]:
        policies, awaited = self._for(is_one_function=is_one_function), fn
        within: tuple[Steps, ...] = ()
        for position, steps in enumerate(policies):
            if steps.run_in_threads is not None:
                # From here on inwards the call blocks, in a thread of that policy's own.
                policies, within = policies[:position], policies[position + 1 :]
                inner = _sync.compile_sync(within, fn, self._sleeper.sleep, _hand_back, is_part=True)
                awaited = steps.run_in_threads(inner)
                break
        compiled = _aio().compile_async(policies, awaited, self._sleeper.asleep, within)
        return cast("Callable[P, Coroutine[Any, Any, Any]]", compiled)

    def _for(self, *, is_one_function: bool) -> tuple[Steps, ...]:
        """Return the steps; policies that look at arguments have to know if the first one is the function."""
        return self._steps if is_one_function else tuple(steps.per_call() for steps in self._steps)

    def _settling(self, what: str, *, is_one_function: bool = True) -> tuple[Steps, ...]:
        """Return the steps of the policies, none of which owns the call: `what` is entered and left, not called."""
        for steps in self._steps:
            if steps.owns_call:
                reason = f"it has to own the call, which a {what} does not allow"
                raise ConfigurationError(f"pipeline {self.name!r} cannot guard a {what} with {steps.name!r}: {reason}")
        return self._for(is_one_function=is_one_function)


def _aio() -> Any:
    """Import the awaiting driver when something awaits: blocking programs do not pay for asyncio."""
    from resilience._engine import _aio as driver  # noqa: PLC0415 - see above

    return driver


def _generators_aio() -> Any:
    from resilience._engine import _generators_aio as driver  # noqa: PLC0415 - see above

    return driver
