"""The fallback policy: an alternative in place of an error, or of a result that is not acceptable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar, cast

from resilience._support.awaiting import CoroutineFunction
from resilience._support.fork import reset_after_test
from resilience._support.matching import Errors, Kinds, known
from resilience._support.measured import Measured, Measurement
from resilience._support.notes import annotate
from resilience._support.user_calls import UserCall, UserCalls, arun, run
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, named, shown
from resilience.events import Emitter
from resilience.fallback._alternatives import UNSET, ReplacedOutcome, alternatives
from resilience.options import CLOCK, Flag, Opaque, checked, is_plain_callable
from resilience.policy import Named, Substitute

__all__ = ("Fallback",)

P = ParamSpec("P")
R = TypeVar("R")
_PREDICATE = Opaque(
    "a function of the result that says whether to fall back (not a coroutine function)",
    lambda value: value is None or is_plain_callable(value),
)
_ADVICE = "wrap_async says that a call is awaited"
_FAILED: Final = object()
"""No alternative answered: the caller gets the outcome of the call."""


class Fallback(Named, Measured):
    """Gives the caller an alternative to an error of `on`, or to a result that `on_result` rejects.

    Give exactly one of `value`, `function` and `chain`. Functions may be coroutine functions if the guarded call is
    awaited. An alternative answers by returning, or by raising an error `from` the error of the call: it has translated
    the error, and the caller gets the new one. Any other exception of an alternative means that it failed, and the next
    one is tried. If all alternatives fail, the caller gets the outcome of the call: the error, with a note for each
    alternative, or the result.

    The other policies of the pipeline see the outcome of the call, not the alternative: a breaker outside counts the
    failure, a retry outside makes another attempt, and a cache outside stores nothing. Another pipeline around the
    guarded function sees the alternative as the result. A cancellation is never replaced.

    Args:
        value: The alternative itself. None is a value.
        function: Called with the error, or with the rejected result; it returns the alternative.
        chain: Functions to try in order; the last element may be a value.
        on: The errors to replace: an `Exception` class, a predicate over the error, or a tuple of them. The default is
            every `Exception`. An exception group is replaced if every error in it is.
        on_result: A predicate over the result; true means that the result is replaced.
        pass_call: Whether functions also get the arguments of the call, after the error or result.
        name: A name for events and snapshots; the default is `<pipeline>.fallback`.
        clock: Returns the time in seconds, for events.

    Raises:
        ConfigurationError: Not exactly one of `value`, `function` and `chain` is given, or an option has a wrong value.

    Example:
        >>> from resilience import Fallback, Pipeline
        >>> prices = Pipeline("prices", Fallback(0.0, on=ConnectionError))
        >>> @prices
        ... def price(item: str) -> float:
        ...     raise ConnectionError("catalogue is down")
        >>> price("lamp")
        0.0
    """

    kind = "fallback"

    def __init__(
        self,
        value: object = UNSET,
        *,
        function: Callable[..., object] | None = None,
        chain: Sequence[object] | None = None,
        on: Kinds = Exception,
        on_result: Callable[[Any], bool] | None = None,
        pass_call: bool = False,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self._alternatives = alternatives(value, function, chain)
        self._on = Errors(on)
        self._on_result: Callable[..., object] | None = checked(on_result, "on_result", _PREDICATE)
        self._pass_call: bool = checked(pass_call, "pass_call", Flag())
        self.accepts_leading_args = self._pass_call
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.events = Emitter()
        self.used = self.exhausted = 0
        self._is_made = True
        reset_after_test(self)

    def after_test(self) -> None:
        """Start with no counts."""
        vars(self).update(used=0, exhausted=0)

    def around(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Return the blocking `call` with its outcome replaced."""
        return self._around(call, leading_args, is_nested=False)

    def around_nested(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Return the blocking `call` with its outcome replaced for the caller; other policies see the outcome."""
        return self._around(call, leading_args, is_nested=True)

    def around_async(self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0) -> CoroutineFunction[P, R]:
        """Return the awaiting `call` with its outcome replaced."""
        return self._around_async(call, leading_args, is_nested=False)

    def around_nested_async(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0
    ) -> CoroutineFunction[P, R]:
        """Return the awaiting `call` with its outcome replaced for the caller; other policies see the outcome."""
        return self._around_async(call, leading_args, is_nested=True)

    def _around(self, call: Callable[P, R], own: int, *, is_nested: bool) -> Callable[P, R]:
        """Return the guarded call. Its own arguments begin at position `own`."""
        if any(alternative.is_awaited for alternative in self._alternatives):
            reason = f"a coroutine function cannot stand in for a blocking call ({_ADVICE})"
            raise ConfigurationError(f"{self.name}: {reason}")
        on, judges_results = self._on, self._on_result is not None

        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                result = call(*args, **kwargs)
            except Exception as error:
                if error not in on:
                    raise
                answer = run(self._replace(ReplacedOutcome(error), args[own:], kwargs, is_nested=is_nested), _ADVICE)
                if answer is _FAILED:
                    raise
                return cast("R", answer)
            if not judges_results or self._accepts(result):
                return result
            rejected = ReplacedOutcome(None, result)
            answer = run(self._replace(rejected, args[own:], kwargs, is_nested=is_nested), _ADVICE)
            return result if answer is _FAILED else cast("R", answer)

        return guarded

    def _around_async(self, call: Callable[P, Awaitable[R]], own: int, *, is_nested: bool) -> CoroutineFunction[P, R]:
        on, judges_results = self._on, self._on_result is not None

        async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                result = await call(*args, **kwargs)
            except Exception as error:
                if error not in on:
                    raise
                answer = await arun(self._replace(ReplacedOutcome(error), args[own:], kwargs, is_nested=is_nested))
                if answer is _FAILED:
                    raise
                return cast("R", answer)
            if not judges_results or self._accepts(result):
                return result
            rejected = ReplacedOutcome(None, result)
            answer = await arun(self._replace(rejected, args[own:], kwargs, is_nested=is_nested))
            return result if answer is _FAILED else cast("R", answer)

        return guarded

    def _replace(
        self, outcome: ReplacedOutcome, args: tuple[object, ...], kwargs: Mapping[str, object], *, is_nested: bool
    ) -> UserCalls[object]:
        """Return the first alternative that answers, `_FAILED` if none does; raise a translated error.

        A nested fallback raises a `Substitute`, which carries the alternative past the policies outside.
        """
        if not self._pass_call:
            args, kwargs = (), {}
        try:
            for value, function in self._alternatives:
                answer = value
                if function is not None:
                    try:
                        answer = yield UserCall(function, outcome.value, *args, **kwargs)
                    except Exception as failure:
                        if outcome.is_translated_by(failure):
                            self._report_used(outcome)
                            raise
                        continue
                self._report_used(outcome)
                if is_nested:
                    raise Substitute(answer, error=outcome.error, result=outcome.result) from outcome.error
                return answer
            self._report_exhausted(outcome)
            return _FAILED
        finally:
            del outcome  # the tracebacks of its failures refer to this frame: no cycle through it

    def _accepts(self, result: object) -> bool:
        """Whether the caller gets `result`. An awaitable is not a result yet."""
        if self._on_result is None or hasattr(type(result), "__await__"):
            return True
        is_rejected = self._on_result(result)
        return not (is_rejected and known(self._on_result, is_rejected))

    def measure(self) -> Measurement:
        """Return the calls that an alternative answered, and those that none could answer."""
        return Measurement(self.kind, self.name, {"used": self.used, "exhausted": self.exhausted})

    def _report_used(self, outcome: ReplacedOutcome) -> None:
        vars(self)["used"] += 1  # an assignment would go through `Fixed`
        self.events.emit("fallback.used", self.name, self._clock(), "warning", **outcome.facts)

    def _report_exhausted(self, outcome: ReplacedOutcome) -> None:
        vars(self)["exhausted"] += 1
        if outcome.error is not None:
            begins = f"{self.name}: the alternative "
            tried = zip(self._alternatives, outcome.failures, strict=True)
            notes = [f"{begins}{alternative.label} failed too: {shown(failure)}" for alternative, failure in tried]
            annotate(outcome.error, begins, notes)
        self.events.emit("fallback.exhausted", self.name, self._clock(), "error", **outcome.facts)

    def describe(self) -> dict[str, Any]:
        """Return the alternatives and the outcomes that they replace, by name."""
        options = {
            "alternatives": [alternative.label for alternative in self._alternatives],
            "on": self._on.names,
            "on_result": None if self._on_result is None else named(self._on_result),
            "pass_call": self._pass_call,
        }
        return {**super().describe(), "options": options}

    def snapshot(self) -> dict[str, Any]:
        """Return how often an alternative answered, and how often all of them failed."""
        return {"used": self.used, "exhausted": self.exhausted}

    def __repr__(self) -> str:
        first, *more = self._alternatives
        if more:
            labels = ", ".join(alternative.label for alternative in self._alternatives)
            return f"<Fallback {self.name!r} chain=[{labels}]>"
        return f"<Fallback {self.name!r} {'value' if first.function is None else 'function'}={first.label}>"
