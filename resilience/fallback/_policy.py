"""The fallback: what the caller gets instead of an error."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.options import CLOCK, checked
from resilience.policy import Named

__all__ = ("Fallback",)

P = ParamSpec("P")
R = TypeVar("R")
Kinds = type[Exception] | tuple[type[Exception], ...]
_UNSET: Any = object()


class Fallback(Named):
    """Gives the caller `value`, or what `function(error)` returns, where the call raised one of `on`.

    Give exactly one of the two. `function` may be a coroutine function when what it guards is awaited. Cancellation and
    other errors outside `on` pass through; an error raised by `function` keeps the original one as its context.
    """

    kind = "fallback"

    def __init__(
        self,
        value: Any = _UNSET,
        *,
        function: Callable[[Exception], Any] | None = None,
        on: Kinds = Exception,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        if (value is _UNSET) is (function is None):
            raise ConfigurationError("Fallback takes exactly one of value and function")
        if function is not None and not callable(function):
            raise ConfigurationError([Problem("function", function, "a function that takes the error")])
        kinds: tuple[Any, ...] = on if isinstance(on, tuple) else (on,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise ConfigurationError([Problem("on", on, "an Exception class, or a tuple of them")])
        self._value = value
        self._function = function
        self._on = kinds
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.events = Emitter()

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Replace the errors of the blocking `call`."""
        if inspect.iscoroutinefunction(self._function):
            reason = "a coroutine function cannot stand in for a blocking call (wrap_async says that a call is awaited)"
            raise ConfigurationError(f"{self.name}: {reason}")

        def covered(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return call(*args, **kwargs)
            except self._on as error:
                return cast("R", self.instead_of(error))

        return covered

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
        """Replace the errors of the awaiting `call`."""
        from resilience.fallback import _aio  # noqa: PLC0415 - where await may stand

        return _aio.around_async(self, call)

    @property
    def on(self) -> tuple[type[Exception], ...]:
        """The errors that are replaced."""
        return self._on

    def instead_of(self, error: Exception) -> Any:
        """Return what the caller gets instead of `error` (an awaitable where `function` is a coroutine function)."""
        self.events.emit("fallback.used", self.name, self._clock(), "warning", error=error)
        return self._value if self._function is None else self._function(error)

    def __repr__(self) -> str:
        source = f"value={self._value!r}" if self._function is None else f"function={self._function!r}"
        return f"<Fallback {self.name!r} {source}>"
