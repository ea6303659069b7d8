"""Callers that share one round trip to Redis.

Callers that want the same payment from the same bucket are one *entry*, and the first ones in it get the tokens. A
*batch* holds entries of different buckets. It is bounded: the server runs the commands of a round trip one after the
other, and the last caller waits for all of them.

A thread that finds a connection free asks alone. Threads that find none form a batch: the first of them waits for a
connection and asks for all. So a process with more threads than connections needs fewer round trips, not more time. The
batches of tasks are in `_batch_aio.py`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from resilience._support.fork import renew_after_fork

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit.on_redis._codec import BucketCodec
    from resilience.redis import LuaScript, RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._machine import OutagePermit
    from resilience.redis._script import ScriptCall

__all__ = ("MAX_BATCH", "BatchCaller", "ScriptBatch", "ThreadBatches")

MAX_BATCH = 128
"""The largest number of buckets that one round trip asks for: less than a millisecond of the server's time."""


class BatchCaller(Protocol):
    """A caller that waits for its decision. None as a decision means that it has to decide without Redis."""

    def done(self) -> bool:
        """Whether the caller has its decision, or has stopped waiting."""
        ...

    def set_result(self, result: Decision | None, /) -> None:
        """Wake the caller."""
        ...


class BatchEntry:
    """Callers that want the same payment from the same bucket."""

    __slots__ = ("_arguments", "_callers", "_codec", "_cost", "_key")

    def __init__(self, codec: BucketCodec, redis_key: bytes, arguments: tuple[int, ...], cost: int) -> None:
        self._codec, self._key, self._arguments, self._cost = codec, redis_key, arguments, cost
        self._callers: list[BatchCaller] = []

    def join(self, caller: BatchCaller) -> None:
        """Add a caller at the end."""
        self._callers.append(caller)

    def script_call(self) -> ScriptCall | None:
        """Return the script call for all callers that still wait, or None if no caller does."""
        self._callers = [each for each in self._callers if not each.done()]
        return (self._key, (*self._arguments, len(self._callers))) if self._callers else None

    def decode(self, reply: Reply) -> list[Decision]:
        """Return the decisions, in the order of the callers."""
        return self._codec.decode_batch(reply, self._cost, len(self._callers))

    def settle(self, decisions: Iterable[Decision | None]) -> None:
        """Wake the callers."""
        for caller, decision in zip(self._callers, decisions, strict=False):
            if not caller.done():
                caller.set_result(decision)


class ScriptBatch:
    """The entries of one round trip, and the permit under which it asks Redis."""

    __slots__ = ("_asked", "_entries", "permit")

    def __init__(self, permit: OutagePermit) -> None:
        self.permit = permit
        self._entries: dict[tuple[bytes, tuple[int, ...]], BatchEntry] = {}
        self._asked: list[BatchEntry] = []

    @property
    def is_full(self) -> bool:
        """Whether another bucket has to take the next round trip."""
        return len(self._entries) >= MAX_BATCH

    def add(
        self, codec: BucketCodec, redis_key: bytes, arguments: tuple[int, ...], cost: int, caller: BatchCaller
    ) -> None:
        """Add a caller.

        Args:
            codec: Decodes the reply for this caller.
            redis_key: The bucket.
            arguments: The arguments of the script.
            cost: Tokens that the caller wants.
            caller: Woken by `answer` or `settle_rest`.
        """
        entry = self._entries.get((redis_key, arguments))
        if entry is None:
            entry = self._entries[redis_key, arguments] = BatchEntry(codec, redis_key, arguments, cost)
        entry.join(caller)

    def script_calls(self) -> list[ScriptCall]:
        """Return one script call for each entry that has callers."""
        asked = {entry: call for entry in self._entries.values() if (call := entry.script_call()) is not None}
        self._asked = list(asked)
        return list(asked.values())

    def answer(self, replies: Sequence[Reply]) -> None:
        """Wake the callers that have a decision; then raise the first error among the replies, if there is one."""
        errors = []
        for entry, reply in zip(self._asked, replies, strict=True):
            if isinstance(reply, Exception):
                errors.append(reply)
            else:
                entry.settle(entry.decode(reply))
        if errors:
            raise errors[0]

    def settle_rest(self) -> None:
        """Wake the callers that have no decision yet: they decide without Redis."""
        for entry in self._entries.values():
            entry.settle(itertools.repeat(None))


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

    def __init__(self, permit: OutagePermit, opener: ThreadCaller, now: float) -> None:
        super().__init__(permit)
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

    def decide(self, codec: BucketCodec, permit: OutagePermit, call: ScriptCall, cost: int) -> Decision | None:
        """Return the decision of a caller that shares a round trip, or None if it got none in time; blocks.

        Args:
            codec: Decodes the reply.
            permit: The permit to ask Redis.
            call: The Redis key and the arguments of the script.
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
        self, codec: BucketCodec, permit: OutagePermit, call: ScriptCall, cost: int, caller: ThreadCaller
    ) -> ThreadBatch | None:
        """Add `caller` to a batch; returns the batch if this thread has to take it to Redis."""
        key, arguments = call
        now = time.monotonic()
        with self._lock:
            batch, is_first = self._open, False
            if batch is None or not batch.admits(permit, now, self._connection.options.timeout):
                batch, is_first = ThreadBatch(permit, caller, now), True
                self._open = batch
            batch.add(codec, key, tuple(arguments), cost, caller)
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
