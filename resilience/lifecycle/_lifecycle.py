"""The public face of one process's life: what services and adapters call. `Life` does the work."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from resilience.clock import Clock, monotonic
from resilience.events import Emitter
from resilience.lifecycle._hooks import Closable, DependencyWait, HookStage, wait_for, wait_until
from resilience.lifecycle._life import Life
from resilience.lifecycle._machine import READY
from resilience.lifecycle._options import LifecycleOptions, Period
from resilience.lifecycle._server_lifecycle import ServerLifecycle
from resilience.lifecycle._signals import SIGNALS
from resilience.options import CLOCK, LONGEST, Instance, checked, seconds
from resilience.running import running_loop

if TYPE_CHECKING:
    from resilience.lifecycle._aio import AsyncLife

__all__ = ("Lifecycle",)

Fn = Callable[[], Any]
F = TypeVar("F", bound=Fn)
C = TypeVar("C", bound=Closable)
_OPTIONS = Instance(LifecycleOptions, expected="LifecycleOptions, or None")


class Lifecycle:
    """Where a process is between its start and its end, and the work to do at each transition.

    The states are `starting`, `ready`, `draining` and `stopped`. `start()`, `drain()` and `stop()` run the hooks and
    change the state. `started()` and `stopped()` change it without hooks. Call each of them at any time, from any
    thread, any number of times. A script uses a `with lifecycle:` block. Async code uses `astart`, `astop`, `await_...`
    and `async with`.

    Args:
        options: Times and files. Default: `LifecycleOptions()`.
        clock: Measures how long each state lasted, for events.

    Raises:
        ConfigurationError: An option, or an argument of a method, is wrong.

    Example:
        >>> lifecycle = Lifecycle()
        >>> hook = lifecycle.on_stop(lambda: print("closed"))
        >>> lifecycle.start()
        >>> lifecycle.state
        'ready'
        >>> lifecycle.stop()
        closed
    """

    def __init__(self, options: LifecycleOptions | None = None, *, clock: Clock = monotonic) -> None:
        self.options: LifecycleOptions = (
            LifecycleOptions() if options is None else checked(options, "options", _OPTIONS)
        )
        self._life = Life(self.options, checked(clock, "clock", CLOCK))
        self._in_flight = self._life.in_flight
        # Not methods around them: each request of a server calls both.
        self.enter: Callable[[], None] = self._in_flight.enter
        """Count one more request in flight. Each `enter` needs exactly one `leave`."""
        self.leave: Callable[[], None] = self._in_flight.leave
        """Count one request less. Takes no lock, unless a caller waits for the last request."""
        self.events: Emitter = self._life.events
        """Emits one event for each transition, failed hook, signal, and attempt to reach a dependency."""
        self.server: ServerLifecycle = ServerLifecycle(self._life)
        """For adapters: connects the start and the end of a server to this lifecycle."""

    def __repr__(self) -> str:
        return f"<Lifecycle {self.state}, {self.in_flight} in flight>"

    @property
    def _async_life(self) -> AsyncLife:
        from resilience.lifecycle._aio import AsyncLife  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        return AsyncLife(self._life)

    # State.

    @property
    def state(self) -> str:
        """One of `starting`, `ready`, `draining`, `stopped`."""
        return str(self._life.state)

    @property
    def is_ready(self) -> bool:
        """Whether routers should send requests: the state is `ready`, and no drain file exists."""
        return self._life.state is READY and not self._life.drain_file_exists

    @property
    def is_draining(self) -> bool:
        """Whether the process is on its way out: draining, or stopped already."""
        return self._life.is_leaving

    @property
    def in_flight(self) -> int:
        """The number of requests between `enter()` and `leave()`."""
        return self._in_flight.count

    @property
    def stop_timeout(self) -> float:
        """Seconds that all drain and stop hooks together may take."""
        return self._life.stop_timeout

    # Hooks.

    @overload
    def on_start(self, fn: F, /, *, timeout: Period = ..., name: str | None = ..., required: bool = ...) -> F: ...
    @overload
    def on_start(
        self, /, *, timeout: Period = ..., name: str | None = ..., required: bool = ...
    ) -> Callable[[F], F]: ...
    def on_start(
        self, fn: Fn | None = None, /, *, timeout: Period = None, name: str | None = None, required: bool = False
    ) -> Any:
        """Run `fn` before the process is ready, in the order added. Usable as a decorator.

        A hook that fails or takes too long is logged and emitted as an event, and the next hook runs.

        Args:
            fn: A function without parameters, plain or async.
            timeout: Longest time for this hook. Default: the option `hook_timeout`.
            name: Its name in logs and events, at most 63 characters. Default: the name of `fn`.
            required: If True, a failure ends the start with a `StartupError`.
        """
        return self._add_hook(HookStage.START, fn, timeout, name, required=required)

    @overload
    def on_drain(self, fn: F, /, *, timeout: Period = ..., name: str | None = ...) -> F: ...
    @overload
    def on_drain(self, /, *, timeout: Period = ..., name: str | None = ...) -> Callable[[F], F]: ...
    def on_drain(self, fn: Fn | None = None, /, *, timeout: Period = None, name: str | None = None) -> Any:
        """Run `fn` when the drain begins, in the background, while requests are served. Usable as a decorator.

        Leave a registry or stop consumers here. Drain hooks run in the order added, and the stop hooks wait for them.
        A failure is handled as in `on_stop`. For the arguments see `on_start`.
        """
        return self._add_hook(HookStage.DRAIN, fn, timeout, name)

    @overload
    def on_stop(self, fn: F, /, *, timeout: Period = ..., name: str | None = ...) -> F: ...
    @overload
    def on_stop(self, /, *, timeout: Period = ..., name: str | None = ...) -> Callable[[F], F]: ...
    def on_stop(self, fn: Fn | None = None, /, *, timeout: Period = None, name: str | None = None) -> Any:
        """Run `fn` after the last request. The hook added last runs first. Usable as a decorator.

        A hook that fails or takes too long is logged and emitted as an event, and the next hook runs. A late plain hook
        is left behind in a thread that does not hold up the end of the process. `astop()` cancels a late async hook.
        For the arguments see `on_start`.
        """
        return self._add_hook(HookStage.STOP, fn, timeout, name)

    def close_on_stop(self, thing: C, *, timeout: Period = None, name: str | None = None) -> C:
        """Close `thing` as a stop hook, and return it. In async code `aclose()` is called if `thing` has it.

        Args:
            thing: An object with `close()`.
            timeout: Longest time for this hook. Default: the option `hook_timeout`.
            name: Its name in logs and events. Default: the name of its class.
        """
        hook = self._life.hooks.hook(thing.close, timeout, name or type(thing).__name__)
        self._life.add_hook(HookStage.STOP, hook._replace(arun=getattr(thing, "aclose", thing.close)))
        return thing

    def _add_hook(self, stage: HookStage, fn: Any, timeout: Period, name: str | None, *, required: bool = False) -> Any:
        if fn is None:
            return lambda decorated: self._add_hook(stage, decorated, timeout, name, required=required)
        self._life.add_hook(stage, self._life.hooks.hook(fn, timeout, name)._replace(is_required=required))
        return fn

    # Dependencies.

    @overload
    def depends_on(
        self, check: F, /, *, timeout: Period = ..., interval: Period = ..., name: str | None = ...
    ) -> F: ...
    @overload
    def depends_on(
        self, /, *, timeout: Period = ..., interval: Period = ..., name: str | None = ...
    ) -> Callable[[F], F]: ...
    def depends_on(
        self, check: Fn | None = None, /, *, timeout: Period = None, interval: Period = None, name: str | None = None
    ) -> Any:
        """Make the start wait, before its hooks, until `check` neither raises nor returns False. Usable as a decorator.

        Args:
            check: A function without parameters, plain or async.
            timeout: Longest wait. After it the start ends with a `StartupError` that names the dependency. Default: the
                option `startup_timeout`.
            interval: Pause between two calls of `check`. Default: the option `startup_interval`.
            name: The name in logs, events and the error. Default: the name of `check`.
        """
        if check is None:
            return lambda decorated: self.depends_on(decorated, timeout=timeout, interval=interval, name=name)
        self._life.hooks.dependencies.append(self._life.hooks.dependency(check, timeout, interval, name))
        return check

    def wait_for(self, check: Fn, *, timeout: Period = None, interval: Period = None, name: str | None = None) -> None:
        """Block now, in any state, until `check` passes. Raises `StartupError`. For the arguments see `depends_on`."""
        wait_for(self._wait_on(check, timeout, interval, name))

    async def await_for(
        self,
        check: Fn,
        *,
        timeout: Period = None,  # noqa: ASYNC109 - as in `wait_for`: the error names the dependency
        interval: Period = None,
        name: str | None = None,
    ) -> None:
        """Suspend until `check` passes. Raises `StartupError`. For the arguments see `depends_on`."""
        from resilience.lifecycle import _aio  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        await _aio.wait_for(self._wait_on(check, timeout, interval, name))

    def _wait_on(self, check: Any, timeout: Period, interval: Period, name: str | None) -> DependencyWait:
        return self._life.wait_on(self._life.hooks.dependency(check, timeout, interval, name))

    # Start.

    def start(self) -> None:
        """Wait for the dependencies, run the start hooks, and become ready.

        Raises:
            StartupError: A dependency is missing, or a required hook failed. Call `stop()` also in this case.
        """
        self._life.start()

    async def astart(self) -> None:
        """Start as `start` does. Async hooks and checks run in the calling loop. Raises `StartupError`."""
        await self._async_life.start()

    def started(self) -> bool:
        """Declare the start finished, without hooks. Return whether the state changed.

        It does not change if the process is ready or draining. After the end, this begins a new life.
        """
        return self._life.started()

    # Drain.

    def drain(self) -> bool:
        """Begin the drain: readiness fails from now on, and the drain hooks run in the background.

        Requests in flight go on, and the server still accepts new ones. Return whether this call began the drain: False
        if one has begun already, and after the end.
        """
        return self._life.drain()

    def wait_draining(self, timeout: Period = None) -> bool:
        """Block until a drain begins, or for `timeout` (default: a year). Return whether it has begun."""
        return wait_until(lambda: self.is_draining, _limit(timeout))

    async def await_draining(self, timeout: Period = None) -> bool:  # noqa: ASYNC109 - the result says whether the time was enough
        """Suspend as `wait_draining` blocks."""
        from resilience.lifecycle import _aio  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        return await _aio.wait_until(lambda: self.is_draining, _limit(timeout))

    def wait_idle(self, timeout: Period = None) -> bool:
        """Block until no request is in flight. Return whether that came within `timeout` (default: `drain_timeout`)."""
        return self._in_flight.wait(self._drain_limit(timeout))

    async def await_idle(self, timeout: Period = None) -> bool:  # noqa: ASYNC109 - the result says whether the time was enough
        """Suspend as `wait_idle` blocks."""
        from resilience.lifecycle import _aio  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        return await _aio.wait_idle(self._in_flight, self._drain_limit(timeout))

    def wait_drained(self, timeout: Period = None) -> bool:
        """Drain, then block for `drain_delay`, for the drain hooks, and until no request is in flight.

        A second signal ends the delay. Return whether the last request left within `timeout`, by default the
        option `drain_timeout`.
        """
        return self._life.wait_drained(self._drain_limit(timeout))

    async def await_drained(self, timeout: Period = None) -> bool:  # noqa: ASYNC109 - the result says whether the time was enough
        """Drain and suspend as `wait_drained` blocks."""
        return await self._async_life.wait_drained(self._drain_limit(timeout))

    def _drain_limit(self, timeout: Period) -> float:
        return self.options.drain_timeout if timeout is None else seconds(timeout, "timeout")

    # Stop.

    def stop(self) -> None:
        """Drain, wait for the drain hooks, run the stop hooks, and be stopped.

        Does not wait for requests in flight; call `wait_drained` first. A second caller waits for the first one, for at
        most `stop_timeout` seconds.
        """
        self._life.stop()

    async def astop(self) -> None:
        """Stop as `stop` does. Async hooks run in the calling loop."""
        await self._async_life.stop()

    def stopped(self) -> bool:
        """Declare the end, without hooks. Return whether the state changed."""
        return self._life.stopped()

    def install_signals(self, *numbers: int) -> bool:
        """Drain on `SIGTERM` (or `numbers`), before the present handler gets the signal.

        Call this in each worker, after the server has installed its handlers. The previous handler gets the signal
        after `drain_delay` and the drain hooks, or at once if there is neither. A second signal ends the delay. If the
        signal had no handler, the process waits for requests in flight, runs the stop hooks, and ends by the signal.
        SIGINT is never held back. Return whether this was possible: it is not off the main thread, as in test clients.
        """
        return self.options.signals and SIGNALS.install(self._life, numbers or (signal.SIGTERM,))

    def __enter__(self) -> Self:
        self.install_signals()
        self._life.enter_block()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._life.leave_block(has_failed=error is not None)

    async def __aenter__(self) -> Self:
        running_loop("Lifecycle")
        self.install_signals()
        await self._async_life.enter_block()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._async_life.leave_block(has_failed=error is not None)


def _limit(timeout: Period) -> float:
    return LONGEST if timeout is None else seconds(timeout, "timeout")
