"""What the pools of threads and of tasks share: the name, the options, the machine, its figures, errors and events."""

from __future__ import annotations

import copy
import random
import sys
import traceback
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar

from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock
from resilience.errors import (
    ConfigurationError,
    PoolClosedError,
    PoolError,
    PoolExhaustedError,
    PoolSaturatedError,
    PoolTimeoutError,
    Problem,
    span,
)
from resilience.events import Emitter
from resilience.options import CLOCK, Text, checked
from resilience.pool._connector import Connector
from resilience.pool._entry import Borrower, BorrowOutcome, PoolEntry, PoolState
from resilience.pool._machine import PoolMachine
from resilience.pool._options import PoolOptions

__all__ = ("Length", "PoolArguments", "PoolCore", "PoolFigures", "PoolLending", "options_of", "stack_of_borrower")

C = TypeVar("C")
B = TypeVar("B", bound=Borrower)

_NAME = Text("a name", longest=100)
_FRAMES = 15
_of_parent: list[object] = []
"""The connections of the parent process, kept from the garbage collector: their finalizers may send a farewell."""


class PoolFigures(TypedDict):
    """The counts that errors, events and snapshots show."""

    total: int
    idle: int
    in_use: int
    waiting: int
    creating: int
    oldest_lease: float | None


Length: TypeAlias = "float | str | timedelta"
"""Seconds, a `timedelta`, or text such as `"250ms"`."""


class PoolArguments(TypedDict, total=False):
    """The options of a pool as arguments; `PoolOptions` explains them."""

    maximum_pool_size: int
    minimum_idle: int
    connection_timeout: Length
    connect_timeout: Length
    validation_timeout: Length | None
    idle_timeout: Length | None
    max_lifetime: Length | None
    max_lifetime_jitter: float
    keepalive_time: Length | None
    leak_detection_threshold: Length | None
    max_waiting: int
    alive_bypass: Length
    max_creating: int
    initialization_fail_timeout: Length | None


def options_of(arguments: PoolArguments) -> PoolOptions:
    """Return the options with these values."""
    given: dict[str, Any] = {**arguments}
    return PoolOptions(**given)


class PoolCore(Generic[C, B]):
    """The machine of a pool, with the texts that explain it.

    Args:
        name: The name of the pool.
        connector: Its callbacks.
        options: Its options.
        clock: Returns monotonic seconds.
    """

    def __init__(self, name: str, connector: Connector[C], options: PoolOptions, clock: Clock) -> None:
        self.name: str = checked(name, "name", _NAME)
        self.options = options
        if options.keepalive_time is not None and connector.check is None:
            expected = "None, or a check beside it that finds out whether a connection still works"
            raise ConfigurationError([Problem("keepalive_time", options.keepalive_time, expected)])
        self.clock: Clock = checked(clock, "clock", CLOCK)
        self.connector = connector
        self.events = Emitter()
        self.machine: PoolMachine[C, B] = self.new_machine()

    def new_machine(self) -> PoolMachine[C, B]:
        """Return a machine without connections."""
        return PoolMachine(self.options, random.random, has_check=self.connector.check is not None)

    def start_afresh(self) -> None:
        """Forget the connections, and begin with a new machine unless the pool is closed. For a forked child."""
        _of_parent.extend(self.machine.entries)
        self.machine.disown()
        if self.machine.state is not PoolState.CLOSED:
            self.machine = self.new_machine()

    def figures(self) -> PoolFigures:
        """Return the counts of now."""
        machine = self.machine
        return {
            "total": len(machine.entries),
            "idle": machine.idle,
            "in_use": machine.in_use,
            "waiting": len(machine.waiting),
            "creating": machine.connecting.running,
            "oldest_lease": machine.oldest_lease(self.clock()),
        }

    def checked_size(self, maximum: int, minimum_idle: int | None) -> tuple[int, int]:
        """Return the sizes of a resize, or raise `ConfigurationError`."""
        if minimum_idle is None and isinstance(maximum, int):
            minimum_idle = min(self.machine.minimum_idle, max(maximum, 0))
        changed = PoolOptions(maximum_pool_size=maximum, minimum_idle=minimum_idle or 0)
        return changed.maximum_pool_size, changed.minimum_idle

    # Errors

    def refusal(self, outcome: BorrowOutcome) -> BaseException:
        """Return the error of a borrower that the machine has refused."""
        if outcome is BorrowOutcome.SATURATED:
            return self.saturated()
        if outcome is BorrowOutcome.REFUSED:
            return copy.copy(self.machine.connecting.refusal)
        return self.closed()

    def saturated(self) -> PoolSaturatedError:
        """Return the error of a borrower for which the queue has no place."""
        figures = self.figures()
        self.events.emit("pool.refused", self.name, self.clock(), "warning", **figures)
        text = f"pool {self.name!r}: {figures['waiting']} borrowers wait already, at most max_waiting may"
        return PoolSaturatedError(f"{text} ({_shown(figures)})", pool=self.name, **figures)

    def timed_out(self, waited: float, *, by_deadline: bool) -> PoolTimeoutError:
        """Return the error of a borrower that waited in vain."""
        figures, cause = self.figures(), self.machine.connecting.last_error
        self.events.emit("pool.timed_out", self.name, self.clock(), "warning", waited=waited, error=cause, **figures)
        limit = ", the time left of the deadline" if by_deadline else ""
        text = f"pool {self.name!r}: no connection within {span(waited)}{limit} ({_shown(figures)})"
        is_exhausted = cause is None and figures["total"] >= self.machine.maximum
        kind = PoolExhaustedError if is_exhausted else PoolTimeoutError
        if cause is not None:
            text = f"{text}; the last attempt to connect failed: {type(cause).__name__}"
        error = kind(text, pool=self.name, waited=waited, **figures)
        error.__cause__ = cause
        return error

    def late(self) -> TimeoutError:
        """Return the error of an attempt to connect that takes too long."""
        return TimeoutError(f"connect took longer than {span(self.options.connect_timeout)}")

    def closed(self) -> PoolClosedError:
        """Return the error of a borrower that comes to a closed pool."""
        return PoolClosedError(f"pool {self.name!r} is closed", pool=self.name)

    def refuse_if_closed(self) -> None:
        """Raise `PoolClosedError` if the pool is closed."""
        if self.machine.state is PoolState.CLOSED:
            raise self.closed()

    def foreign(self) -> PoolError:
        """Return the error of a lease that is given to another pool than its own."""
        return PoolError(f"pool {self.name!r}: the lease belongs to another pool", pool=self.name)

    def nested(self) -> PoolError:
        """Return the error of a finalizer or signal handler that borrows while its own thread changes the pool."""
        return PoolError(
            f"pool {self.name!r}: a finalizer or signal handler cannot borrow while its thread changes the pool",
            pool=self.name,
        )

    # Events

    def report_connect_failure(self, error: BaseException) -> None:
        """Emit the failure of an attempt to connect."""
        connecting = self.machine.connecting
        retry_after = max(0.0, connecting.retry_at - self.clock())
        facts = {"error": error, "failures": connecting.failures, "retry_after": retry_after}
        self.events.emit("pool.connect_failed", self.name, self.clock(), "warning", **facts)

    def report_leak(self, entry: PoolEntry[C], seconds: float) -> None:
        """Emit that a borrower has had a connection for too long, with its stack."""
        facts = {"in_use_for": seconds, "stack": _listed(entry.stack)}
        self.events.emit("pool.leak_suspected", self.name, self.clock(), "warning", **facts)

    def report_found(self, entry: PoolEntry[C], seconds: float) -> None:
        """Emit that a suspected leak came back."""
        facts = {"in_use_for": seconds, "stack": _listed(entry.stack)}
        self.events.emit("pool.leak_returned", self.name, self.clock(), "info", **facts)

    def report_lost(self, entry: PoolEntry[C]) -> None:
        """Emit that a lease was dropped without a release."""
        self.machine.lost += 1
        self.events.emit("pool.lease_lost", self.name, self.clock(), "warning", stack=_listed(entry.stack))

    def report_created(self, seconds: float) -> None:
        """Emit that a connection was made."""
        self.events.emit("pool.connection_created", self.name, self.clock(), "debug", seconds=seconds)

    def report_closed(self, reason: str) -> None:
        """Emit that a connection is closed."""
        self.events.emit("pool.connection_closed", self.name, self.clock(), "debug", reason=reason)

    def measure(self) -> Measurement:
        """Return the counts for metrics. Takes no lock."""
        machine = self.machine
        connecting = machine.connecting
        counts: dict[str, float] = {f"closed {reason}": times for reason, times in dict(machine.closed).items()}
        counts |= {"created": connecting.created, "connect failures": connecting.failed}
        counts |= {"uses": machine.uses, "waits": machine.waits, "timeouts": machine.timeouts}
        counts |= {"refusals": machine.refusals, "leaks": machine.leaks, "lost": machine.lost}
        counts |= {"create time": connecting.seconds, "wait time": machine.wait_seconds}
        counts["use time"] = machine.use_seconds
        levels = {"idle": machine.idle, "used": machine.in_use, "creating": connecting.running}
        levels |= {"waiting": len(machine.waiting), "maximum": machine.maximum, "minimum": machine.minimum_idle}
        return Measurement("pool", self.name, counts, levels)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        machine = self.machine
        connecting, now = machine.connecting, self.clock()
        since = machine.exhausted_since
        return {
            "state": machine.state.value,
            **self.figures(),
            "maximum_pool_size": machine.maximum,
            "minimum_idle": machine.minimum_idle,
            "exhausted_for": None if since is None else now - since,
            "last_error": None if connecting.last_error is None else type(connecting.last_error).__name__,
            "created": connecting.created,
            "connect_failures": connecting.failed,
            "closed": dict(machine.closed),
            "uses": machine.uses,
            "waits": machine.waits,
            "timeouts": machine.timeouts,
            "refusals": machine.refusals,
            "leaks": machine.leaks,
            "lost": machine.lost,
            "create_seconds": connecting.seconds,
            "wait_seconds": machine.wait_seconds,
            "use_seconds": machine.use_seconds,
        }


def _shown(figures: PoolFigures) -> str:
    age = figures["oldest_lease"]
    oldest = "" if age is None else f"; the oldest lease is {span(age)} old"
    return (
        f"total {figures['total']}, idle {figures['idle']}, in use {figures['in_use']}, waiting {figures['waiting']}, "
        f"creating {figures['creating']}{oldest}"
    )


class PoolLending(Measured):
    """Base of the two parts that lend: its name and its counts are those of the pool."""

    _core: PoolCore[Any, Any]

    @property
    def name(self) -> str:
        """The name of the pool."""
        return self._core.name

    def measure(self) -> Measurement:
        """Return the counts of the pool."""
        return self._core.measure()


def stack_of_borrower(between: tuple[str, ...] = ()) -> traceback.StackSummary:
    """Return the stack outside the pool, without its source lines: they are read only for a report.

    Args:
        between: Packages between the borrower and the pool, which are left out as well.
    """
    frame = sys._getframe(1)  # noqa: SLF001 - `inspect.currentframe` reads the source files
    while frame.f_back is not None and _is_inside(frame.f_globals.get("__name__", ""), between):
        frame = frame.f_back
    return traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_FRAMES, lookup_lines=False)


def _is_inside(module: str, between: tuple[str, ...]) -> bool:
    return module.startswith("resilience.pool") or module.partition(".")[0] in between


def _listed(stack: object) -> str:
    return "".join(reversed(stack.format())) if isinstance(stack, traceback.StackSummary) else ""
