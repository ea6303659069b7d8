"""Threads that share one round trip to Redis.

A thread that finds a connection free asks alone. Threads that find none form a batch: the first of them waits for a
connection and asks for all. So a process with more threads than connections needs fewer round trips, not more time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from resilience._support.fork import renew_after_fork
from resilience.ratelimit.on_redis._batch import ScriptBatch

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit.on_redis._codec import BucketCall, BucketCodec
    from resilience.redis import LuaScript, RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._machine import OutagePermit

__all__ = ("ThreadBatches",)


class ThreadCaller:
    """A thread that waits for its decision."""

    __slots__ = ("_arrival", "_is_done", "decision")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self._is_done = False
        self._arrival = threading.Lock()
        self._arrival.acquire()

    def done(self) -> bool:
        """Whether the thread has its decision, or has stopped waiting."""
        return self._is_done

    def set_result(self, result: Decision | None) -> None:
        """Wake the thread."""
        self.decision, self._is_done = result, True
        self._arrival.release()

    def wait(self, seconds: float) -> None:
        """Block until there is a decision, for `seconds` at most."""
        if not self._arrival.acquire(timeout=seconds):
            self._is_done = True


class ThreadBatch(ScriptBatch):
    """A batch that the thread `opener` takes to Redis as soon as it has a connection."""

    __slots__ = ("_since", "opener")

    def __init__(
        self, permit: OutagePermit, slot_of: Callable[[bytes], Hashable], opener: ThreadCaller, now: float
    ) -> None:
        super().__init__(permit, slot_of)
        self.opener = opener
        self._since = now

    def admits(self, permit: OutagePermit, now: float, timeout: float) -> bool:
        """Whether another thread may join. A batch older than `timeout` has lost its thread to an interrupt."""
        return permit is self.permit and not self.is_full and now - self._since < timeout


class ThreadBatches:
    """The batches of the threads of a process: at most one is open for more callers.

    Args:
        connection: Gives the connections and the timeout.
        script: The script to run.
    """

    def __init__(self, connection: RedisConnection, script: LuaScript) -> None:
        self._connection = connection
        self._script = script
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the open batch: its threads are the parent's."""
        self._open: ThreadBatch | None = None
        # Guards the open batch; never held while Redis is asked. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    def decide(self, codec: BucketCodec, permit: OutagePermit, call: BucketCall, cost: int) -> Decision | None:
        """Return the decision of a caller that shares a round trip, or None if it got none in time; blocks.

        Args:
            codec: Decodes the reply.
            permit: The permit to ask Redis.
            call: The bucket, and the arguments of the script.
            cost: Tokens that the caller wants.
        """
        caller = ThreadCaller()
        try:
            batch = self._join(codec, permit, call, cost, caller)
            if batch is not None:
                self._run(batch)
            else:
                caller.wait(self._connection.options.timeout)
        except BaseException:
            self._on_interrupt(caller)
            raise
        return caller.decision

    def _join(
        self, codec: BucketCodec, permit: OutagePermit, call: BucketCall, cost: int, caller: ThreadCaller
    ) -> ThreadBatch | None:
        """Add `caller` to a batch; returns the batch if this thread has to take it to Redis."""
        now = time.monotonic()
        with self._lock:
            batch, is_first = self._open, False
            if batch is None or not batch.admits(permit, now, self._connection.options.timeout):
                batch, is_first = ThreadBatch(permit, self._connection.slot_of, caller, now), True
                self._open = batch
            batch.add(codec, call, cost, caller)
        return batch if is_first else None

    def _run(self, batch: ThreadBatch) -> None:
        """Ask for all callers that have joined. Callers that get no answer are woken without a decision."""

        def ask(connection: AbstractConnection) -> list[Reply]:
            self._close(batch)
            calls = batch.script_calls()
            return self._script.call(connection, calls) if calls else []

        try:
            batch.answer(self._connection.pool.run(ask))
        finally:
            self._close(batch)
            batch.settle_rest()

    def _on_interrupt(self, caller: ThreadCaller) -> None:
        """Wake the callers that have joined the batch which the interrupted `caller` was to take to Redis."""
        batch = self._open
        if batch is not None and batch.opener is caller:
            self._close(batch)
            batch.settle_rest()

    def _close(self, batch: ThreadBatch) -> None:
        """Let no other thread join `batch`."""
        with self._lock:
            if self._open is batch:
                self._open = None
