"""The deadline has come: the task of an RPC is stopped, but for its writes."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from resilience import Deadline
from resilience.server import Bell

__all__ = ("PATIENCE", "Alarm", "Alarms")

PATIENCE = 1.0
"""Seconds for which a client that does not read is waited for."""


class Alarm:
    """One task that is to be stopped, once, as `asyncio.timeout` would: its `finally` blocks may await.

    A write that is under way ends first. grpc.aio takes a first one that was cancelled for one that never began, and
    can end the RPC no more. `overdue` is called where the client keeps a write from ending. Nothing but such a write is
    stopped where the task `is_of_thread`, which cannot be.
    """

    __slots__ = (
        "_before", "_due", "_has_rung", "_has_stopped", "_has_written", "_is_of_thread", "_overdue", "_task", "_writes",
    )  # fmt: skip

    def __init__(
        self,
        task: asyncio.Task[object],
        due: dict[Alarm, None],
        overdue: Callable[[], object] | None,
        *,
        is_of_thread: bool,
    ) -> None:
        self._task = task
        self._before = task.cancelling()
        self._due = due
        self._overdue = overdue
        self._is_of_thread = is_of_thread
        self._has_rung = self._has_stopped = self._has_written = False
        self._writes = 0

    def ring(self) -> None:
        """Stop the task, or have it stopped after its write."""
        self._has_rung = True
        if self._writes or self._is_of_thread:
            self._task.get_loop().call_later(PATIENCE, self._insist)
        else:
            self._stop()

    async def spare(self, write: Awaitable[Any]) -> None:
        """Await a write of the task, or of one that works for it, and stop the task no sooner."""
        self._writes += 1
        try:
            await write
            self._has_written = True
        finally:
            self._writes -= 1
        if self._has_rung and not self._is_of_thread:
            self._stop()
            await _turn()  # it stops here, and not wherever it next awaits something

    def _insist(self) -> None:
        """Wait for the write no longer, save for a first one: without it the client would never hear of the end."""
        if self._has_stopped:
            return
        if self._is_of_thread and not self._writes:
            self.ring()
            return
        if self._overdue is not None:
            self._overdue()
        if self._has_written or not self._writes:
            self._stop()

    def _stop(self) -> None:
        if not self._has_stopped:
            self._has_stopped = True
            self._task.cancel()

    def ends(self, error: BaseException | None = None) -> bool:
        """Let the task be from now on, and tell whether `error` is nothing but its being stopped."""
        if not self._has_rung:
            self._due.pop(self, None)
            return False
        was_stopped, self._has_stopped = self._has_stopped, True
        # A cancellation from outside that came along with ours must go on.
        return was_stopped and self._task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError)


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Let the loop go round once."""
    yield


class Alarms:
    """Those of one server."""

    __slots__ = ("_bell",)

    def __init__(self) -> None:
        self._bell: Bell[Alarm, None] | None = None

    def watch(
        self, deadline: Deadline, overdue: Callable[[], object] | None = None, *, is_of_thread: bool = False
    ) -> Alarm:
        """Have the running task stopped when `deadline` passes, unless its alarm `ends` before."""
        loop, bell = asyncio.get_running_loop(), self._bell
        if bell is None or bell.loop is not loop:
            bell = self._bell = Bell(loop, _ring)
        due = bell.round_of(deadline)
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - grpc.aio serves every RPC in a task
        alarm = Alarm(task, due, overdue, is_of_thread=is_of_thread)
        due[alarm] = None
        return alarm


def _ring(alarm: Alarm, _: None) -> None:
    alarm.ring()
