"""pybreaker's interface over a circuit: its methods, properties, state objects and listener hooks."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable, Generator
from datetime import timedelta
from types import CodeType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeGuard, TypeVar, cast, overload

import pybreaker

from resilience.breaker._circuit import Circuit
from resilience.breaker._failures import Condition, FailureRules
from resilience.breaker._options import BreakerOptions
from resilience.breaker._states import HalfOpen
from resilience.errors import ConfigurationError, Problem, named
from resilience.options import is_plain_callable

if TYPE_CHECKING:
    from resilience._engine._chain import Chain
    from resilience.events import Emitter, Event
    from resilience.policy import Policy

__all__ = ("PybreakerFace",)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Call: TypeAlias = Callable[..., Any]
"""A function with the arguments and the result of the guarded one."""
_log = logging.getLogger("resilience")
_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_HOOKS = ("before_call", "success", "failure", "state_change")
_TRANSITIONS = ("breaker.opened", "breaker.half_opened", "breaker.closed")
_STATES: dict[str, type[pybreaker.CircuitBreakerState]] = {
    pybreaker.STATE_CLOSED: pybreaker.CircuitClosedState,
    pybreaker.STATE_OPEN: pybreaker.CircuitOpenState,
    pybreaker.STATE_HALF_OPEN: pybreaker.CircuitHalfOpenState,
}


def _state_object(breaker: pybreaker.CircuitBreaker, state: str) -> pybreaker.CircuitBreakerState:
    """Return pybreaker's object for `state`. It is only a label: it decides nothing."""
    made = object.__new__(_STATES[state])
    pybreaker.CircuitBreakerState.__init__(made, breaker, state)
    return made


def _has_hooks(listener: object) -> TypeGuard[pybreaker.CircuitBreakerListener]:
    """Return whether `listener` is a pybreaker listener: an instance of its class, or an object with all four hooks."""
    is_one = isinstance(listener, pybreaker.CircuitBreakerListener)
    return is_one or all(callable(getattr(listener, hook, None)) for hook in _HOOKS)


class _ListenerHooks:
    """The pybreaker listeners of one breaker. An error that a listener raises is logged and changes nothing.

    The breaker is held weakly: without a reference cycle its memory is free as soon as it is dropped.
    """

    __slots__ = ("_breaker", "listeners")

    def __init__(self, breaker: pybreaker.CircuitBreaker) -> None:
        self._breaker = weakref.ref(breaker)
        self.listeners: tuple[pybreaker.CircuitBreakerListener, ...] = ()
        """Usually empty: callers check it before they call a hook."""

    def before_call(self, func: Callable[..., object], /, *args: object, **kwargs: object) -> None:
        """Announce an admitted call."""
        self._call_each("before_call", func, *args, **kwargs)

    def success(self) -> None:
        """Report a success."""
        self._call_each("success")

    def failure(self, error: BaseException) -> None:
        """Report a failure that counts."""
        self._call_each("failure", error)

    def on_event(self, event: Event) -> None:
        """Report a change of state."""
        facts = event.facts
        if event.kind in _TRANSITIONS and "shadow" not in facts and facts["before"] != facts["after"]:
            breaker = self._breaker()
            if breaker is not None:
                before, after = (_state_object(breaker, facts[end]) for end in ("before", "after"))
                self._call_each("state_change", before, after)

    def _call_each(self, hook: str, /, *args: object, **kwargs: object) -> None:
        breaker = self._breaker()
        for listener in self.listeners:
            try:
                getattr(listener, hook)(breaker, *args, **kwargs)
            except Exception:  # noqa: BLE001 - an error of a listener must not reach the caller
                _log.exception("pybreaker listener %s failed in %s", named(listener), hook)


class PybreakerFace(pybreaker.CircuitBreaker):
    """pybreaker's interface, over a circuit.

    pybreaker's own constructor is not called: there is no second state, counter or lock beside those of the circuit.
    """

    name: str  # pyright: ignore[reportIncompatibleMethodOverride]  # narrowed: our breakers always have a name
    events: Emitter
    """Delivers the events of the breaker; functions that take one `Event` subscribe here."""

    def __init__(self, circuit: Circuit, failures: FailureRules) -> None:
        self._circuit = circuit
        self.events = circuit.events
        self._failures = failures
        if type(self).is_system_error is not PybreakerFace.is_system_error:
            failures.overriding_rule = self.is_system_error
        self._hooks = _ListenerHooks(self)
        self._checks_successes = failures.record_result is not None
        """Whether a success has to be more than counted: results are checked, or pybreaker listeners are there."""

    # Calls

    def call(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `func` guarded.

        A coroutine function is guarded when its result is awaited. A generator is guarded from its first item to its
        end.

        Args:
            func: The function to call.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Raises:
            CircuitOpenError: The circuit refused the call.
        """
        code = getattr(func, "__code__", None)  # `Chain.call`, inlined: users of pybreaker call this
        if type(code) is CodeType and not code.co_flags & _SUSPENDS:
            return self._plain_caller(func, *args, **kwargs)  # type: ignore[no-any-return]  # R is the type of the result
        return self._chain.call(func, *args, **kwargs)

    async def call_async(  # type: ignore[override]  # pybreaker's takes no keyword `func` for the function
        self, func: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call the coroutine function `func` guarded. Works with asyncio; pybreaker's own method needs tornado.

        Args:
            func: The function to call.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Raises:
            CircuitOpenError: The circuit refused the call.
        """
        return await self._chain.acall(func, *args, **kwargs)

    @contextlib.contextmanager
    def calling(self) -> Generator[None, None, None]:
        """Guard a block: `with breaker.calling():`."""

        def block() -> Generator[None, None, None]:
            yield

        yield from self._chain.call(block)

    @overload  # type: ignore[override]  # pybreaker's returns a plain function, whatever it decorates
    def __call__(self, func: F, /) -> F: ...

    @overload
    def __call__(self, **call_kwargs: bool) -> Callable[[F], F]: ...

    def __call__(self, *call_args: Any, **call_kwargs: bool) -> Any:
        """Decorate a function; `@breaker` and `@breaker()` both work.

        A coroutine function stays a coroutine function, a generator function a generator function, and so on.

        Args:
            *call_args: The function, if the decorator has no parentheses.
            **call_kwargs: `__pybreaker_call_async=True` for a plain function that returns an awaitable.
        """
        awaits = call_kwargs.pop("__pybreaker_call_async", False)

        def decorate(func: Call) -> Call:
            if awaits:
                return self._chain.wrap_async(functools.wraps(func)(functools.partial(self._invoke, func)))
            with self._circuit.lock:
                if self._hooks.listeners:
                    return self._chain.wrap_through(func)
                return self._chain.wrap_direct(func)  # a step shorter, until there is a listener

        return decorate(*call_args) if call_args else decorate

    @functools.cached_property
    def _chain(self) -> Chain:
        from resilience._engine._chain import Chain  # noqa: PLC0415 - the one import upwards: a breaker on its own

        return Chain(self.name, (cast("Policy", self),), through=self._invoke)

    @functools.cached_property
    def _plain_caller(self) -> Call:
        return self._chain.plain_caller

    def _invoke(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        if self._hooks.listeners:
            self._hooks.before_call(func, *args, **kwargs)
        return func(*args, **kwargs)

    # State

    def open(self) -> bool:
        """Open the circuit for `reset_timeout`. Never waits for a running call.

        Returns `throw_new_error_on_trip`, as pybreaker does.
        """
        self._circuit.open("opened by hand")
        return self.options.throw_new_error_on_trip

    def half_open(self) -> None:
        """Admit trial calls from now on."""
        self._circuit.half_open()

    def close(self) -> None:
        """Close the circuit and forget its counts."""
        self._circuit.close()

    @property
    def current_state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return self._circuit.state

    @property
    def state(self) -> Any:
        """Pybreaker's state object, whose `name` is `current_state`. Assign the name of a state to change the state."""
        return _state_object(self, self.current_state)

    @state.setter
    def state(self, state_str: str) -> None:
        changes = {"open": self.open, "half-open": self.half_open, "closed": self.close}
        if state_str not in changes:
            raise ConfigurationError([Problem("state", state_str, "one of " + ", ".join(changes))])
        changes[state_str]()

    @property
    def fail_counter(self) -> int:
        """Failures that count towards opening: the consecutive ones, or those in the window."""
        with self._circuit.lock:
            own = self._circuit.machine.counts(self._circuit.now()).failures
        return self._circuit.stored(lambda storage: storage.counter, own)

    @property
    def success_counter(self) -> int:
        """Successful trial calls in the present half-open phase."""
        epoch = self._circuit.machine.epoch
        own = epoch.successes if isinstance(epoch, HalfOpen) else 0
        return self._circuit.stored(lambda storage: storage.success_counter, own)

    # Settings

    @property
    def options(self) -> BreakerOptions:
        """The options of this breaker, validated."""
        return self._circuit.options

    @property
    def fail_max(self) -> int:
        """Consecutive failures that open the circuit; 0 if no number of them does."""
        return self.options.consecutive or 0

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._circuit.reconfigure(fail_max=number)

    @property
    def reset_timeout(self) -> float:
        """Seconds that the circuit stays open."""
        return self.options.reset_timeout

    @reset_timeout.setter
    def reset_timeout(self, timeout: float | str | timedelta) -> None:
        self._circuit.reconfigure(reset_timeout=timeout)

    @property
    def success_threshold(self) -> int:
        """Successful trial calls that close the circuit."""
        return self.options.success_threshold

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None:
        self._circuit.reconfigure(success_threshold=threshold)

    # Exceptions

    def is_system_error(self, exception: BaseException) -> bool:
        """Return whether `exception` is a failure of the dependency. A subclass may override this method.

        An exception group is a failure if one of its errors is.
        """
        return self._failures.is_failure(exception)

    @property
    def excluded_exceptions(self) -> tuple[Any, ...]:
        """The exception classes and predicates that never count as failures."""
        return tuple(self._failures.excluded.conditions)

    def add_excluded_exception(self, exception: Condition) -> None:
        """Never count `exception` (a class, or a predicate over the error) as a failure."""
        self._failures.excluded.add(exception)

    def remove_excluded_exception(self, exception: Condition) -> None:
        """Count `exception` again. Raises `ValueError` if it is not excluded."""
        self._failures.excluded.conditions.remove(exception)

    # Listeners

    @property
    def listeners(self) -> tuple[Any, ...]:
        """All listeners: pybreaker's, then functions that take an `Event`."""
        ours = (known for known in self.events.listeners if known != self._hooks.on_event)
        return (*self._hooks.listeners, *ours)

    def add_listener(self, listener: Any) -> None:
        """Add a `pybreaker.CircuitBreakerListener`, or a function that takes one `Event`."""
        if _has_hooks(listener):
            with self._circuit.lock:
                if not self._hooks.listeners:
                    self.events.subscribe(self._hooks.on_event)
                self._checks_successes = True
                self._hooks.listeners = (*self._hooks.listeners, listener)
                if "_chain" in vars(self):
                    self._chain.reroute()  # functions that are decorated already announce their calls, too
        elif is_plain_callable(listener):
            self.events.subscribe(listener)
        else:
            expected = "a pybreaker.CircuitBreakerListener, or a function that takes one Event"
            raise ConfigurationError([Problem("listeners", listener, expected)])

    def remove_listener(self, listener: Any) -> None:
        """Remove a listener; does nothing if it is not there."""
        with self._circuit.lock:
            self._hooks.listeners = tuple(known for known in self._hooks.listeners if known is not listener)
            if not self._hooks.listeners:
                self.events.unsubscribe(self._hooks.on_event)
                self._checks_successes = self._failures.record_result is not None
        self.events.unsubscribe(listener)
