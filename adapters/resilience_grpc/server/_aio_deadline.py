"""The deadline of an RPC on an event loop: its task is cancelled when the deadline passes, but not within a write.

grpc.aio treats a first write that was cancelled as a write that never began, and can then no longer end the RPC. So a
write that is under way ends first. Only a client that does not read keeps a write from ending; the server waits for it
for `WRITE_PATIENCE` seconds.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator

from resilience import Deadline
from resilience.server import DeadlineWheel

__all__ = ("WRITE_PATIENCE", "TaskDeadline", "TaskDeadlines")

WRITE_PATIENCE = 1.0
"""Seconds for which the server waits for a client that does not read."""


class TaskDeadline:
    """Cancels one task once, as `asyncio.timeout` would: the `finally` blocks of the task may await.

    Args:
        task: The task that serves the RPC.
        slot: The slot of the deadline wheel in which this deadline stands.
        on_stuck_write: Called if the client keeps a write from ending, or None.
        is_of_thread: The task waits for a thread, which cannot be stopped. Only a write that gets stuck is cancelled.
    """

    __slots__ = (
        "_cancellations_before", "_has_cancelled", "_has_expired", "_has_written", "_is_of_thread", "_on_stuck_write",
        "_slot", "_task", "_writes",
    )  # fmt: skip

    def __init__(
        self,
        task: asyncio.Task[object],
        slot: dict[TaskDeadline, None],
        on_stuck_write: Callable[[], object] | None,
        *,
        is_of_thread: bool,
    ) -> None:
        self._task = task
        self._cancellations_before = task.cancelling()
        self._slot = slot
        self._on_stuck_write = on_stuck_write
        self._is_of_thread = is_of_thread
        self._has_expired = self._has_cancelled = self._has_written = False
        self._writes = 0

    def expire(self) -> None:
        """Cancel the task, now or after its write."""
        self._has_expired = True
        if self._writes or self._is_of_thread:
            self._task.get_loop().call_later(WRITE_PATIENCE, self._force)
        else:
            self._cancel()

    async def shield_write(self, write: Awaitable[None]) -> None:
        """Await a write of the task, or of a task that works for it. The task is not cancelled before it has ended."""
        self._writes += 1
        try:
            await write
            self._has_written = True
        finally:
            self._writes -= 1
        if self._has_expired and not self._is_of_thread:
            self._cancel()
            await _next_turn()  # the cancellation arrives here, and not at the next await of the handler

    def _force(self) -> None:
        """Cancel a write that is stuck, unless it is the first: without it the client would never learn of the end."""
        if self._has_cancelled:
            return
        if self._is_of_thread and not self._writes:
            self.expire()
            return
        if self._on_stuck_write is not None:
            self._on_stuck_write()
        if self._has_written or not self._writes:
            self._cancel()

    def _cancel(self) -> None:
        if not self._has_cancelled:
            self._has_cancelled = True
            self._task.cancel()

    def finish(self, error: BaseException | None = None) -> bool:
        """Cancel no more, and return whether `error` is only the cancellation by this deadline."""
        if not self._has_expired:
            self._slot.pop(self, None)
            return False
        was_cancelled, self._has_cancelled = self._has_cancelled, True
        if not was_cancelled:
            return False
        # A cancellation from outside that came at the same time must go on.
        is_only_ours = self._task.uncancel() <= self._cancellations_before
        return is_only_ours and isinstance(error, asyncio.CancelledError)


@types.coroutine
def _next_turn() -> Generator[None, None, None]:
    """Let the loop run once."""
    yield


class TaskDeadlines:
    """The deadlines of the RPCs of one server, on one wheel for each loop."""

    __slots__ = ("_wheel",)

    def __init__(self) -> None:
        self._wheel: DeadlineWheel[TaskDeadline, None] | None = None

    def start(
        self, deadline: Deadline, on_stuck_write: Callable[[], object] | None = None, *, is_of_thread: bool = False
    ) -> TaskDeadline:
        """Have the running task cancelled when `deadline` passes, unless `finish` is called before.

        Args:
            deadline: When to cancel.
            on_stuck_write: Called if the client keeps a write from ending. Default: None.
            is_of_thread: The task waits for a thread. See `TaskDeadline`. Default: False.
        """
        loop, wheel = asyncio.get_running_loop(), self._wheel
        if wheel is None or wheel.loop is not loop:
            wheel = self._wheel = DeadlineWheel(loop, _expire)
        slot = wheel.slot_for(deadline)
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - grpc.aio serves every RPC in a task
        started = TaskDeadline(task, slot, on_stuck_write, is_of_thread=is_of_thread)
        slot[started] = None
        return started


def _expire(deadline: TaskDeadline, _: None) -> None:
    deadline.expire()
