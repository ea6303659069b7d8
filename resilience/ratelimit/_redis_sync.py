"""Asking Redis and blocking for the answer.

A thread that finds a connection free asks alone. Threads that find none form a batch: the first of them waits for a
connection and asks for all. So a process with more threads than connections needs fewer round trips, not more time.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from resilience._support.fork import renew_after_fork
from resilience.clock import monotonic
from resilience.ratelimit._batch import Batch
from resilience.redis import Attempt
from resilience.redis._exchange import exchange, packed

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._redis import RedisLedger, RedisStore
    from resilience.redis._machine import Permit
    from resilience.redis._script import Question

__all__ = ("Gathering", "reset", "take")


def take(ledger: RedisLedger, key: str, cost: int, allowance: float) -> Decision:
    """Pay `cost` tokens on Redis, or decide alone while it is away. Never raises because of Redis."""
    store = ledger.store
    question = ledger.question(key, cost, allowance)
    permit = store.outage.admit()
    if permit is not None:
        with Attempt(store.outage, permit):
            replies = store.connection.pool.ask_now(store.script.talk((question,)))
            if replies is not None:
                return ledger.answer(_checked(replies[0]), cost)
            decision = _ask_together(ledger, permit, question, cost)
            if decision is not None:
                return decision
    return ledger.alone(key, cost, allowance)


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


class Waiter:
    """A thread that waits for its decision."""

    __slots__ = ("_arrival", "_is_done", "decision")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self._is_done = False
        self._arrival = threading.Lock()
        self._arrival.acquire()

    def done(self) -> bool:
        """Whether the thread has its decision, or has gone away."""
        return self._is_done

    def set_result(self, result: Decision | None) -> None:
        """Let the thread go on."""
        self.decision, self._is_done = result, True
        self._arrival.release()

    def wait(self, seconds: float) -> None:
        """Block until there is a decision, for `seconds` at most."""
        if not self._arrival.acquire(timeout=seconds):
            self._is_done = True


class ThreadBatch(Batch):
    """A batch that a thread takes to Redis as soon as it has a connection."""

    __slots__ = ("_since", "_store", "maker")

    def __init__(self, store: RedisStore, permit: Permit, maker: Waiter, now: float) -> None:
        super().__init__(permit)
        self.maker = maker
        self._store = store
        self._since = now

    def takes(self, permit: Permit, now: float) -> bool:
        """Whether another thread may join. A batch that is too old has lost its thread to an interrupt."""
        return permit is self.permit and not self.is_full and now - self._since < self._store.connection.options.timeout

    def make(self) -> None:
        """Ask for all that have joined; lets those threads go on that get no answer."""
        try:
            self.answer(self._store.connection.pool.ask(self._ask))
        finally:
            self._store.gathering.end(self)
            self.let_go()

    def _ask(self, connection: AbstractConnection) -> list[Any]:
        self._store.gathering.end(self)
        questions = self.questions()
        return self._store.script.talk(questions)(connection) if questions else []


class Gathering:
    """The batch that threads may join now."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the batch: its threads are the parent's."""
        self._open: ThreadBatch | None = None
        # Guards the batch that is open; never held while Redis is asked. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    def join(
        self, ledger: RedisLedger, permit: Permit, question: Question, cost: int, who: Waiter
    ) -> ThreadBatch | None:
        """Add `who` to a batch; returns the batch if this thread has to make it."""
        key, arguments = question
        now = monotonic()
        with self._lock:
            batch, is_first = self._open, False
            if batch is None or not batch.takes(permit, now):
                batch, is_first = ThreadBatch(ledger.store, permit, who, now), True
                self._open = batch
            batch.add(ledger, key, tuple(arguments), cost, who)
        return batch if is_first else None

    def interrupted(self, who: Waiter) -> None:
        """Let those decide alone that have joined the batch which `who` was to make."""
        batch = self._open
        if batch is not None and batch.maker is who:
            self.end(batch)
            batch.let_go()

    def end(self, batch: ThreadBatch) -> None:
        """Let no other thread join `batch`."""
        with self._lock:
            if self._open is batch:
                self._open = None


def _ask_together(ledger: RedisLedger, permit: Permit, question: Question, cost: int) -> Decision | None:
    """Return the decision, or None if the batch got none."""
    who = Waiter()
    try:
        batch = ledger.store.gathering.join(ledger, permit, question, cost, who)
        if batch is not None:
            batch.make()
        else:
            who.wait(ledger.store.connection.options.timeout)
    except BaseException:
        ledger.store.gathering.interrupted(who)
        raise
    return who.decision


def reset(ledger: RedisLedger, key: str) -> None:
    """Delete the bucket of `key`; while Redis is away, do nothing."""
    command = packed(b"DEL", ledger.redis_key(key))
    with ledger.store.outage.attempt() as attempt:
        if attempt.may_try:
            pool = ledger.store.connection.pool

            def delete(connection: AbstractConnection) -> list[Any]:
                return exchange(connection, (command,))

            _checked((pool.ask_now(delete) or pool.ask(delete))[0])
