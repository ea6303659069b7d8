"""pybreaker's interface over our machine: the parameters, methods and properties its users know."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import timedelta
from types import CodeType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

import pybreaker

from resilience.breaker import _aio
from resilience.breaker._classify import Matcher, is_answer
from resilience.breaker._epochs import HalfOpen
from resilience.breaker._hooks import Hooks, has_hooks, label
from resilience.breaker._machine import Machine, Transition
from resilience.breaker._mode import FORCED_OPEN, Mode
from resilience.breaker._options import BreakerOptions
from resilience.clock import Clock
from resilience.errors import ConfigurationError, Problem, leaves
from resilience.options import is_plain_callable

if TYPE_CHECKING:
    from resilience._engine._chain import Chain
    from resilience.breaker._guarded import GuardedStorage
    from resilience.events import Emitter

__all__ = ("Surface",)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Surface(pybreaker.CircuitBreaker):
    """What pybreaker's users call. Deciding is left to the machine, locking and events to the policy."""

    kind: str
    events: Emitter
    _name: str | None
    _clock: Clock
    _excluded: Matcher
    _hooks: Hooks
    _looks_at_success: bool
    """Whether a success has to be more than counted: results are judged, or pybreaker's listeners are there."""
    _machine: Machine
    _mode: Mode | None
    _options: BreakerOptions
    _record_result: Any
    _recorded: Matcher
    _storage: GuardedStorage | None
    name: str  # pyright: ignore[reportIncompatibleMethodOverride]  # narrowed: ours always has one

    def _change(self, change: Callable[[float], Transition | None]) -> None: ...

    def _open_by_hand(self, reason: str, length: float | None) -> None: ...

    def _reconfigure(self, **changes: Any) -> None: ...

    def call(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `func` guarded. A generator function's generator is guarded from its first item to its end."""
        code = getattr(func, "__code__", None)  # `Chain.call`, inlined: this is what pybreaker's users call
        if type(code) is CodeType and not code.co_flags & _SUSPENDS:
            return self._plain_caller(func, *args, **kwargs)  # type: ignore[no-any-return]  # R is what `func` returns
        return self._chain.call(func, *args, **kwargs)

    if TYPE_CHECKING:

        def call_async(  # pyright: ignore[reportIncompatibleMethodOverride]  # pybreaker's is tornado's
            self, func: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]:
            """Call the coroutine function `func` guarded. A plain coroutine function itself; no tornado needed."""
            ...

    else:
        call_async = _aio.call_async

    @contextlib.contextmanager
    def calling(self) -> Generator[None, None, None]:
        """Guard a block: `with breaker.calling():`."""

        def block() -> Generator[None, None, None]:
            yield

        yield from self._chain.call(block)

    @overload  # type: ignore[override]  # pybreaker's makes a function of any kind from whatever it is given
    def __call__(self, func: F, /) -> F: ...

    @overload
    def __call__(self, **call_kwargs: bool) -> Callable[[F], F]: ...

    def __call__(self, *call_args: Any, **call_kwargs: bool) -> Any:
        """Return the function given, guarded in its own colour. `@breaker` and `@breaker()` both work.

        `__pybreaker_call_async=True` says that a plain function returns an awaitable.
        """
        awaits = call_kwargs.pop("__pybreaker_call_async", False)

        def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
            if awaits:
                return self._chain.wrap_async(functools.wraps(func)(functools.partial(self._invoke, func)))
            with self._lock:
                is_heard = bool(self._hooks.listeners)
                guarded: Callable[..., Any] = self._chain.wrap_through(func) if is_heard else self._chain(func)
                if not is_heard:  # a step shorter, until there is somebody to tell
                    self._hooks.keep_silent(guarded)
            return guarded

        return decorate(*call_args) if call_args else decorate

    def open(self) -> bool:
        """Open the circuit for `reset_timeout`, whatever it is now. Never waits for a call in progress."""
        self._open_by_hand("opened by hand", None)
        return self._options.throw_new_error_on_trip

    def half_open(self) -> None:
        """Admit trial calls now."""
        self._change(lambda now: self._machine.half_open("half-opened by hand", now))

    def close(self) -> None:
        """Close the circuit and forget what it counted."""
        self._change(lambda now: self._machine.close("closed by hand", now))

    def is_system_error(self, exception: BaseException) -> bool:
        """Whether `exception` counts as a failure of the dependency; an exception group if an error in it does."""
        if self._excluded.conditions and self._excluded(exception):
            return False
        if isinstance(exception, BaseExceptionGroup) and not self._recorded(exception):
            return any(map(self.is_system_error, leaves(exception)))
        return self._recorded(exception) if self._recorded.conditions else not is_answer(exception)

    def add_excluded_exception(self, exception: Any) -> None:
        """Never count `exception` (a class, or a predicate over the error) as a failure."""
        self._excluded.add(exception)

    @property
    def current_state(self) -> str:
        """`closed`, `open` or `half-open`."""
        mode = self._mode_at(self._clock())
        if mode is not None and (shown := mode.state) is not None:
            return shown
        return self._stored(lambda storage: storage.state, self._machine.epoch.state)

    @property
    def state(self) -> Any:
        """The state object pybreaker knows; its `name` is `current_state`. Assign a state name to change it."""
        return label(self, self.current_state)

    @state.setter
    def state(self, state_str: str) -> None:
        changes = {"open": self.open, "half-open": self.half_open, "closed": self.close}
        if state_str not in changes:
            raise ConfigurationError([Problem("state", state_str, "one of " + ", ".join(changes))])
        changes[state_str]()

    @property
    def fail_counter(self) -> int:
        """Failures that count towards opening: the unbroken run, or those in the window."""
        with self._lock:
            own = self._machine.counts(self._clock()).failures
        return self._stored(lambda storage: storage.counter, own)

    @property
    def success_counter(self) -> int:
        """Trial calls that succeeded in the present half-open phase."""
        epoch = self._machine.epoch
        return self._stored(
            lambda storage: storage.success_counter, epoch.successes if isinstance(epoch, HalfOpen) else 0
        )

    def _stored(self, ask: Callable[[pybreaker.CircuitBreakerStorage], T], own: T) -> T:
        """Return what the storage says, or `own` if there is none or it is away. Must not be called under the lock."""
        guarded = self._storage
        if guarded is None:
            return own
        answer = guarded.run(lambda: ask(guarded.storage), without=own)
        self.events.deliver()  # this may have been the first to find the storage away
        return answer

    @property
    def retry_after(self) -> float | None:
        """Seconds until an open circuit may admit a call; None when it is not open, or is held open for good."""
        with self._lock:
            now = self._clock()
            mode, own = self._mode_at(now), self._machine.retry_after(now)
        if mode is None:
            return own
        return mode.left(now) if mode.word == FORCED_OPEN else None

    def _mode_at(self, now: float) -> Mode | None:
        """Return the mode that is in force; the next call ends one that has run out, and until then nobody sees it."""
        mode = self._mode  # one load
        return None if mode is None or now >= mode.until else mode

    @property
    def fail_max(self) -> int:
        """Consecutive failures that open the circuit; 0 where no number of them alone does."""
        return self._options.consecutive or 0

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._reconfigure(fail_max=number)

    @property
    def reset_timeout(self) -> float:
        """Seconds the circuit stays open."""
        return self._options.reset_timeout

    @reset_timeout.setter
    def reset_timeout(self, timeout: float | str | timedelta) -> None:
        self._reconfigure(reset_timeout=timeout)

    @property
    def success_threshold(self) -> int:
        """Successful trial calls that close the circuit."""
        return self._options.success_threshold

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None:
        self._reconfigure(success_threshold=threshold)

    @property
    def options(self) -> BreakerOptions:
        """What this breaker was told, validated."""
        return self._options

    @property
    def listeners(self) -> tuple[Any, ...]:
        """Every listener, pybreaker's and ours."""
        ours = (known for known in self.events.listeners if known != self._hooks.on_event)
        return (*self._hooks.listeners, *ours)

    def add_listener(self, listener: Any) -> None:
        """Add a `pybreaker.CircuitBreakerListener`, or any callable that takes one `Event`."""
        if has_hooks(listener):
            with self._lock:
                if not self._hooks.listeners:
                    self.events.subscribe(self._hooks.on_event)
                self._looks_at_success = True
                self._hooks.listeners = (*self._hooks.listeners, listener)
                self._hooks.announce(self._invoke)
        elif is_plain_callable(listener):
            self.events.subscribe(listener)
        else:
            expected = "a pybreaker.CircuitBreakerListener, or a function that takes one Event"
            raise ConfigurationError([Problem("listeners", listener, expected)])

    def remove_listener(self, listener: Any) -> None:
        """Take a listener away again."""
        with self._lock:
            self._hooks.listeners = tuple(known for known in self._hooks.listeners if known is not listener)
            if not self._hooks.listeners:
                self.events.unsubscribe(self._hooks.on_event)
                self._looks_at_success = self._record_result is not None
        self.events.unsubscribe(listener)

    @functools.cached_property
    def _chain(self) -> Chain:
        from resilience._engine._chain import Chain  # noqa: PLC0415 - the one step upwards: a breaker on its own

        return Chain(self.name, (cast("Any", self),), through=self._invoke)

    @functools.cached_property
    def _plain_caller(self) -> Callable[..., Any]:
        return self._chain.plain_caller

    def _invoke(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._hooks.listeners:
            self._hooks.before_call(func, *args, **kwargs)
        return func(*args, **kwargs)
