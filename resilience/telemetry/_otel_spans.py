"""The calls of the process in the traces of OpenTelemetry: events of the present span, and spans of attempts."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeAlias, TypeVar, cast

from opentelemetry import context
from opentelemetry.trace import Span, Status, StatusCode, Tracer, get_current_span

from resilience._support.awaiting import CoroutineFunction
from resilience._support.printable import one_line
from resilience.events import AttemptingPolicy, Event
from resilience.telemetry._options import TelemetryOptions
from resilience.telemetry._otel_metrics import Instruments

__all__ = ("OpenTelemetryObserver",)

P = ParamSpec("P")
R = TypeVar("R")
_Begun: TypeAlias = tuple[AbstractContextManager[Span], Span]
"""The scope of a span that has begun, and the span."""
_log = logging.getLogger("resilience")
_LONGEST = 200
"""Characters of a text in an attribute."""
_LEFT_OUT = frozenset({"key", "error", "result", "failures"})
"""Facts that are never exported as they are: keys of users, and objects whose text may hold secrets."""
_OF_THE_PROCESS = frozenset({"lifecycle", "health"})
"""Kinds of events that are about no call, even if one was under way."""
_attempts: ContextVar[list[None] | None] = ContextVar("resilience_attempts", default=None)
"""An item for each attempt of the innermost call that is retried or hedged. Threads and tasks share the list."""


class OpenTelemetryObserver:
    """Adds events to the present span, records durations, and makes the spans of attempts.

    Nothing here raises: an error of a span or a processor of the application is logged once, and costs no call.

    Args:
        options: The signals to emit.
        tracer: Makes the spans of attempts.
        instruments: Takes the durations.
    """

    def __init__(self, options: TelemetryOptions, tracer: Tracer, instruments: Instruments) -> None:
        self.options = options
        self._tracer = tracer
        self._instruments = instruments
        self._has_reported = False
        self._current_context = _context_getter()

    def span(self) -> Span | None:
        """Return the present span if it takes events."""
        if not self._current_context():  # without a context there is no span: this look costs a third of the next one
            return None
        span = get_current_span()
        return span if self.options.span_events and span.is_recording() else None

    def add_event(self, span: object, event: Event, /) -> None:
        """Add an event to a span, unless the span has ended meanwhile."""
        span = cast("Span", span)
        try:
            if span.is_recording() and event.kind.partition(".")[0] not in _OF_THE_PROCESS:
                span.add_event(f"resilience.{event.kind}", _attributes_of(event))
                _mark(span, event)
        except Exception:  # noqa: BLE001 - of a span of the application
            self._report()

    def observe(self, metric: str, seconds: float, /, *labels: str) -> None:
        """Record a duration, and add it to the present span. The wait of a retry is in its event already."""
        try:
            if self._instruments.has_histograms:
                self._instruments.record(metric, seconds, labels)
            span = None if metric == "resilience.retry.wait" else self.span()
            if span is not None:
                span.add_event(metric, {"resilience.policy": labels[0], "resilience.wait": seconds})
        except Exception:  # noqa: BLE001 - of an instrument or span of the application
            self._report()

    def trace_attempts(
        self, policy: AttemptingPolicy, attempt: Callable[P, R], guard: Callable[[Callable[P, R]], Callable[P, R]], /
    ) -> Callable[P, R]:
        """Return `guard(attempt)`, with a span around each attempt if that is asked for."""
        if not self.options.attempt_spans:
            return guard(attempt)
        if not inspect.iscoroutinefunction(attempt):
            return _numbered(guard(self._traced(policy, attempt)))
        awaited = cast("Callable[P, Awaitable[object]]", attempt)
        guarded = guard(cast("Callable[P, R]", self._traced_awaited(policy, awaited)))
        return cast("Callable[P, R]", _numbered_awaited(cast("Callable[P, Awaitable[object]]", guarded)))

    def _traced(self, policy: AttemptingPolicy, attempt: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(attempt)
        def traced(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._attempt(policy.name):
                return attempt(*args, **kwargs)

        return traced

    def _traced_awaited(self, policy: AttemptingPolicy, attempt: Callable[P, Awaitable[R]]) -> CoroutineFunction[P, R]:
        @functools.wraps(attempt)
        async def traced(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._attempt(policy.name):
                return await attempt(*args, **kwargs)

        return traced

    @contextmanager
    def _attempt(self, policy: str) -> Iterator[None]:
        """Run a block in a span of its own."""
        begun = _attempts.get()
        if begun is not None:
            begun.append(None)
        number = 1 if begun is None else len(begun)
        scope = self._begin(policy, number)
        if scope is None:
            yield
            return
        try:
            yield
        except BaseException as error:
            self._end(scope, error)
            raise
        self._end(scope, None)

    def _begin(self, policy: str, number: int) -> _Begun | None:
        if not self.options.attempt_spans:  # switched off since the function was wrapped
            return None
        try:
            attributes: dict[str, str | int] = {"resilience.policy": policy, "resilience.attempt": number}
            scope = self._tracer.start_as_current_span(
                f"{policy} attempt", attributes=attributes, record_exception=False, set_status_on_exception=False
            )
            return scope, scope.__enter__()
        except Exception:  # noqa: BLE001 - of a processor of the application
            self._report()
            return None

    def _end(self, begun: _Begun, error: BaseException | None) -> None:
        scope, span = begun
        try:
            if error is not None and span.is_recording():
                kind = type(error).__qualname__
                span.set_attribute("error.type", kind)
                span.set_status(Status(StatusCode.ERROR, kind))  # not the text: it may hold secrets
            scope.__exit__(None, None, None)
        except Exception:  # noqa: BLE001 - of a processor of the application
            self._report()

    def _report(self) -> None:
        if not self._has_reported:
            self._has_reported = True
            _log.exception("OpenTelemetry failed; calls go on without it. Further failures are not logged")


def _context_getter() -> Callable[[], object]:
    """Return a function that returns the present context, which is empty (false) outside of all spans.

    `opentelemetry.context.get_current` reads one `ContextVar` through two calls (1.30 to 1.45). Each refusal asks for
    the context, so this takes the variable itself; without it, the public function.
    """
    runtime = getattr(context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    return variable.get if isinstance(variable, ContextVar) else context.get_current


def _numbered(guarded: Callable[P, R]) -> Callable[P, R]:
    """Return `guarded`, whose attempts are numbered from 1 on for each call."""

    def numbered(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _attempts.set([])
        try:
            return guarded(*args, **kwargs)
        finally:
            _attempts.reset(token)

    return numbered


def _numbered_awaited(guarded: Callable[P, Awaitable[R]]) -> CoroutineFunction[P, R]:
    """Return the awaiting `guarded`, whose attempts are numbered from 1 on for each call."""

    async def numbered(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _attempts.set([])
        try:
            return await guarded(*args, **kwargs)
        finally:
            _attempts.reset(token)

    return numbered


def _attributes_of(event: Event) -> dict[str, str | int | float | bool]:
    """Return the facts of an event that may be exported, as attributes."""
    attributes: dict[str, str | int | float | bool] = {"resilience.policy": one_line(event.policy)[:_LONGEST]}
    for name, fact in event.facts.items():
        if name in _LEFT_OUT or fact is None:
            continue
        if isinstance(fact, bool | int | float):
            attributes[f"resilience.{name}"] = fact
        elif isinstance(fact, str):
            attributes[f"resilience.{name}"] = one_line(fact)[:_LONGEST]
    if isinstance(error := event.facts.get("error"), BaseException):
        attributes["error.type"] = type(error).__qualname__
    return attributes


def _mark(span: Span, event: Event) -> None:
    """Set the attributes by which a trace is found: who refused it, how often it was tried, which answer it got."""
    if event.kind == "retry.scheduled":
        span.set_attribute("resilience.retries", cast("int", event.facts["attempt"]))
    elif event.kind.endswith(".rejected") and "shadow" not in event.facts:
        span.set_attribute("resilience.refused_by", event.policy)
    elif event.kind in {"fallback.used", "cache.stale_served"}:
        span.set_attribute("resilience.answered_by", event.policy)
