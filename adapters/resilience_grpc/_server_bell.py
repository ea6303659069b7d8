"""The deadline has come: tasks are stopped on time, at less than a timer each."""

from __future__ import annotations

import asyncio
from contextvars import Context

from resilience import Deadline

__all__ = ("Alarm", "Bell")

_TICKS = 200
"""Per second."""


class Alarm:
    """One task that is to be stopped, once, as `asyncio.timeout` would: its `finally` blocks may await."""

    __slots__ = ("_before", "_due", "_has_rung", "_task")

    def __init__(self, task: asyncio.Task[object], due: dict[Alarm, None]) -> None:
        self._task = task
        self._before = task.cancelling()
        self._due = due
        self._has_rung = False

    def ring(self) -> None:
        """Stop the task."""
        self._has_rung = True
        self._task.cancel()

    def ends(self, error: BaseException | None = None) -> bool:
        """Let the task be from now on, and tell whether `error` is nothing but its being stopped."""
        if not self._has_rung:
            self._due.pop(self, None)
            return False
        # A cancellation from outside that came along with ours must go on.
        return self._task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError)


class Bell:
    """Rings for the deadlines of one event loop, a few milliseconds late at most.

    A timer of the loop costs more than all else that is done for an RPC, and hardly any is ever needed: those due in
    the same few milliseconds share one, and leave it when they are done.
    """

    __slots__ = ("_due", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: dict[int, dict[Alarm, None]] = {}

    def watch(self, deadline: Deadline) -> Alarm:
        """Have the running task stopped when `deadline` passes, unless its alarm `ends` before."""
        tick = int(deadline.at * _TICKS) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = {}
            # The context of whichever RPC comes first must not outlive it, let alone ring for the others (L19).
            self.loop.call_later(deadline.remaining() + 1 / _TICKS, self._ring, tick, context=Context())
        task = asyncio.current_task(self.loop)
        assert task is not None  # noqa: S101 - grpc.aio serves every RPC in a task
        alarm = Alarm(task, due)
        due[alarm] = None
        return alarm

    def _ring(self, tick: int) -> None:
        for alarm in self._due.pop(tick):
            alarm.ring()
