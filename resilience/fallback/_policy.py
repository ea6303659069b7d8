"""The fallback: what the caller gets instead of an error, or of a result that will not do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

from resilience._support.matching import Errors, Kinds, known
from resilience._support.notes import annotate
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, named, shown
from resilience.events import Emitter
from resilience.fallback import _sync
from resilience.fallback._alternatives import UNSET, Alternative, alternatives
from resilience.fallback._ending import Ending
from resilience.options import CLOCK, Flag, Opaque, checked, is_plain_callable
from resilience.policy import Named

__all__ = ("Fallback",)

P = ParamSpec("P")
R = TypeVar("R")
_PREDICATE = Opaque(
    "a function of the result that says whether to fall back (not a coroutine function)",
    lambda value: value is None or is_plain_callable(value),
)


class Fallback(Named):
    """Gives the caller a second-best answer where the call raised one of `on`, or returned what `on_result` turns down.

    Give exactly one of `value`, `function` (it takes the error, or the result that was turned down; with `pass_call`
    the call's arguments as well) and `chain` (functions tried in turn, a value at its end). Coroutine functions only
    where the call is awaited. `on` takes Exception classes and predicates; cancellation always passes.

    When every alternative raises, the call's own outcome stands: its error, with a note for each alternative, or its
    result. An alternative that raises `... from` the error it was given has translated it, and that is the answer.
    Policies of the same pipeline outside score what really became of the call, never the stand-in, and no cache among
    them keeps it; to another pipeline around the guarded function the stand-in is a result.
    """

    kind = "fallback"

    def __init__(
        self,
        value: Any = UNSET,
        *,
        function: Callable[..., Any] | None = None,
        chain: Sequence[Any] | None = None,
        on: Kinds = Exception,
        on_result: Callable[[Any], bool] | None = None,
        pass_call: bool = False,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.alternatives: tuple[Alternative, ...] = alternatives(value, function, chain)
        self.on = Errors(on)
        self.on_result: Callable[[Any], bool] | None = checked(on_result, "on_result", _PREDICATE)
        self.pass_call: bool = checked(pass_call, "pass_call", Flag())
        self.accepts_leading_args = self.pass_call
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.events = Emitter()
        self.used = self.exhausted = 0

    def around(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Replace what the blocking `call` comes to."""
        return _sync.around(self._blocking(), call, leading_args)

    def around_nested(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Replace it for the caller; the policies outside still see what it came to."""
        return _sync.around(self._blocking(), call, leading_args, is_inner=True)

    def around_async(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Replace what the awaiting `call` comes to."""
        from resilience.fallback import _aio  # noqa: PLC0415 - where await may stand

        return _aio.around_async(self, call, leading_args)

    def around_nested_async(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Replace it for the caller; the policies outside still see what it came to."""
        from resilience.fallback import _aio  # noqa: PLC0415 - where await may stand

        return _aio.around_async(self, call, leading_args, is_inner=True)

    def _blocking(self) -> Fallback:
        if any(alternative.is_awaited for alternative in self.alternatives):
            reason = "a coroutine function cannot stand in for a blocking call (wrap_async says that a call is awaited)"
            raise ConfigurationError(f"{self.name}: {reason}")
        return self

    def accepts(self, result: Any) -> bool:
        """Whether `result` is the caller's. One that is still to be awaited is no result yet."""
        if self.on_result is None or hasattr(type(result), "__await__"):
            return True
        turned_down = self.on_result(result)
        return not (turned_down and known(self.on_result, turned_down))

    def answered(self, ending: Ending) -> None:
        """Tell that an alternative has answered."""
        self.used += 1
        self.events.emit("fallback.used", self.name, self._clock(), "warning", **ending.facts)

    def gave_up(self, ending: Ending) -> None:
        """Tell that no alternative did, on the error itself and to the listeners."""
        self.exhausted += 1
        if ending.error is not None:
            begins = f"{self.name}: the alternative "
            tried = zip(self.alternatives, ending.failures, strict=True)
            notes = [f"{begins}{alternative.label} failed too: {shown(failure)}" for alternative, failure in tried]
            annotate(ending.error, begins, notes)
        self.events.emit("fallback.exhausted", self.name, self._clock(), "error", **ending.facts)

    def describe(self) -> dict[str, Any]:
        """Return the alternatives and what they stand in for, by name."""
        turned_down = None if self.on_result is None else named(self.on_result)
        labels = [alternative.label for alternative in self.alternatives]
        options = {"alternatives": labels, "on": self.on.names, "on_result": turned_down, "pass_call": self.pass_call}
        return {**super().describe(), "options": options}

    def snapshot(self) -> dict[str, Any]:
        """Return how often an alternative answered, and how often none could."""
        return {"used": self.used, "exhausted": self.exhausted}

    def __repr__(self) -> str:
        first, *more = self.alternatives
        if more:
            labels = ", ".join(alternative.label for alternative in self.alternatives)
            return f"<Fallback {self.name!r} chain=[{labels}]>"
        return f"<Fallback {self.name!r} {'value' if first.function is None else 'function'}={first.label}>"
