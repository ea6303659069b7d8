"""The lifecycle: what is done at each turn of a process's life, blocking or suspended."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from resilience.clock import Clock, monotonic
from resilience.lifecycle import _sync
from resilience.lifecycle._ending import Ended, Waiting, complain
from resilience.lifecycle._hooks import DRAIN, START, STOP, Hook, Hooks, Need, Span
from resilience.lifecycle._machine import DRAINING, READY, STARTING
from resilience.lifecycle._options import LifecycleOptions
from resilience.lifecycle._signals import SIGNALS
from resilience.lifecycle._standing import Standing
from resilience.options import LONGEST, seconds

__all__ = ("Lifecycle",)

_log = logging.getLogger("resilience")


class Lifecycle(Hooks, Standing):
    """Where a process is between start and end: `starting`, `ready`, `draining` or `stopped`.

    `start()`, `drain()` and `stop()` move it on and run the hooks of each turn; `started()` and `stopped()` only say
    so. Each may be called at any time, from any thread, any number of times. Every request is between one `enter()` and
    one `leave()`. A script is a `with lifecycle:` block. What blocks has a twin that suspends: `astart`, `await_idle`.
    Raises `StartupError` where a start fails, and `ConfigurationError` for options and hooks that are wrong.
    """

    def __init__(self, options: LifecycleOptions | None = None, *, clock: Clock = monotonic) -> None:
        Hooks.__init__(self)
        Standing.__init__(self, options, clock=clock)
        self._stops_at_exit = False

    def prepare(self) -> None:
        """Wait for what is needed, then run the start hooks. Raises `StartupError`; `stop()` is due even then."""
        self.begin(None)
        for need in self.needed():
            _sync.wait_for(self.waiting(need))
        _sync.run_stage(self, START)

    def aprepare(self) -> Coroutine[Any, Any, None]:
        """Do the same, suspended; async hooks and checks run in the calling loop."""
        from resilience.lifecycle._aio import prepare  # noqa: PLC0415 - asyncio costs 40 ms and few need it

        return prepare(self)

    def start(self) -> None:
        """Wait for what is needed, run the start hooks, and be ready. Raises `StartupError`."""
        self.prepare()
        self.started()

    def astart(self) -> Coroutine[Any, Any, None]:
        """Do the same, suspended."""
        from resilience.lifecycle._aio import start  # noqa: PLC0415 - as above

        return start(self)

    def started_if_no_hooks(self) -> bool:
        """Declare the start finished, unless it takes a `start()`: there is a start hook, or a dependency to wait for.

        For adapters, at the first request under a server that tells an application of no start. With hooks or needs the
        process is not ready until somebody runs them, and one that was stopped stays so. Returns whether the process
        became ready by this call; any number may be made.
        """
        is_due = bool(self._hooks[START] or self._needs)
        return self.state == STARTING and not is_due and self.started()

    def wait_for(
        self,
        check: Callable[[], Any],
        *,
        timeout: Span | None = None,
        interval: Span | None = None,
        name: str | None = None,
    ) -> None:
        """Block until `check` neither raises nor returns False, as `depends_on` does. Raises `StartupError`."""
        _sync.wait_for(self.waiting(self._need(check, timeout, interval, name)))

    def await_for(
        self,
        check: Callable[[], Any],
        *,
        timeout: Span | None = None,
        interval: Span | None = None,
        name: str | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Do the same, suspended."""
        from resilience.lifecycle._aio import await_for  # noqa: PLC0415 - as above

        return await_for(self.waiting(self._need(check, timeout, interval, name)))

    def _say_goodbye(self, over: threading.Event) -> None:
        if not self._hooks[DRAIN]:
            over.set()
            return

        def run() -> None:
            try:
                _sync.run_stage(self, DRAIN)
            finally:
                over.set()

        try:
            threading.Thread(target=run, name="resilience-drain", daemon=True).start()
        except RuntimeError:  # the interpreter is ending and starts no more threads
            run()

    def _add(self, stage: str, hook: Hook) -> None:
        super()._add(stage, hook)
        begun = {START: self.state in {READY, DRAINING}, DRAIN: self.state == DRAINING, STOP: self.is_stopping}
        if begun[stage] and not self.is_over:  # once it is over, this may be for the next life
            _log.warning("%s hook %r was added too late to be run", stage, hook.name)

    @property
    def holds(self) -> bool:
        """Whether there is something to do between a signal and the end of the server."""
        return self.options.drain_delay > 0 or bool(self._hooks[DRAIN])

    @property
    def is_deregistered(self) -> bool:
        """Whether no drain hook is under way."""
        return self._goodbye is None or self._goodbye.is_set()

    @property
    def longest_goodbye(self) -> float:
        """Seconds the drain hooks may take, all together."""
        return sum(hook.timeout for hook in self.steps(DRAIN))

    def wait_draining(self, timeout: Span | None = None) -> bool:
        """Block until a drain begins, or for `timeout`; whether it has. For scripts that work in other threads."""
        return _sync.wait_until(lambda: self.is_draining, _limit(timeout))

    def await_draining(self, timeout: Span | None = None) -> Coroutine[Any, Any, bool]:
        """Do the same, suspended."""
        from resilience.lifecycle._aio import await_until  # noqa: PLC0415 - as above

        return await_until(lambda: self.is_draining, _limit(timeout))

    def wait_drained(self, timeout: Span | None = None) -> bool:
        """Drain as for a signal: block for `drain_delay`, for the drain hooks, and until no request is under way.

        A second signal ends the delay. Returns whether the last request left within `timeout` (`drain_timeout`).
        """
        limit = self.patience(timeout)
        self.drain()
        self.is_attended = True
        _sync.wait_until(lambda: SIGNALS.came_twice, self.options.drain_delay)
        self.wait_drain_hooks()
        return self.wait_idle(limit)

    def await_drained(self, timeout: Span | None = None) -> Coroutine[Any, Any, bool]:
        """Do the same, suspended."""
        from resilience.lifecycle._aio import await_drained  # noqa: PLC0415 - as above

        return await_drained(self, self.patience(timeout))

    def wait_drain_hooks(self) -> bool:
        """Block until the drain hooks have ended; whether they have within their timeouts."""
        return _sync.wait_until(lambda: self.is_deregistered, self.longest_goodbye)

    def await_drain_hooks(self) -> Coroutine[Any, Any, bool]:
        """Do the same, suspended."""
        from resilience.lifecycle._aio import await_until  # noqa: PLC0415 - as above

        return await_until(lambda: self.is_deregistered, self.longest_goodbye)

    def stop(self) -> None:
        """Drain where nobody has, run the stop hooks, the last one added first, and be stopped.

        Requests are not waited for: see `wait_drained`. Whoever comes second waits for the first, and gives up after
        `stop_timeout` seconds: the hooks may still run then.
        """
        self.drain()
        stopping = self.claim_stop()
        if stopping is None:
            _sync.wait_until(lambda: self.is_over, self.stop_timeout)
            return
        try:
            self.wait_drain_hooks()
            _sync.run_stage(self, STOP)
        finally:
            self.stopped()
            stopping.set()

    def astop(self) -> Coroutine[Any, Any, None]:
        """Do the same, suspended; async hooks run in the calling loop."""
        from resilience.lifecycle._aio import stop  # noqa: PLC0415 - as above

        return stop(self)

    @property
    def stop_timeout(self) -> float:
        """Seconds the drain and stop hooks may take, all together."""
        return self.longest_goodbye + sum(hook.timeout for hook in self.steps(STOP))

    def install_signals(self, *numbers: int) -> bool:
        """Drain on `SIGTERM` (or `numbers`) before whoever handles it now gets it; whether that could be arranged.

        Only the main thread can: elsewhere, as in most test clients, nothing happens. The signal reaches its previous
        handler after `drain_delay` and the drain hooks, at once where there is neither. A second one ends the delay.
        Where nobody handled it, the process waits for requests under way, runs the stop hooks, and then ends by it.
        SIGINT is never held back. Call it in each worker, after the server has installed its own handlers.
        """
        return self.options.signals and SIGNALS.install(self, numbers or (signal.SIGTERM,))

    def stop_at_exit(self) -> None:
        """Have `stop()` called when the interpreter ends, for servers that tell an application nothing (WSGI).

        A lifecycle nobody holds any longer by then has nothing left to stop.
        """
        if not self._stops_at_exit:
            self._stops_at_exit = True
            atexit.register(_stop_if_begun, weakref.ref(self))

    def waiting(self, need: Need) -> Waiting:
        """Return the wait for one dependency, which ends early once a drain has begun."""
        return Waiting(need, self.events, lambda: self.state == DRAINING)

    def judge(self, stage: str, hook: Hook, ended: Ended) -> None:
        """Report a hook that failed or hangs. Raises `StartupError` for one that is required."""
        complain(self.events, stage, hook, ended)

    def __enter__(self) -> Self:
        self.install_signals()
        self.is_inside = threading.current_thread() is threading.main_thread()
        try:
            self.start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drain()
        self.is_attended = True
        try:
            if error is None:
                self.wait_idle()
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            self.stop()
        finally:
            self.is_inside = False

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        from resilience.lifecycle._aio import entered  # noqa: PLC0415 - as above

        return entered(self)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        from resilience.lifecycle._aio import left  # noqa: PLC0415 - as above

        return left(self, is_orderly=error is None)


def _stop_if_begun(reference: weakref.ref[Lifecycle]) -> None:
    lifecycle = reference()
    if lifecycle is not None and lifecycle.state in {READY, DRAINING}:
        lifecycle.stop()


def _limit(timeout: Span | None) -> float:
    return LONGEST if timeout is None else seconds(timeout, "timeout")
