"""A sequence of policies, and every way to run a call or a block through it.

A chain compiles its policies around a function when the function is wrapped, and then runs only the compiled call.
`pipeline.call(fn, ...)` may bring another function each time: for each kind of function the chain compiles one call
that takes the function as its first argument, and keeps it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from types import CodeType, FunctionType, TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast, overload

from resilience._engine import _aio, _generators, _generators_aio, _sync
from resilience._engine._colour import Colour, code_of, colour_of
from resilience._engine._misuse import check_function, no_function
from resilience._engine._steps import AwaitedCall, Call, Member, Steps
from resilience.clock import SYSTEM_SLEEPER, Sleeper
from resilience.errors import ConfigurationError, Problem

__all__ = ("Chain", "GuardedBlock")

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
T = TypeVar("T")
F = TypeVar("F", bound=Call)
_ITERATES = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_SUSPENDS = _ITERATES | inspect.CO_COROUTINE
_NOT_ENTERED = "the guard was left without having been entered"


def _apply(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    return fn(*args, **kwargs)


def _hand_back(awaitable: Awaitable[object]) -> tuple[Call, None]:
    """Return the awaitable that a blocking call returned, so that the thread pool around it can refuse it."""
    return lambda *_args, **_kwargs: awaitable, None


class _Compiled(Generic[C, T]):
    """A property that is made at its first use and kept. Threads that use it first at the same time get the same value.

    `functools.cached_property` gives each of these threads its own value since Python 3.12. Policies that share results
    or calls would then share less.
    """

    def __init__(self, make: Callable[[C], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, chain: None, owner: type, /) -> Self: ...

    @overload
    def __get__(self, chain: C, owner: type, /) -> T: ...

    def __get__(self, chain: C | None, owner: type, /) -> Self | T:
        # Python looks into the instance first: from then on the property costs no call.
        return self if chain is None else cast("T", vars(chain).setdefault(self._name, self._make(chain)))


class Chain:
    """Policies around calls, compiled once for each function that is wrapped.

    Args:
        name: The name of the pipeline, for error texts.
        policies: The policies, or their `Steps`; the first one is outermost.
        sleeper: Sleeps between attempts and before a call that waits for its turn.
        through: Makes each call of the functions wrapped by `wrap_through`; it takes the function and its arguments.
    """

    def __init__(
        self, name: str, policies: tuple[Member, ...], sleeper: Sleeper = SYSTEM_SLEEPER, *, through: Call = _apply
    ) -> None:
        self.name = name
        self.policies = policies
        self._steps = tuple(map(Steps.of, policies))
        self._sleeper = sleeper
        self._through = through
        self._callers: dict[Colour, Call] = {}
        self._selects = any(steps.applies_to is not None for steps in self._steps)
        self._selections: dict[tuple[bool, ...], Chain] = {}
        self._direct: weakref.WeakSet[Call] | None = None  # most chains have no listeners to come later

    def __call__(self, fn: F, /) -> F:
        """Return `fn` guarded, in its own colour and with its own signature."""
        return self._wrap(fn, None)

    def wrap_through(self, fn: F) -> F:
        """Return `fn` guarded; the `through` of this chain makes each of its calls."""
        return self._wrap(fn, self._through)

    def wrap_direct(self, fn: F) -> F:
        """Return `fn` guarded, with one step less in each call until `reroute` is called."""
        guarded = self._wrap(fn, None)
        function: object = guarded
        if isinstance(function, staticmethod | classmethod):
            function = function.__func__
        if self._direct is None:
            self._direct = weakref.WeakSet()
        self._direct.add(cast("Call", function))
        return guarded

    def reroute(self) -> None:
        """Make all later calls of the functions wrapped by `wrap_direct` through the `through` of this chain."""
        for guarded in list(self._direct or ()):
            fn: Call = vars(guarded)["__wrapped__"]
            _rebind(guarded, fn, functools.partial(self._through, fn), set())
        self._direct = None

    def _wrap(self, fn: F, through: Call | None) -> F:
        if isinstance(fn, staticmethod | classmethod):
            return cast("F", type(fn)(self._wrap(fn.__func__, through)))
        check_function(self.name, fn)
        inner = fn if through is None else functools.partial(through, fn)
        return cast("F", functools.wraps(fn)(self._for(fn)._compile(inner, colour_of(fn))))  # noqa: SLF001 - a chain like this one

    def _for(self, fn: object) -> Chain:
        """Return the chain of the policies that apply to `fn`. Each policy is asked when a function is wrapped."""
        if not self._selects:
            return self
        applying = tuple(steps.applies_to is None or steps.applies_to(fn) for steps in self._steps)
        if applying not in self._selections:
            policies = tuple(itertools.compress(self._steps, applying))
            selection = Chain(self.name, policies, self._sleeper, through=self._through)
            selection._selects = False  # the policies have been asked
            self._selections.setdefault(applying, selection)  # another thread may have been first
        return self._selections[applying]

    @overload
    def wrap_async(self, fn: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @overload
    def wrap_async(self, fn: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def wrap_async(self, fn: Callable[P, Any]) -> Callable[P, Coroutine[Any, Any, Any]]:
        """Return a guarded coroutine function for a plain function that returns an awaitable.

        `pipeline(fn)` finds out at the first call that `fn` returns an awaitable.
        """
        if not callable(fn):
            raise no_function(self.name, "wrap_async", fn)
        return functools.wraps(fn)(self._for(fn)._compile_async(fn))  # noqa: SLF001 - a chain like this one

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` guarded.

        Await the result of a coroutine function. A generator is guarded from its first item to its end.
        """
        if self._selects:
            return self._for(fn).call(fn, *args, **kwargs)
        code = getattr(fn, "__code__", None)  # inlined: most functions have one
        if type(code) is not CodeType:
            if not callable(fn):
                raise no_function(self.name, "call", fn)
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

        Raises:
            ConfigurationError: `fn` is a generator function: its items are iterated, not awaited.
        """
        if self._selects:
            return self._for(fn).acall(fn, *args, **kwargs)
        code = getattr(fn, "__code__", None)
        if type(code) is not CodeType:
            if not callable(fn):
                raise no_function(self.name, "acall", fn)
            code = code_of(fn)
        if code.co_flags & _ITERATES:
            raise ConfigurationError(
                [Problem(f"{self.name}.acall", fn, "a function to await; `call` guards generators")]
            )
        return self._acaller(fn, *args, **kwargs)

    def guard(self) -> GuardedBlock:
        """Guard a block: `with pipeline.guard():` or `async with pipeline.guard():`.

        Policies that apply only to marked functions are left out, because a block cannot be marked.

        Raises:
            ConfigurationError: A policy has to run the block again, replace its outcome or run it elsewhere. A `with`
                block runs once, here.
        """
        chain = self._for(None)
        for steps in chain._steps:  # noqa: SLF001 - a chain like this one
            if steps.retries:
                raise self._refused("block", steps, "a `with` block runs only once; wrap a function to have it retried")
        return GuardedBlock(chain)

    @_Compiled
    def plain_caller(self) -> Call:
        """Make a guarded call of the plain function that is the first argument."""
        # Every call may bring another function: the result of one says nothing about the next.
        return self._compile_sync(self._through, is_one_function=False)

    def _caller(self, colour: Colour) -> Call:
        if colour not in self._callers:
            self._callers.setdefault(colour, self._compile(self._through, colour, is_one_function=False))
        return self._callers[colour]

    @_Compiled
    def _acaller(self) -> AwaitedCall:
        leaves_the_loop = any(steps.run_in_threads is not None for steps in self._steps)
        fn = self._through if leaves_the_loop else _aio.resume(self._through)
        return self._compile_async(fn, is_one_function=False)

    @_Compiled
    def _blocking_block(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        def block() -> Generator[None, None, None]:
            yield

        policies = self._settling("`with` block")
        for steps in policies:
            if steps.slot is not None:
                raise self._refused("block", steps, "a block has no arguments to take the key from")
        return contextlib.contextmanager(
            cast(
                "Callable[[], Iterator[None]]", _generators.compile_sync_generator(policies, block, self._sleeper.sleep)
            )
        )

    @_Compiled
    def _awaiting_block(self) -> Callable[[], contextlib.AbstractAsyncContextManager[None]]:
        return contextlib.asynccontextmanager(
            _generators_aio.compile_async_block(self._steps, self.name, self._sleeper.asleep)
        )

    def _compile(self, fn: Call, colour: Colour, *, is_one_function: bool = True) -> Call:
        if colour is Colour.SYNC:
            return self._compile_sync(fn, is_one_function=is_one_function)
        if colour is Colour.ASYNC:
            return self._compile_async(fn, is_one_function=is_one_function)
        policies = self._settling(colour.value, is_one_function=is_one_function)
        if colour is Colour.GENERATOR:
            return _generators.compile_sync_generator(policies, fn, self._sleeper.sleep)
        return _generators_aio.compile_async_generator(policies, fn, self._sleeper.asleep)

    def _compile_sync(self, fn: Callable[P, R], *, is_one_function: bool = True) -> Callable[P, R]:
        made: list[tuple[AwaitedCall, AwaitedCall]] = []  # policies that share results or calls need one and the same

        def awaiting() -> tuple[AwaitedCall, AwaitedCall]:  # not cached by a decorator: `_rebind` looks into closures
            if not made:
                resumed = _aio.resume(fn)
                made.append((resumed, self._compile_async(resumed, is_one_function=is_one_function)))
            return made[0]  # the same for all threads

        def defer(awaitable: Awaitable[object]) -> tuple[Call, Call | None]:
            resumed, guarded = awaiting()
            return _aio.finish(resumed, guarded, awaitable), guarded if is_one_function else None

        return _sync.compile_sync(self._steps_for(is_one_function=is_one_function), fn, self._sleeper.sleep, defer)

    def _compile_async(self, fn: Call, *, is_one_function: bool = True) -> AwaitedCall:
        policies, awaited = self._steps_for(is_one_function=is_one_function), fn
        within: tuple[Steps, ...] = ()
        for position, steps in enumerate(policies):
            if steps.run_in_threads is not None:
                # From this policy inwards the call blocks, in a thread of the policy.
                policies, within = policies[:position], policies[position + 1 :]
                inner = _sync.compile_sync(within, fn, self._sleeper.sleep, _hand_back, is_part=True)
                awaited = steps.run_in_threads(inner)
                break
        return _aio.compile_async(policies, awaited, self._sleeper.asleep, within)

    def _steps_for(self, *, is_one_function: bool) -> tuple[Steps, ...]:
        return self._steps if is_one_function else tuple(steps.per_call() for steps in self._steps)

    def _settling(self, form: str, *, is_one_function: bool = True) -> tuple[Steps, ...]:
        """Return the steps; refuse policies that own the call: a generator or block suspends itself in between."""
        for steps in self._steps:
            if steps.owns_call:
                raise self._refused(form, steps, f"it has to own the call, which a {form} does not allow")
        return self._steps_for(is_one_function=is_one_function)

    def _refused(self, form: str, steps: Steps, reason: str) -> ConfigurationError:
        return ConfigurationError(f"pipeline {self.name!r} cannot guard a {form} with {steps.name!r}: {reason}")


def _rebind(compiled: Any, known: Call, function: Call, seen: set[int]) -> None:
    """Put `function` in place of `known` into a compiled call: into the closures of the engine that hold `known`.

    A function that a breaker has decorated may get a pybreaker listener later, and announces its calls from then on.
    Other ways have a price. To go through `through` from the start costs each call 125 ns, which is more than half of
    the breaker. To read the function from an object costs each call of every pipeline 3 ns, or 2 %. A setter for each
    closure costs nothing, but stands in six places of the drivers, for an event that few programs have, once.
    """
    for cell in compiled.__closure__ or ():
        held = cell.cell_contents
        if held is known:
            cell.cell_contents = function
        elif (
            isinstance(held, FunctionType)
            and held.__module__.startswith("resilience._engine.")
            and id(held) not in seen
        ):
            _rebind(held, known, function, seen | {id(held)})


class GuardedBlock:
    """A guarded block: `with` or `async with`. Each use admits anew; blocks that overlap need a guard each.

    An interrupt that strikes as `__exit__` begins, before its first instruction, gives the permits back only when the
    interrupt itself is freed: its traceback holds the guard until then.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._entered: Any = None

    def __enter__(self) -> None:
        block = self._occupy(self._chain._blocking_block)  # noqa: SLF001 - the other half of the chain
        try:
            block.__enter__()
        except BaseException:
            self._entered = None
            block.gen.close()  # does nothing, unless an interrupt came when the block was entered
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        block, self._entered = self._entered, None
        try:
            if block is None:
                raise RuntimeError(_NOT_ENTERED)
            return cast("bool | None", block.__exit__(kind, error, traceback))
        finally:
            if block is not None:
                block.gen.close()  # does nothing, unless an interrupt came before the generator went on

    async def __aenter__(self) -> None:
        block = self._occupy(self._chain._awaiting_block)  # noqa: SLF001 - the other half of the chain
        try:
            await block.__aenter__()
        except BaseException:
            self._vacate()
            raise

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, bool | None]:
        return cast("Coroutine[Any, Any, bool | None]", self._vacate().__aexit__(kind, error, traceback))

    def _occupy(self, make: Callable[[], Any]) -> Any:
        if self._entered is not None:  # remembering two blocks would leave the wrong one first
            raise RuntimeError("this guard is in use already; call guard() for each block")
        self._entered = make()
        return self._entered

    def _vacate(self) -> Any:
        block, self._entered = self._entered, None
        if block is None:
            raise RuntimeError(_NOT_ENTERED)
        return block
