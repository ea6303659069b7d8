"""How a pool lends to the tasks of one event loop, and how tasks of its own connect, check and close.

All of it runs in the thread of the loop, so no lock is needed: only an `await` lets other code run. A task can be
cancelled at each `await`. So code that holds an entry across an `await` gives it back in `except` or `finally`.
Cleaning and closing must not be cut short: they run in tasks of the pool, for which a borrower only waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, ParamSpec, TypeVar, cast

from resilience._support.fork import renew_after_fork
from resilience.errors import ConfigurationError
from resilience.pool._async_lease import AsyncLoan
from resilience.pool._callbacks_aio import AwaitingCallbacks, call_later
from resilience.pool._connecting import Attempt
from resilience.pool._core import PoolCore, PoolLending, stack_of_borrower
from resilience.pool._entry import Borrower, BorrowOutcome, PoolEntry
from resilience.pool._lease import not_held
from resilience.running import running_loop
from resilience.timeout import Deadline

__all__ = ("TaskLending",)

C = TypeVar("C")
P = ParamSpec("P")
T = TypeVar("T")


class TaskLending(PoolLending, Generic[C]):
    """Lends the connections of one pool.

    Args:
        core: The machine of the pool, and its errors and events.
        guarded_connect: The coroutine function that connects, with the breaker around it.
    """

    def __init__(self, core: PoolCore[C, AsyncLoan[C]], guarded_connect: Any) -> None:
        self._core, self._clock = core, core.clock
        self._callbacks = AwaitingCallbacks(core.name, core.connector, core.options.longest_validation, guarded_connect)
        self._records_stacks = core.options.leak_detection_threshold is not None
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the connections and the loop: they are the parent's."""
        self._core.start_afresh()
        self._machine = self._core.machine
        self.loop: asyncio.AbstractEventLoop | None = None
        self._next_tick: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # a loop keeps no task alive by itself
        self._waits_to_retry = False
        self._all_back: asyncio.Event | None = None

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the pool; the first call decides which one it is.

        Raises:
            ConfigurationError: Another loop runs here, or none.
        """
        loop = running_loop(f"AsyncPool {self.name!r}")
        if self.loop is None:
            self.loop = loop
            self._tick_later()
        elif self.loop is not loop:
            state = "closed" if self.loop.is_closed() else "other"
            raise ConfigurationError(
                f"AsyncPool {self.name!r} belongs to the event loop that used it first, and was used in another one "
                f"(the first one is {'closed' if state == 'closed' else 'still open'}): make one pool for each event "
                "loop, and close it before its loop ends"
            )
        return loop

    # Lending

    def take(self, loan: AsyncLoan[C]) -> bool:
        """Lend an idle entry at once, if one is fit. This is the way of nearly all borrows."""
        if asyncio._get_running_loop() is not self.loop or self.loop is None:  # noqa: SLF001 - as `get_running_loop` does
            self.bind()
        is_lent = self._machine.take(loan, self._clock())
        if is_lent and self._records_stacks:
            loan.entry.stack = stack_of_borrower(self._core.connector.between)  # type: ignore[union-attr]  # it has one
        return is_lent

    async def lend(self, loan: AsyncLoan[C]) -> None:
        """Wait for an entry, or raise."""
        since = self._clock()
        timeout = self._core.options.connection_timeout if loan.timeout is None else loan.timeout
        deadline = Deadline.current()
        if deadline is not None and deadline.remaining() < timeout:
            timeout, loan.by_deadline = max(0.0, deadline.remaining()), True
        try:
            while not await self._is_fit(loan, since + timeout):
                if not self._machine.take(loan, self._clock()) and loan.entry is None:
                    await self._queue(loan, since, since + timeout)
        except BaseException:
            self._abandon(loan)
            raise
        if self._records_stacks:
            loan.entry.stack = stack_of_borrower(self._core.connector.between)  # type: ignore[union-attr]  # it has one

    async def _queue(self, loan: AsyncLoan[C], since: float, until: float) -> None:
        """Wait in the queue for an entry."""
        loan.prepare(cast("asyncio.AbstractEventLoop", self.loop))
        outcome = self._machine.arrive(loan, self._clock())
        self.settle()
        if outcome is BorrowOutcome.QUEUED:
            await self._wait(loan, since, until)
        elif outcome is not BorrowOutcome.LENT:
            raise self._core.refusal(outcome)

    async def _wait(self, loan: AsyncLoan[C], since: float, until: float) -> None:
        loop = cast("asyncio.AbstractEventLoop", self.loop)
        timer = loop.call_later(max(0.0, until - self._clock()), self._give_up, loan, since)
        try:
            await loan.arrival
        finally:
            timer.cancel()
        if loan.error is not None:
            raise copy.copy(loan.error)

    def _give_up(self, loan: AsyncLoan[C], since: float) -> None:
        if self._machine.give_up(loan):
            loan.error = self._core.timed_out(self._clock() - since, by_deadline=loan.by_deadline)
            loan.wake()

    async def _is_fit(self, loan: AsyncLoan[C], until: float) -> bool:
        """Return whether the loan has an entry that works. One that is too old, or does not work, is closed."""
        entry, now = loan.entry, self._clock()
        if entry is None or now < entry.fresh_until:
            return entry is not None
        if now >= entry.expires_at:
            self._return(loan, entry.reason)
            return False
        is_alive = False
        try:
            is_alive = await self._callbacks.is_alive(entry.connection, max(0.0, until - now))
        finally:
            if not is_alive:
                self._return(loan, "check failed")
        return is_alive

    def _abandon(self, loan: AsyncLoan[C]) -> None:
        """End a borrow that an error or a cancellation has ended, wherever it has come to."""
        self._machine.leave(loan)
        if loan.entry is not None:  # handed over meanwhile, and not used
            self._return(loan, "")

    # Giving back

    def put_back(self, loan: AsyncLoan[C]) -> bool:
        """Take the entry of a loan back at once, if that is simple. This is the way of nearly all calls."""
        return not self._callbacks.has_reset and self._machine.put_back(loan, self._clock())

    async def take_back(self, loan: AsyncLoan[C], error: BaseException | None = None) -> None:
        """Take the entry of a loan back, whose block has ended with `error`."""
        if loan.entry is None:
            raise not_held(self.name)
        callbacks, is_over = self._callbacks, self._clock() >= loan.entry.expires_at  # if so, it is closed anyway
        if error is None and (is_over or not callbacks.has_reset):
            self._return(loan, "")
        elif (
            is_over
            or isinstance(error, callbacks.discard_on)
            or not (callbacks.has_reset or (callbacks.has_check and isinstance(error, Exception)))
        ):
            self._return(loan, "error in use")
        else:
            stand_in: Any = Borrower()
            stand_in.entry, loan.entry = loan.entry, None
            cleaning = self._spawn(self._clean(stand_in, error))
            if error is None or isinstance(error, Exception):  # a cancelled borrower does not wait
                await asyncio.shield(cleaning)

    async def _clean(self, stand_in: Any, error: BaseException | None) -> None:
        """Find out whether a connection can be lent again. Nothing cuts this short but the end of the loop."""
        connection, callbacks, is_clean = stand_in.entry.connection, self._callbacks, False
        try:
            if isinstance(error, Exception) and callbacks.has_check:
                is_clean = await callbacks.is_alive(connection)
            else:
                is_clean = True
            if is_clean and callbacks.has_reset:
                is_clean = await callbacks.clean(connection)
        finally:
            self._return(stand_in, "" if is_clean else "error in use" if error is not None else "reset failed")

    def take_away(self, loan: AsyncLoan[C], reason: str) -> None:
        """Take the entry of a loan back, to be closed."""
        if loan.entry is None:
            raise not_held(self.name)
        self._return(loan, reason)

    def _return(self, loan: Any, reason: str) -> None:
        now = self._clock()
        if reason:
            self._machine.discard(loan, now, reason)
            self.settle()
        elif not self._machine.put_back(loan, now):
            self._machine.give_back(loan, now)
            self.settle()

    def lose(self, entry: PoolEntry[C]) -> None:
        """Close the entry of a loan that was dropped. Safe in a finalizer, which may run in any thread."""
        stand_in: Any = Borrower()
        stand_in.entry = entry
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the connection with it
            if self.loop is not None:
                self.loop.call_soon_threadsafe(self._return, stand_in, "lease lost")

    # Changing the machine

    def change(self, step: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Make one change of the machine, and return its result."""
        if self.loop is not None:
            self.bind()
        return step(*arguments, **named)

    def settle(self) -> None:
        """Work off the outcomes of the machine, and connect if borrowers wait."""
        machine = self._machine
        while machine.handed or machine.doomed or machine.found:
            handed, machine.handed = machine.handed, []
            doomed, machine.doomed = machine.doomed, []
            found, machine.found = machine.found, []
            for loan in handed:
                loan.wake()
            for entry, reason in doomed:
                self._dispose(entry, reason)
            for entry, held in found:
                self._core.report_found(entry, held)
        self._connect_if_wanted()

    def _dispose(self, entry: PoolEntry[C], reason: str) -> None:
        self._spawn(self._callbacks.close(entry.connection))
        self._core.report_closed(reason)
        if reason == "lease lost":
            self._core.report_lost(entry)
        if self._all_back is not None and not self._machine.entries:
            self._all_back.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task that no borrower can cancel, without any caller's context."""
        task = cast("asyncio.AbstractEventLoop", self.loop).create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Connecting and maintenance

    def _connect_if_wanted(self) -> None:
        machine, loop = self._machine, self.loop
        if loop is None or not machine.wanted:
            return
        for attempt in machine.begin_attempts(self._clock()):
            self._connect(attempt)
        if machine.wanted and not self._waits_to_retry:
            self._waits_to_retry = True
            call_later(loop, max(0.0, machine.connecting.retry_at - self._clock()), self._retry)

    def _retry(self) -> None:
        self._waits_to_retry = False
        self._connect_if_wanted()

    def _connect(self, attempt: Attempt) -> asyncio.Task[None]:
        task = self._spawn(self._try_to_connect(attempt))
        loop = cast("asyncio.AbstractEventLoop", self.loop)
        timer = loop.call_later(self._core.options.connect_timeout, self._end_late, attempt, task)
        task.add_done_callback(lambda _: timer.cancel())
        return task

    async def _try_to_connect(self, attempt: Attempt) -> None:
        try:
            connection = await self._callbacks.connect()
        except BaseException as error:
            self._failed(attempt, error)
            if not isinstance(error, Exception):
                raise
            return
        now = self._clock()
        if self._machine.connected(attempt, connection, now):
            self._core.report_created(now - attempt.since)
        else:
            self._spawn(self._callbacks.close(connection))
        self.settle()

    def _end_late(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        self._failed(attempt, self._core.late())
        task.cancel()

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
        if self._machine.failed(attempt, error, self._clock()):
            self._core.report_connect_failure(error)
        self.settle()

    def _tick_later(self) -> None:
        self._next_tick = call_later(asyncio.get_running_loop(), self._core.options.tick, self._tick)

    def _tick(self) -> None:
        self._tick_later()
        round_ = self._machine.maintain(self._clock())
        for entry, held in round_.suspects:
            self._core.report_leak(entry, held)
        for entry in round_.due:
            self._spawn(self._keep_alive(entry))
        self.settle()

    async def _keep_alive(self, entry: PoolEntry[C]) -> None:
        is_alive = False
        try:
            is_alive = await self._callbacks.is_alive(entry.connection)
        finally:
            self._machine.restore(entry, self._clock(), is_alive=is_alive)
            self.settle()

    # Start and end

    async def start(self) -> None:
        """Begin the maintenance and connecting; wait for a first connection if the options say so."""
        self.bind()
        self._core.refuse_if_closed()
        limit = self._core.options.initialization_fail_timeout
        if limit is not None and not self._machine.entries:
            with self._machine.connecting.start():
                await self._connect_first(limit)
        self._connect_if_wanted()

    async def _connect_first(self, limit: float) -> None:
        since, connecting, before = self._clock(), self._machine.connecting, self._machine.connecting.created
        while connecting.created == before:
            self._core.refuse_if_closed()
            now = self._clock()
            attempt = connecting.begin_first(now)
            await asyncio.wait([self._connect(attempt)], timeout=since + limit - now if limit else None)
            if connecting.created == before:
                left = since + limit - self._clock()
                if left <= 0:
                    raise self._core.timed_out(self._clock() - since, by_deadline=False)
                await asyncio.sleep(max(0.0, min(left, connecting.retry_at - self._clock())))

    async def close(self, seconds: float) -> None:
        """Close the pool, and wait for its connections for `seconds` at most; abort those that are still in use."""
        if self.loop is None or self.loop.is_closed():
            self.shut()
            return
        self.bind()
        self._end_ticks()
        self._machine.close(self._core.closed())
        if self._machine.entries and self._all_back is None:
            self._all_back = asyncio.Event()
        self.settle()
        if self._all_back is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_back.wait(), seconds)
            for entry in list(self._machine.entries):
                self._callbacks.abort(entry.connection)
        while tasks := self._tasks - {cast("asyncio.Task[None]", asyncio.current_task())}:
            _, pending = await asyncio.wait(tasks, timeout=self._core.options.longest_validation)
            if pending:
                break

    def shut(self) -> None:
        """Close the pool without its loop, which does not run: nothing can be awaited."""
        self._end_ticks()
        entries = list(self._machine.entries)
        self._machine.close(self._core.closed())
        self._machine.abandon()
        for entry in entries:
            self._callbacks.abort(entry.connection)

    def reopen(self) -> None:
        """Lend again after `close`, or after the end of the loop. Without connections, any loop may be the next one."""
        if self.loop is not None and self.loop.is_closed():
            self.shut()
        self._end_ticks()
        if not self._machine.entries:
            self.loop, self._all_back, self._waits_to_retry = None, None, False
        elif self.loop is not None:
            self.loop.call_soon_threadsafe(self._tick_later)
        self._machine.reopen()

    def _end_ticks(self) -> None:
        if self._next_tick is not None:
            self._next_tick.cancel()
