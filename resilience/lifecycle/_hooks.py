"""What is to be done at the start, at the beginning of the drain and at the end, in which order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from resilience.errors import ConfigurationError, Problem
from resilience.lifecycle._options import LifecycleOptions
from resilience.options import Opaque, Text, checked, seconds

__all__ = ("DRAIN", "START", "STOP", "Hook", "Hooks", "Need")

START, DRAIN, STOP = "start", "drain", "stop"

Span = float | str | timedelta
F = TypeVar("F", bound=Callable[[], Any])
C = TypeVar("C", bound="Closable")
_FUNCTION = Opaque("a function without parameters, plain or async", callable)
_NAME = Text("a name", longest=63)


class Closable(Protocol):
    """Something that holds connections or background work; one with `aclose()` is closed by that in async code."""

    def close(self) -> Any:
        """Let go of them."""
        ...


class Hook(NamedTuple):
    """One step. `arun` is what async code calls instead, where the two differ."""

    name: str
    run: Callable[[], Any]
    timeout: float
    arun: Callable[[], Any]
    is_required: bool = False


class Need(NamedTuple):
    """One dependency without which there is no start."""

    name: str
    check: Callable[[], Any]
    timeout: float
    interval: float


class Hooks:
    """The steps of a process's life. Each can be added by a call, or by decorating the function it runs."""

    options: LifecycleOptions

    def __init__(self) -> None:
        # Adding to a list is one atomic step; whoever runs the steps goes through a copy.
        self._hooks: dict[str, list[Hook]] = {START: [], DRAIN: [], STOP: []}
        self._needs: list[Need] = []

    @overload
    def on_start(self, fn: F, /, *, timeout: Span | None = ..., name: str | None = ..., required: bool = ...) -> F: ...
    @overload
    def on_start(
        self, /, *, timeout: Span | None = ..., name: str | None = ..., required: bool = ...
    ) -> Callable[[F], F]: ...
    def on_start(
        self,
        fn: Callable[[], Any] | None = None,
        /,
        *,
        timeout: Span | None = None,
        name: str | None = None,
        required: bool = False,
    ) -> Any:
        """Have `fn` run before the process is ready, in the order added.

        It has `timeout` (default: `hook_timeout`). One that fails or takes longer is logged and told as an event, and
        the next one runs; with `required=True` it ends the start with a `StartupError`.
        """
        return self._added(START, fn, timeout, name, required=required)

    @overload
    def on_drain(self, fn: F, /, *, timeout: Span | None = ..., name: str | None = ...) -> F: ...
    @overload
    def on_drain(self, /, *, timeout: Span | None = ..., name: str | None = ...) -> Callable[[F], F]: ...
    def on_drain(
        self, fn: Callable[[], Any] | None = None, /, *, timeout: Span | None = None, name: str | None = None
    ) -> Any:
        """Have `fn` run as soon as the drain begins, while requests are still served: leave a registry, stop consumers.

        These run in the order added, in the background; the stop hooks wait for them. Each has `timeout` (default:
        `hook_timeout`). One that fails or takes longer is logged and told as an event, and the next one runs; one that
        is late is left behind in its thread.
        """
        return self._added(DRAIN, fn, timeout, name)

    @overload
    def on_stop(self, fn: F, /, *, timeout: Span | None = ..., name: str | None = ...) -> F: ...
    @overload
    def on_stop(self, /, *, timeout: Span | None = ..., name: str | None = ...) -> Callable[[F], F]: ...
    def on_stop(
        self, fn: Callable[[], Any] | None = None, /, *, timeout: Span | None = None, name: str | None = None
    ) -> Any:
        """Have `fn` run when the last request has left: what was added last runs first.

        It has `timeout` (default: `hook_timeout`). One that fails or takes longer is logged and told as an event, and
        the next one runs. One that is late is left behind in its thread, which does not hold up the end of the process;
        an async one is cancelled where `astop()` runs it.
        """
        return self._added(STOP, fn, timeout, name)

    def close_on_stop(self, thing: C, *, timeout: Span | None = None, name: str | None = None) -> C:
        """Have `thing` closed as a stop step, by `aclose()` in async code where it has one; returns it."""
        name = name or type(thing).__name__
        hook = self._hook(thing.close, timeout, name)
        self._add(STOP, hook._replace(arun=getattr(thing, "aclose", thing.close)))
        return thing

    @overload
    def depends_on(
        self, check: F, /, *, timeout: Span | None = ..., interval: Span | None = ..., name: str | None = ...
    ) -> F: ...
    @overload
    def depends_on(
        self, /, *, timeout: Span | None = ..., interval: Span | None = ..., name: str | None = ...
    ) -> Callable[[F], F]: ...
    def depends_on(
        self,
        check: Callable[[], Any] | None = None,
        /,
        *,
        timeout: Span | None = None,
        interval: Span | None = None,
        name: str | None = None,
    ) -> Any:
        """Have the start wait, before its hooks, until `check` neither raises nor returns False.

        It is asked again after `interval`; a start still waiting after `timeout` ends with a `StartupError` that names
        it. Defaults: `startup_timeout` and `startup_interval`.
        """
        if check is None:
            return functools.partial(self.depends_on, timeout=timeout, interval=interval, name=name)
        self._needs.append(self._need(check, timeout, interval, name))
        return check

    def _need(self, check: Any, timeout: Span | None, interval: Span | None, name: str | None) -> Need:
        options = self.options
        patience = options.startup_timeout if timeout is None else seconds(timeout, "timeout", above=True)
        pause = options.startup_interval if interval is None else seconds(interval, "interval", above=True)
        return Need(_named(check, name), checked(check, "check", _FUNCTION), patience, pause)

    def _added(self, stage: str, fn: Any, timeout: Span | None, name: str | None, *, required: bool = False) -> Any:
        if fn is None:
            return lambda decorated: self._added(stage, decorated, timeout, name, required=required)
        self._add(stage, self._hook(fn, timeout, name)._replace(is_required=required))
        return fn

    def _add(self, stage: str, hook: Hook) -> None:
        self._hooks[stage].append(hook)

    def _hook(self, fn: Any, timeout: Span | None, name: str | None) -> Hook:
        patience = self.options.hook_timeout if timeout is None else seconds(timeout, "timeout", above=True)
        return Hook(_named(fn, name), checked(fn, "fn", _FUNCTION), patience, fn)

    def needed(self) -> tuple[Need, ...]:
        """Return the dependencies the start waits for, in order."""
        return tuple(self._needs)

    def steps(self, stage: str) -> list[Hook]:
        """Return the steps of a stage in the order they run."""
        return self._hooks[stage][::-1] if stage == STOP else self._hooks[stage][:]


def _named(fn: Any, name: str | None) -> str:
    if name is not None:
        return str(checked(name, "name", _NAME))
    while isinstance(fn, functools.partial):
        fn = fn.func
    found = getattr(fn, "__name__", None) or type(fn).__name__
    if not isinstance(found, str):
        raise ConfigurationError([Problem("name", found, _NAME.expected)])
    return found[:63]
