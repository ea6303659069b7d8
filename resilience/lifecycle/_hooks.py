"""Hooks and dependencies: how they are registered, run in a thread within a limit, and judged."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from resilience._support.awaiting import resolve
from resilience.clock import monotonic
from resilience.errors import ConfigurationError, Problem, StartupError, described
from resilience.event_log import event_fields
from resilience.events import Emitter
from resilience.lifecycle._options import LifecycleOptions, Period
from resilience.options import Opaque, Text, checked, seconds

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = (
    "POLL_INTERVAL",
    "Closable",
    "Dependency",
    "DependencyWait",
    "Hook",
    "HookOutcome",
    "HookRegistry",
    "HookStage",
    "never",
    "report_failure",
    "run_in_thread",
    "wait_for",
    "wait_until",
)

_log = logging.getLogger("resilience")

POLL_INTERVAL = 0.1
"""Seconds between two looks at a fact that a signal handler sets: a handler must not take the lock of an event."""
_MIN_ATTEMPT = 0.1
"""Seconds that the last attempt at a dependency may take, even if less is left of its timeout."""

_FUNCTION = Opaque("a function without parameters, plain or async", callable)
_NAME = Text("a name", longest=63)


class HookStage(StrEnum):
    """When a hook runs."""

    START = "start"
    DRAIN = "drain"
    STOP = "stop"


class Closable(Protocol):
    """An object that holds connections or background work. Async code calls `aclose()` instead if the object has it."""

    def close(self) -> Any:
        """Release them."""
        ...


class Hook(NamedTuple):
    """One function to run at a stage. Async code calls `arun`, blocking code `run`."""

    name: str
    run: Callable[[], Any]
    timeout: float
    arun: Callable[[], Any]
    is_required: bool = False


class Dependency(NamedTuple):
    """A check that has to pass before the start hooks run."""

    name: str
    check: Callable[[], Any]
    timeout: float
    interval: float


class HookRegistry:
    """The hooks and dependencies of one lifecycle, in the order added."""

    def __init__(self, options: LifecycleOptions) -> None:
        self._options = options
        # Adding to a list is one atomic step, and a stage runs over a copy of its list.
        self._hooks: dict[HookStage, list[Hook]] = {stage: [] for stage in HookStage}
        self.dependencies: list[Dependency] = []

    def hook(self, fn: Any, timeout: Period, name: str | None) -> Hook:
        """Return the hook that runs `fn`."""
        limit = self._options.hook_timeout if timeout is None else seconds(timeout, "timeout", above=True)
        return Hook(_name_of(fn, name), checked(fn, "fn", _FUNCTION), limit, fn)

    def dependency(self, check: Any, timeout: Period, interval: Period, name: str | None) -> Dependency:
        """Return the dependency that `check` asks for."""
        options = self._options
        limit = options.startup_timeout if timeout is None else seconds(timeout, "timeout", above=True)
        pause = options.startup_interval if interval is None else seconds(interval, "interval", above=True)
        return Dependency(_name_of(check, name), checked(check, "check", _FUNCTION), limit, pause)

    def add(self, stage: HookStage, hook: Hook) -> None:
        """Add `hook` to `stage`."""
        self._hooks[stage].append(hook)

    def at(self, stage: HookStage) -> list[Hook]:
        """Return the hooks of `stage` in the order in which they run: stop hooks in reverse."""
        return self._hooks[stage][::-1] if stage is HookStage.STOP else self._hooks[stage][:]

    def timeout_of(self, stage: HookStage) -> float:
        """Return the seconds that all hooks of `stage` together may take."""
        return sum(hook.timeout for hook in self._hooks[stage])


def _name_of(fn: Any, name: str | None) -> str:
    if name is not None:
        return str(checked(name, "name", _NAME))
    while isinstance(fn, functools.partial):
        fn = fn.func
    found = getattr(fn, "__name__", None) or type(fn).__name__
    if not isinstance(found, str):
        raise ConfigurationError([Problem("name", found, _NAME.expected)])
    return found[:63]


class HookOutcome(NamedTuple):
    """The result or the error of a hook or check, or for how long (`still_running_after`) it has not ended."""

    result: Any = None
    error: BaseException | None = None
    still_running_after: float | None = None

    @property
    def failure(self) -> str:
        """Why this is a failure, in one line. Empty if the function returned."""
        if self.still_running_after is not None:
            return f"still running after {self.still_running_after:.3g} s"
        return "" if self.error is None else described(self.error)


def report_failure(events: Emitter, stage: HookStage, hook: Hook, outcome: HookOutcome) -> None:
    """Log and emit the failure of a hook, if it failed. Raises `StartupError` if the hook is required."""
    failure = outcome.failure
    if not failure:
        return
    facts = {"stage": stage.value, "hook": hook.name, "reason": failure}
    extra = event_fields("lifecycle.hook_failed", "lifecycle", facts)
    _log.error("%s hook %r failed: %s", stage, hook.name, failure, exc_info=outcome.error, extra=extra)
    events.emit(
        "lifecycle.hook_failed", "lifecycle", monotonic(), "error", stage=stage.value, hook=hook.name, reason=failure
    )
    if hook.is_required:
        raise StartupError(f"start hook {hook.name!r} failed: {failure}", step=hook.name) from outcome.error


class DependencyWait:
    """The wait for one dependency: how much of its timeout is left, and whether to try again after an attempt.

    `is_cancelled` says whether a drain has begun meanwhile. It ends the wait early.
    """

    def __init__(self, dependency: Dependency, events: Emitter, is_cancelled: Callable[[], bool]) -> None:
        self.dependency = dependency
        self.is_cancelled = is_cancelled
        self._events = events
        self._began = time.monotonic()
        self._attempts = 0

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def time_left(self) -> float:
        """Return how long the next attempt may take."""
        return max(_MIN_ATTEMPT, self.dependency.timeout - self._elapsed())

    def pause(self) -> float:
        """Return how long to wait before the next attempt."""
        return min(self.dependency.interval, max(0.0, self.dependency.timeout - self._elapsed()))

    def is_over(self, outcome: HookOutcome) -> bool:
        """Return whether the attempt found the dependency. Raises `StartupError` if no time is left."""
        self._attempts += 1
        name, reason = self.dependency.name, outcome.failure or ("it returned False" if outcome.result is False else "")
        if not reason:
            if self._attempts > 1:
                _log.info("%r is there after %.3g s", name, self._elapsed())
            return True
        if self.is_cancelled():
            raise StartupError(f"a drain began while waiting for {name!r} ({reason})", step=name) from outcome.error
        if self._elapsed() >= self.dependency.timeout:
            late = f"{name!r} is not there after {self._elapsed():.3g} s ({reason})"
            raise StartupError(late, step=name) from outcome.error
        if self._attempts & (self._attempts - 1) == 0:  # only the 1st, 2nd, 4th, 8th ... attempt: keeps the log short
            facts = {"dependency": name, "reason": reason, "elapsed": self._elapsed(), "attempts": self._attempts}
            extra = event_fields("lifecycle.waiting", "lifecycle", facts)
            _log.warning("waiting for %r: %s", name, reason, extra=extra)
        self._events.emit(
            "lifecycle.waiting", "lifecycle", monotonic(), "warning",
            dependency=name, reason=reason, elapsed=self._elapsed(), attempts=self._attempts,
        )  # fmt: skip
        return False


def never() -> bool:
    """Return False."""
    return False


def wait_until(condition: Callable[[], bool], limit: float) -> bool:
    """Block until `condition()`, for at most `limit` seconds. Return whether it came true in time."""
    end = time.monotonic() + limit
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, POLL_INTERVAL))
    return True


def wait_for(wait: DependencyWait) -> None:
    """Block until a dependency is there. Raises `StartupError`."""
    name = f"waits-for-{wait.dependency.name}"
    while not wait.is_over(
        run_in_thread(wait.dependency.check, wait.time_left(), name, is_cancelled=wait.is_cancelled)
    ):
        wait_until(wait.is_cancelled, wait.pause())


def run_in_thread(
    run: Callable[[], Any],
    limit: float,
    name: str,
    *,
    loop: AbstractEventLoop | None = None,
    is_cancelled: Callable[[], bool] = never,
) -> HookOutcome:
    """Run `run` in a thread of its own and return its outcome, after at most `limit` seconds.

    A thread cannot be ended: one that takes longer is left behind, so that it holds up no other hook. If `run` returns
    an awaitable, that is awaited in `loop` while `loop` runs, otherwise in a new loop.
    """
    outcomes: list[HookOutcome] = []
    has_ended = threading.Event()

    def call() -> None:
        try:
            result = run()
            outcomes.append(HookOutcome(resolve(result, loop) if hasattr(type(result), "__await__") else result))
        except BaseException as error:  # noqa: BLE001 - any exception is this hook's failure, SystemExit too
            outcomes.append(HookOutcome(None, error))
        finally:
            has_ended.set()

    context = copy_context()
    try:
        threading.Thread(target=context.run, args=(call,), name=f"resilience-{name}", daemon=True).start()
    except RuntimeError:  # no more threads, or the interpreter is ending: run it in this thread, without a limit
        context.run(call)
    begun = time.monotonic()
    while not has_ended.wait(max(0.0, min(begun + limit - time.monotonic(), POLL_INTERVAL))):
        if time.monotonic() >= begun + limit or is_cancelled():
            break
    return outcomes[0] if outcomes else HookOutcome(still_running_after=min(limit, time.monotonic() - begun))
