"""The state of a process, and how far its shutdown has come. Pure: the caller passes the time in.

States
    starting    The process waits for its dependencies and runs its start hooks.
    ready       Routers should send requests to it.
    draining    Routers should send no more requests. Requests in flight go on. Drain hooks run, then stop hooks.
    stopped     The stop hooks have run, or the process declared its end without them.

Transitions
    The states are entered in this order, and any of them may be left out. Nothing leads from draining back to ready: a
    router may have acted on the drain already. A stopped process may become ready again, which begins a new life: a
    test client runs the same application several times.

Shutdown
    The state does not say which hooks have run: it is `draining` before, during and after the drain hooks, and while
    the stop hooks run. A `Shutdown` says so. Both kinds of hooks go from NOT_RUN to RUNNING to DONE.

    - The drain hooks are RUNNING from the transition to `draining` on. A thread that calls `stop()` right after that
      transition finds them RUNNING, and waits.
    - The caller that finds the stop hooks NOT_RUN runs them. All later callers wait until they are DONE.
    - `is_observed` is true once the service's own code waits for requests in flight: then it will stop by itself.

    Each life has a `Shutdown` of its own, and so has a forked child. A thread keeps the object that it began with.
    A drain hook that ends after its life has ended therefore changes nothing in the next life.

Locks
    Not thread-safe: `Life` holds its lock around `become` and `begin_stop_hooks`. Reading `state` and `shutdown`, and
    setting a field of a `Shutdown`, are single atomic steps. The thread that watches for signals relies on that: it
    polls them without a lock, because a signal may arrive in a thread that holds one.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

__all__ = (
    "DRAINING",
    "READY",
    "STARTING",
    "STOPPED",
    "HookProgress",
    "LifecycleChange",
    "LifecycleMachine",
    "LifecycleState",
    "Shutdown",
)


class LifecycleState(StrEnum):
    """Where a process is between its start and its end."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


STARTING = LifecycleState.STARTING
"""The process waits for its dependencies and runs its start hooks."""
READY = LifecycleState.READY
"""Routers should send requests to the process."""
DRAINING = LifecycleState.DRAINING
"""Routers should send no more requests. Requests in flight go on."""
STOPPED = LifecycleState.STOPPED
"""The stop hooks have run, or the process declared its end without them."""

_ALLOWED_FROM = {
    READY: (STARTING, STOPPED),
    DRAINING: (STARTING, READY),
    STOPPED: (STARTING, READY, DRAINING),
}


class LifecycleChange(NamedTuple):
    """A transition from the state `before` to the state `after`. The process was in `before` for `lasted` seconds."""

    before: LifecycleState
    after: LifecycleState
    lasted: float


class HookProgress(Enum):
    """How far the hooks of one kind have come in one life."""

    NOT_RUN = "not run"
    RUNNING = "running"
    DONE = "done"


class Shutdown:
    """What has been done in one life towards its end. Compared by identity."""

    __slots__ = ("drain_hooks", "is_observed", "stop_hooks")

    def __init__(self) -> None:
        self.drain_hooks = HookProgress.NOT_RUN
        self.stop_hooks = HookProgress.NOT_RUN
        self.is_observed = False
        """Whether the service's own code has begun to wait for the requests in flight."""

    def begin_stop_hooks(self) -> bool:
        """Return True for the first caller, which has to run the stop hooks and set them DONE."""
        is_first = self.stop_hooks is HookProgress.NOT_RUN
        if is_first:
            self.stop_hooks = HookProgress.RUNNING
        return is_first


class LifecycleMachine:
    """The state, since when, and the shutdown of the present life."""

    __slots__ = ("shutdown", "since", "state")

    def __init__(self, now: float) -> None:
        self.state = STARTING
        self.since = now
        self.shutdown = Shutdown()

    @property
    def is_leaving(self) -> bool:
        """Whether the process is draining or stopped."""
        return self.state is DRAINING or self.state is STOPPED

    def become(self, state: LifecycleState, now: float) -> LifecycleChange | None:
        """Enter `state` if that is allowed from the present state. Return None if nothing changed."""
        if self.state not in _ALLOWED_FROM[state]:
            return None
        change = LifecycleChange(self.state, state, now - self.since)
        self.begin_life()
        self.state, self.since = state, now
        if state is DRAINING:
            self.shutdown.drain_hooks = HookProgress.RUNNING
        return change

    def take_drain_back(self, now: float) -> None:
        """Return from draining to ready, with a new shutdown. For tests: no router knows of the drain."""
        if self.state is DRAINING:
            self.state, self.since = READY, now
            self.shutdown = Shutdown()

    def begin_life(self) -> None:
        """Forget the shutdown of the former life, if that has ended."""
        if self.state is STOPPED:
            self.shutdown = Shutdown()
