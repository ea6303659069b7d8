"""How a pool lends to threads, and how threads of the executor connect, check and close.

The lock is held for one decision of the machine at a time, never during a callback. Finalizers and signal handlers may
run in the very thread that holds it. An entry that they give back in the midst of a change (`_is_changing`) is put on
`_returned`, and that change takes it from there.
"""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from resilience._support.executor import Executor, Work
from resilience._support.fork import renew_after_fork
from resilience.pool._callbacks import BlockingBreaker, BlockingCallbacks
from resilience.pool._closing import PoolClosing
from resilience.pool._connecting import Attempt
from resilience.pool._core import PoolCore, PoolLending, stack_of_borrower
from resilience.pool._entry import Borrower, BorrowOutcome, PoolEntry, PoolState
from resilience.pool._lease import Loan, not_held
from resilience.pool._machine import PoolMachine
from resilience.pool._timer import TIMER
from resilience.timeout import Deadline

__all__ = ("ThreadLending",)

C = TypeVar("C")
P = ParamSpec("P")
T = TypeVar("T")

_CHORES = Executor(None)
"""Runs the maintenance of all pools."""


class ThreadLending(PoolLending, Generic[C]):
    """Lends the connections of one pool.

    Args:
        core: The machine of the pool, and its errors and events.
        breaker: Guards `connect`, None for no guard.
    """

    def __init__(self, core: PoolCore[C, Loan[C]], breaker: BlockingBreaker | None) -> None:
        self._core, self._clock, self._breaker = core, core.clock, breaker
        self._records_stacks = core.options.leak_detection_threshold is not None
        self._resets = core.connector.reset is not None
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the connections: they are the parent's. They are neither closed nor collected here."""
        core = self._core
        core.start_afresh()
        self._machine = core.machine
        self._callbacks = BlockingCallbacks(core.name, core.connector, core.options, self._breaker)
        self._lock = threading.RLock()
        self._is_changing = False
        self._returned: list[tuple[PoolEntry[C], str]] = []  # given back in the midst of a change
        self._has_begun = False
        self._waits_to_retry = False
        self._closing = PoolClosing(core, self._callbacks)

    # Lending

    def lend(self, loan: Loan[C]) -> None:
        """Give a loan an entry."""
        now = self._clock()
        if not self._machine.take(loan, now):
            self._lend_slowly(loan, now)
        elif self._returned:
            self.settle()
        if self._records_stacks:
            loan.entry.stack = stack_of_borrower(self._core.connector.between)  # type: ignore[union-attr]  # it has one

    def _lend_slowly(self, loan: Loan[C], since: float) -> None:
        timeout = self._core.options.connection_timeout if loan.timeout is None else loan.timeout
        loan.by_deadline = False
        deadline = Deadline.current()
        if deadline is not None and deadline.remaining() < timeout:
            timeout, loan.by_deadline = max(0.0, deadline.remaining()), True
        self._begin()
        try:
            while not self._is_fit(loan, since + timeout):
                if not self._machine.take(loan, self._clock()) and loan.entry is None:
                    self._queue(loan, since, since + timeout)
        except BaseException:
            self._abandon(loan)
            raise

    def _queue(self, loan: Loan[C], since: float, until: float) -> None:
        """Wait in the queue for an entry."""
        loan.prepare()
        outcome = self.change(self._machine.arrive, loan, self._clock())
        self.settle()
        if outcome is BorrowOutcome.QUEUED:
            self._wait(loan, since, until)
        elif outcome is not BorrowOutcome.LENT:
            raise self._core.refusal(outcome)

    def _wait(self, loan: Loan[C], since: float, until: float) -> None:
        loan.wait(max(0.0, until - self._clock()))
        if loan.entry is None and loan.error is None:
            is_out = self.change(self._machine.give_up, loan)
            self.settle()  # a finalizer may have given an entry back in the midst of the change
            if is_out:
                raise self._core.timed_out(self._clock() - since, by_deadline=loan.by_deadline)
        if loan.error is not None:
            raise copy.copy(loan.error)

    def _is_fit(self, loan: Loan[C], until: float) -> bool:
        """Return whether the loan has an entry that works. One that is too old, or does not work, is closed."""
        entry, now = loan.entry, self._clock()
        if entry is None or now < entry.fresh_until:
            return entry is not None
        if now >= entry.expires_at:
            self._return(loan, entry.reason)
            return False
        is_alive = False
        try:
            longest = min(self._core.options.longest_validation, max(0.0, until - now))
            is_alive = self._callbacks.is_alive(entry.connection, longest)
        finally:
            if not is_alive:
                self._return(loan, "check failed")
        return is_alive

    def _abandon(self, loan: Loan[C]) -> None:
        """End a borrow that an error or an interrupt has ended, wherever it has come to."""
        self.change(self._machine.leave, loan)
        if loan.entry is not None:  # handed over meanwhile, and not used
            self._return(loan, "")
        else:
            self.settle()

    # Giving back

    def take_back(self, loan: Loan[C]) -> None:
        """Take the entry of a loan back."""
        entry = loan.entry
        if entry is None:
            raise not_held(self.name)
        if self._resets and not self._is_clean(loan, entry):
            return
        if not self._machine.put_back(loan, self._clock()):
            if loan.entry is not None:
                self._return(loan, "")
            else:  # it is idle, and a borrower has joined the queue meanwhile
                self.settle()
        elif self._returned:
            self.settle()

    def _is_clean(self, loan: Loan[C], entry: PoolEntry[C]) -> bool:
        """Reset a connection for the next borrower, if there will be one. Close it and return False if that fails."""
        is_clean = False
        try:
            is_clean = self._clock() >= entry.expires_at or self._callbacks.clean(entry.connection)
        finally:
            if not is_clean:
                self._return(loan, "reset failed")
        return is_clean

    def take_back_after(self, loan: Loan[C], error: BaseException) -> None:
        """Take the entry of a loan back whose block has ended with `error`."""
        entry = loan.entry
        if entry is None:
            raise not_held(self.name)
        callbacks, is_clean = self._callbacks, False
        try:
            if isinstance(error, callbacks.discard_on) or self._clock() >= entry.expires_at:
                return  # closed anyway if it has expired; in a forked child it is the parent's
            if isinstance(error, Exception) and callbacks.has_check:
                is_clean = callbacks.is_alive(entry.connection, self._core.options.longest_validation)
                is_clean = is_clean and (not self._resets or callbacks.clean(entry.connection))
            else:
                is_clean = self._resets and callbacks.clean(entry.connection)
        finally:
            self._return(loan, "" if is_clean else "error in use")

    def take_away(self, loan: Loan[C], reason: str) -> None:
        """Take the entry of a loan back, to be closed."""
        self._return(loan, reason)

    def _return(self, loan: Loan[C], reason: str) -> None:
        """Take an entry back; close it if there is a `reason`."""
        with self._lock:
            if loan.entry is None:
                raise not_held(self.name)
            self._put_by(loan, reason)
        self.settle()

    def lose(self, entry: PoolEntry[C]) -> None:
        """Close the entry of a loan that was dropped. Safe in a finalizer."""
        self._returned.append((entry, "lease lost"))
        if self._lock.acquire(blocking=False):  # else the thread that holds it takes the entry
            self._lock.release()
            if not sys.is_finalizing():
                self.settle()

    def _put_by(self, loan: Loan[C], reason: str) -> None:
        """Put the entry of a loan on the list of those that a change takes back."""
        returned, entry = self._returned, loan.entry
        loan.entry = None
        returned += ((entry, reason),)  # type: ignore[arg-type]  # the caller has looked

    # Changing the machine

    def change(self, step: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Make one change of the machine, and return its result.

        This is no context manager of ours: an interrupt at the end of its `__enter__` would leave the lock taken.
        """
        with self._lock:
            if self._is_changing:
                raise self._core.nested()
            self._is_changing = True
            try:
                return step(*arguments, **named)
            finally:
                self._is_changing = False

    def settle(self) -> None:
        """Work off the outcomes of the machine and the entries from finalizers, and connect if borrowers wait."""
        try:
            self._settle()
        except BaseException:  # an interrupt: the maintenance does the rest
            TIMER.call_in(0, self._maintain_soon)
            raise

    def _settle(self) -> None:
        machine = self._machine
        while self._returned or machine.handed or machine.doomed or machine.found or machine.is_unmatched:
            with self._lock:
                if self._is_changing:
                    return  # a finalizer in the midst of a change, which is followed by its own `settle`
                self._is_changing = True
                try:
                    self._take_back_returned(machine)
                    machine.match(self._clock())
                    _wake_all(machine.handed)
                    doomed, machine.doomed = machine.doomed, []
                    found, machine.found = machine.found, []
                finally:
                    self._is_changing = False
            self._closing.close_all(doomed)
            for entry, held in found:
                self._core.report_found(entry, held)
        self._connect_if_wanted()

    def _take_back_returned(self, machine: PoolMachine[C, Loan[C]]) -> None:
        returned = self._returned
        stand_in: Any = Borrower()
        while returned:
            entry, reason = returned[0]
            stand_in.entry = entry
            if reason:
                machine.discard(stand_in, self._clock(), reason)
            else:
                machine.give_back(stand_in, self._clock())
            del returned[0]  # not before the machine has it: an interrupt may end each of these calls

    # Connecting and maintenance

    def _begin(self) -> None:
        """Begin the maintenance, with the first borrower or `start`."""
        if not self._has_begun:
            self._has_begun = True
            self._tick_later()

    def _connect_if_wanted(self) -> None:
        machine, now = self._machine, self._clock()
        if not machine.wanted:
            return
        attempts: list[Attempt] = []
        try:
            with self._lock:
                if self._is_changing:
                    return
                attempts = machine.begin_attempts(now)
            for attempt in attempts:
                self._connect(attempt)
        except BaseException:  # an interrupt: the maintenance begins other attempts
            for attempt in attempts:
                machine.connecting.withdraw(attempt)
            raise
        if not attempts and machine.wanted and not self._waits_to_retry:
            self._waits_to_retry = True
            TIMER.call_in(machine.connecting.retry_at - now, self._retry)

    def _connect(self, attempt: Attempt) -> Work:
        TIMER.call_in(self._core.options.connect_timeout, self._maintain_soon)
        return self._callbacks.connect(partial(self._connected, attempt))

    def _connected(self, attempt: Attempt, connection: Any, error: BaseException | None) -> None:
        """Take the connection or the error of an attempt. Runs in its thread."""
        now = self._clock()
        if error is not None:
            self._failed(attempt, error)
            return
        is_in_time = self.change(self._machine.connected, attempt, connection, now)
        if is_in_time:
            self._core.report_created(now - attempt.since)
        else:
            self._closing.close(connection)
        self.settle()

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
        is_news = self.change(self._machine.failed, attempt, error, self._clock())
        if is_news:
            self._core.report_connect_failure(error)
        self.settle()

    def _retry(self) -> None:
        self._waits_to_retry = False
        self._run_soon(self._connect_if_wanted)

    def _tick_later(self) -> None:
        TIMER.call_in(self._core.options.tick, self._tick)

    def _tick(self) -> None:
        if self._machine.state is PoolState.CLOSED:
            self._has_begun = False
        else:
            self._tick_later()
            self._maintain_soon()

    def _maintain_soon(self) -> None:
        self._run_soon(self._maintain)

    def _run_soon(self, function: Callable[[], None]) -> None:
        _CHORES.submit(Work(function, Context()))  # without a thread, the next tick tries again

    def _maintain(self) -> None:
        """Do one round of maintenance."""
        core = self._core
        round_ = self.change(self._machine.maintain, self._clock())
        for attempt in round_.late:
            self._failed(attempt, core.late())
        for entry, held in round_.suspects:
            core.report_leak(entry, held)
        for entry in round_.due:
            is_alive = self._callbacks.is_alive(entry.connection, core.options.longest_validation)
            self.change(self._machine.restore, entry, self._clock(), is_alive=is_alive)
        self.settle()

    def start(self) -> None:
        """Begin the maintenance and connecting; wait for a first connection if the options say so."""
        self._core.refuse_if_closed()
        self._begin()
        limit = self._core.options.initialization_fail_timeout
        if limit is not None and not self._machine.entries:
            with self._machine.connecting.start():
                self._connect_first(limit)
        self._connect_if_wanted()

    def _connect_first(self, limit: float) -> None:
        since, connecting, longest = self._clock(), self._machine.connecting, self._core.options.connect_timeout
        before = connecting.created
        while connecting.created == before:
            self._core.refuse_if_closed()
            now = self._clock()
            attempt = self.change(connecting.begin_first, now)
            left = since + limit - now if limit else longest
            self._connect(attempt).wait(max(0.0, min(longest, left)))
            if connecting.created == before:
                if left >= longest:
                    self._failed(attempt, self._core.late())
                left = since + limit - self._clock()
                if left <= 0:
                    raise self._core.timed_out(self._clock() - since, by_deadline=False)
                time.sleep(max(0.0, min(left, connecting.retry_at - self._clock())))

    def reopen(self) -> None:
        """Lend again after `close`."""
        self.change(self._machine.reopen)
        self._closing = PoolClosing(self._core, self._callbacks)

    def close(self, seconds: float) -> None:
        """Close the pool, and wait for its connections for `seconds` at most; abort those that are still in use."""
        until = self._clock() + seconds
        self.change(self._machine.close, self._core.closed())
        self.settle()
        self._closing.wait(until)


def _wake_all(loans: list[Loan[C]]) -> None:
    while loans:
        loans[-1].wake()
        del loans[-1]
