"""Threads that share one round trip to Redis, led by one of them.

A thread that finds a connection free asks alone. A few connections serve the threads of a process (`MAX_THREAD_LINKS`).
While all of them are in use, the threads that come form a batch. The first of them *leads*: it waits for a connection
and asks for all. So 64 threads need a few commands, and not one each.

A leader that has the answers wakes the first thread only, and each thread wakes the next one. Threads that wake all
together would compete for the interpreter (the GIL), and each of them would take longer.

A leader that an interrupt has struck gives the lead to the next thread. If the interrupt has struck while the server
was asked, that thread asks once more, and some callers may pay twice: the limit errs on the strict side. The bound on
its wait begins anew.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

from resilience._support.fork import renew_after_fork
from resilience.ratelimit.on_redis._batch import ScriptBatch
from resilience.redis._errors import is_of_redis
from resilience.redis._pool_machine import NotAskedError

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit.on_redis._codec import BucketCall, BucketCodec
    from resilience.redis import LuaScript, RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._machine import OutagePermit

__all__ = ("ThreadBatches",)


class ThreadCaller:
    """A thread that waits for its decision, or for the lead of its batch.

    Attributes:
        error: The error that names another server, if the server has done so.
        decision: The decision; None if there is none yet, or if the thread has to decide without Redis.
        leads: The batch that this thread takes to Redis, if any.
        following: The thread to wake after this one.
        has_left: Whether the thread stopped waiting before it was woken.
    """

    __slots__ = ("_arrival", "_is_done", "decision", "error", "following", "has_left", "leads")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.error: Exception | None = None
        self.leads: ThreadBatch | None = None
        self.following: ThreadCaller | None = None
        self.has_left = self._is_done = False
        self._arrival = threading.Lock()
        self._arrival.acquire()

    def done(self) -> bool:
        """Whether the thread has its decision, or has stopped waiting."""
        return self._is_done

    def set_result(self, result: Decision | None) -> None:
        """Record the decision. The thread goes on when it is woken."""
        self.decision, self._is_done = result, True

    def set_exception(self, error: Exception) -> None:
        """Record the error. The thread raises it when it is woken."""
        self.error, self._is_done = error, True

    def wake(self) -> None:
        """Let the thread go on. A second call is of no effect."""
        try:
            self._arrival.release()
        except RuntimeError:  # woken before
            return

    def wait(self, seconds: float) -> bool:
        """Block until this thread is woken, for `seconds` at most; returns whether it was."""
        return self._arrival.acquire(timeout=seconds)

    def leave(self) -> None:
        """Record that the thread does not wait any more."""
        self.has_left = self._is_done = True

    def pass_on(self) -> None:
        """Wake the next thread, if there is one."""
        following = self.following
        if following is not None:
            following.wake()  # before it is forgotten: an interrupt may come in between
            self.following = None

    def __del__(self) -> None:
        self.pass_on()  # an interrupt may have come before `decide` could, or the timeout before there was a next one


class ThreadBatch(ScriptBatch):
    """A batch of threads, in the order in which they came; the first one leads."""

    __slots__ = ("_since", "callers")

    def __init__(self, permit: OutagePermit, connection: RedisConnection, now: float) -> None:
        super().__init__(permit, connection)
        self.callers: list[ThreadCaller] = []
        self._since = now

    def admits(self, permit: OutagePermit, now: float, timeout: float) -> bool:
        """Whether another thread may join. A batch older than `timeout` has lost its leader."""
        return permit is self.permit and not self.is_full and now - self._since < timeout

    def wake(self, leader: ThreadCaller) -> None:
        """Wake all threads but the leader, each by the one before it."""
        waiting = [caller for caller in self.callers if caller is not leader and not caller.has_left]
        for caller, following in itertools.pairwise(waiting):
            caller.following = following
        if waiting:
            waiting[0].wake()


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
        # Guards the open batch and the lead; never held while Redis is asked. Re-entrant, for finalizers that make
        # calls.
        self._lock = threading.RLock()

    @property
    def is_forming(self) -> bool:
        """Whether threads wait for a connection. A thread that comes now joins them, and does not overtake them."""
        return self._open is not None

    def decide(self, codec: BucketCodec, permit: OutagePermit, call: BucketCall, cost: int) -> Decision | None:
        """Return the decision of a caller that shares a round trip, or None if it got none in time; blocks.

        Args:
            codec: Decodes the reply.
            permit: The permit to ask Redis.
            call: The bucket, and the arguments of the script.
            cost: Tokens that the caller wants.

        Raises:
            ResponseError: Of redis-py: the server has named another one.
        """
        caller = ThreadCaller()
        try:
            self._join(codec, permit, call, cost, caller)
            if caller.leads is None and not caller.wait(self._connection.options.timeout):
                with self._lock:  # or it has the lead at the last moment
                    caller.leave()
            if caller.leads is not None:
                self._lead(caller.leads, caller)
        except BaseException as error:
            if not _is_about_redis(error):
                self._hand_on(caller)
            raise
        finally:
            caller.leads = None  # the batch and its leader are no cycle of references any more
            # At the end: a thread that wakes earlier would find the interpreter taken, and sleep once more.
            caller.pass_on()
        if caller.error is not None:
            raise caller.error
        return caller.decision

    def _join(
        self, codec: BucketCodec, permit: OutagePermit, call: BucketCall, cost: int, caller: ThreadCaller
    ) -> None:
        """Add `caller` to the open batch, or make it the leader of a new one."""
        now = time.monotonic()
        with self._lock:
            batch = self._open
            if batch is None or not batch.admits(permit, now, self._connection.options.timeout):
                batch = caller.leads = ThreadBatch(permit, self._connection, now)
                self._open = batch
            batch.callers.append(caller)
            batch.add(codec, call, cost, caller)

    def _lead(self, batch: ThreadBatch, leader: ThreadCaller) -> None:
        """Ask for all callers that have joined. Callers that get no answer are woken without a decision."""

        def ask(connection: AbstractConnection) -> list[Reply]:
            self._close(batch)
            if not (calls := batch.script_calls()):
                return []
            replies = self._script.call(connection, calls)
            if batch.is_split(replies):
                replies = self._script.call(connection, batch.script_calls())
            return replies

        try:
            batch.answer(self._connection.pool.run(ask))
        except Exception as error:
            if not _is_about_redis(error):  # an interrupt: the next thread leads
                raise
            self._close(batch)
            batch.settle_rest()
            batch.wake(leader)
            raise
        batch.wake(leader)

    def _hand_on(self, caller: ThreadCaller) -> None:
        """Let the callers go on without `caller`, which was interrupted; one of them leads in its place."""
        batch, successor = caller.leads, None
        if batch is not None:
            self._close(batch)
            with self._lock:
                caller.leave()
                for each in batch.callers:
                    if successor is None and not each.done():
                        each.leads = batch
                        successor = each
            for each in batch.callers:
                if each.done() or each is successor:
                    each.wake()
        caller.leave()

    def _close(self, batch: ThreadBatch) -> None:
        """Let no other thread join `batch`."""
        with self._lock:
            if self._open is batch:
                self._open = None


def _is_about_redis(error: BaseException) -> bool:
    """Whether `error` is about Redis or the pool. Any other error was raised from outside, as by a signal."""
    return isinstance(error, NotAskedError) or (isinstance(error, Exception) and is_of_redis(error))
