"""The thread-safe breaker: a lock, a clock and events around the machine, under pybreaker's interface."""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Unpack, cast

import pybreaker

from resilience._support.fork import renew_after_fork
from resilience.breaker import _storage
from resilience.breaker._classify import (
    Condition,
    Matcher,
    checked_predicate,
    cut_off_of,
    is_answer,
    is_refusal,
    listed,
    requested_delay,
)
from resilience.breaker._control import Control
from resilience.breaker._cut_offs import CutOff
from resilience.breaker._epochs import Closed, Open, Permit, Timed, Trial
from resilience.breaker._errors import CircuitOpenError, circuit_open
from resilience.breaker._guarded import GuardedStorage
from resilience.breaker._hooks import Hooks
from resilience.breaker._machine import Machine, Refusal, Transition
from resilience.breaker._mode import AUTOMATIC, DISABLED, FORCED_OPEN, Mode
from resilience.breaker._options import BreakerArguments, BreakerOptions
from resilience.breaker._uncounted import UNCOUNTED
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem, leaves
from resilience.events import Emitter, Listener
from resilience.options import CLOCK, RANDOMNESS, checked
from resilience.policy import NO_RESULT, PolicyBase
from resilience.timeout import neutral_remaining

__all__ = ("CircuitBreaker",)


class CircuitBreaker(PolicyBase, Control):  # type: ignore[misc]  # pybreaker allows a nameless breaker; ours has one
    """Refuses calls to a dependency that keeps failing, and lets a few through to see whether it is back.

    A `pybreaker.CircuitBreaker`: its parameters and methods keep their names and meaning, so changing one import line
    upgrades an existing user. What differs on purpose is listed in docs/howto/moving-from-pybreaker.md.

    With no rule named it opens after five consecutive failures. `fail_max`, `failure_rate_threshold`,
    `slow_call_rate_threshold` and `failure_count_threshold` are rules; any that are named count, the last three in the
    `sliding_window` (a number of calls, or a duration such as "60s"). `record` and `exclude` (or `ignore`) take
    exception classes and predicates: what is excluded counts neither way, what is not recorded is a success.
    `record_result` says which results are failures; `retry_after` takes an error or result and returns for how long
    the dependency asked to be left alone: seconds, a timedelta, or text as in a Retry-After header. `BreakerOptions`
    says what every other option means.

    A refused call gets `CircuitOpenError`. Raises `ConfigurationError` naming every option that is wrong.
    """

    kind = "breaker"
    settles_once = True
    snapshot = Control.snapshot  # pyright: ignore[reportAssignmentType]  # the base's is empty

    def __init__(
        self,
        fail_max: int | None = None,
        reset_timeout: float | str | timedelta = 60,
        success_threshold: int = 1,
        exclude: Iterable[Condition] | None = None,
        listeners: Iterable[pybreaker.CircuitBreakerListener | Listener] | None = None,
        state_storage: pybreaker.CircuitBreakerStorage | None = None,
        name: str | None = None,
        throw_new_error_on_trip: bool = False,  # noqa: FBT001, FBT002 - pybreaker's signature
        *,
        record: Iterable[Condition] | Condition | None = None,
        ignore: Iterable[Condition] | Condition | None = None,
        record_result: Callable[[Any], bool] | None = None,
        retry_after: Callable[[Any], float | timedelta | str | None] | None = None,
        clock: Clock = monotonic,
        randomness: Callable[[], float] = random.random,
        **options: Unpack[BreakerArguments],
    ) -> None:
        PolicyBase.__init__(self, name)
        self._options = BreakerOptions.of(
            fail_max=fail_max,
            reset_timeout=cast("float", reset_timeout),
            success_threshold=success_threshold,
            throw_new_error_on_trip=throw_new_error_on_trip,
            **cast("Any", options),  # durations are still as the user wrote them: the rules make them seconds
        )
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self._random: Callable[[], float] = checked(randomness, "randomness", RANDOMNESS)
        self.after_fork()
        renew_after_fork(self)
        self._excluded = Matcher("exclude", listed("exclude", exclude)).also(Matcher("ignore", ignore))
        self._excluded_exceptions = self._excluded.conditions  # where pybreaker's own methods look
        self._recorded = Matcher("record", record)
        self._record_result = checked_predicate("record_result", record_result)
        self._ask_delay = checked_predicate("retry_after", retry_after)
        self._looks_at_success = self._record_result is not None
        self.events = Emitter()
        self._storage = self._guarded(_checked_storage(state_storage))
        now = self._clock()
        self._machine = Machine(self._rules(), self._options.plan, now=now, random=self._random)
        word = self._options.first_mode
        self._mode = None if word == AUTOMATIC else Mode(word, reason="configured")
        self._hooks = Hooks(self)
        for listener in listed("listeners", listeners):
            self.add_listener(listener)
        if self._storage is not None:
            self.admit = self._admit_stored  # type: ignore[method-assign]  # so that all others pay nothing for it
            self._follow_storage()
        self._set_door()

    # The policy contract

    def admit(self) -> Permit:
        """Return a permit, or raise `CircuitOpenError`. Takes no lock while closed or open, no clock while closed."""
        closed = self.fast_permit  # one load: whatever happens meanwhile, this is a state the circuit was in
        if closed is not None:
            return closed
        epoch = self._machine.epoch
        if self._mode is None:
            if type(epoch) is Open:
                now = self._clock()
                if now < epoch.until and epoch.cut_offs is None:
                    if self.events.listeners:  # not `if self.events`: a call of ours on every refusal
                        self._tell_refusal(now, epoch.until - now)
                    raise circuit_open(self._open_message, self._name or self.kind, epoch.until - now)
            elif type(epoch) is Closed and epoch.running is not None:
                now = self._clock()
                if now <= epoch.running.due:
                    timed = epoch.running.begin(epoch, now)
                    timed.report = self._timed_succeeded
                    return timed
        return self._admit_locked()

    def _admit_locked(self) -> Permit:
        answer: Permit | Refusal = UNCOUNTED
        try:
            with self._lock:
                now = self._clock()
                self._end_mode(now)
                mode = self._mode
                answer, change = self._by_mode(mode, now)
                self._note(change, now)
                if type(answer) is Closed and self._storage is None:
                    self._set_door()  # an interrupt may have come between the change to this state and this step
            self.events.deliver()
            if isinstance(answer, Refusal):
                return self._refuse(answer, mode, now)
            if isinstance(answer, Trial):
                answer.report = self._succeeded
            elif isinstance(answer, Timed):
                answer.report = self._timed_succeeded
        except BaseException:  # an interrupt: the caller has no permit to give back
            if not isinstance(answer, Refusal):
                self.on_abandon(answer)
            raise
        return answer

    def _refuse(self, answer: Refusal, mode: Mode | None, now: float) -> Permit:
        if mode is None or mode.word == FORCED_OPEN:
            self._tell_refusal(now, answer.retry_after)
            raise circuit_open(f"circuit {self.name!r} {answer.why}", self.name, answer.retry_after)
        self._tell_refusal(now, answer.retry_after, shadow=True)
        return UNCOUNTED

    def _by_mode(self, mode: Mode | None, now: float) -> tuple[Permit | Refusal, Transition | None]:
        if mode is not None and mode.word == DISABLED:
            return UNCOUNTED, None
        if mode is not None and mode.word == FORCED_OPEN:
            return Refusal(mode.left(now), f"is held open ({mode.reason})"), None
        # A closed circuit does not ask how long the caller waits.
        patience = math.inf if type(self._machine.epoch) is Closed else neutral_remaining()
        return self._machine.admit(now, patience)

    def _tell_refusal(self, now: float, retry_after: float | None, **more: Any) -> None:
        self.events.emit("breaker.rejected", self.name, now, "warning", retry_after=retry_after, **more)

    def _admit_stored(self) -> Permit:
        self._follow_storage()
        return self._admit_locked()

    def _guarded(self, storage: pybreaker.CircuitBreakerStorage | None) -> GuardedStorage | None:
        if storage is None:
            return None
        breaker = weakref.ref(self)  # the storage's thread in the background must not keep the breaker

        def tell(error: Exception | None) -> None:
            if (told := breaker()) is not None:
                told.note_storage(error)

        return GuardedStorage(storage, self._options.storage_timeout, tell)

    def _follow_storage(self) -> None:
        storage = cast("GuardedStorage", self._storage)
        reading = _storage.read(self._machine, storage, self._clock(), self._changes)
        if reading is None:
            return
        with self._lock:
            if reading.changes == self._changes:  # else it may be older than what we wrote meanwhile
                now = self._clock()
                self._note(_storage.follow(self._machine, reading, now), now, publish=False)
        self.events.deliver()

    def on_success(self, permit: Permit, result: Any, /) -> None:
        """Count a success; for a closed circuit one atomic call, into the permit's own epoch even if that is over."""
        if self._looks_at_success:
            self._judge_result(permit, result)
        else:
            permit.succeeded()

    def _judge_result(self, permit: Permit, result: Any) -> None:
        try:
            judge = self._record_result
            is_failure = judge is not None and result is not NO_RESULT and judge(result)
            floor = requested_delay(result, self._ask_delay) if is_failure else 0.0
        except BaseException:  # both are functions of the user's
            self.on_abandon(permit)
            raise
        if is_failure:
            self._count_failure(permit, floor)
            self.events.deliver()
        else:
            self._count_success(permit)

    def _count_success(self, permit: Permit) -> None:
        permit.succeeded()
        if self._hooks.listeners:
            self._hooks.success()

    def _timed_succeeded(self, permit: Permit) -> None:
        """Count a timed success: without the lock where it was quick, and nobody has counted it as slow meanwhile."""
        timed = cast("Timed", permit)
        epoch, now = timed.epoch, self._clock()
        running = epoch.running if type(epoch) is Closed else None
        if running is not None and not running.is_slow(timed.started, now) and running.end(timed):
            epoch.succeeded()
        else:
            self._succeeded(timed)

    def _succeeded(self, permit: Permit) -> None:
        with self._lock:
            now = self._clock()
            if self._counts_at(now):
                if self._storage is not None and isinstance(permit, Trial):
                    _storage.tried(permit, self._machine, self._storage, is_success=True)
                self._note(self._machine.succeeded(permit, now), now)
            else:
                self._machine.abandoned(permit)
        self.events.deliver()

    def on_failure(self, permit: Permit, error: Exception, /) -> None:
        """Count a failure, unless a policy refused the call (L4), its caller was impatient, or it is excluded."""
        if is_refusal(error):
            self.on_abandon(permit)
            return
        cut_off = cut_off_of(error, self._options.slow_call_duration_threshold)
        if cut_off is not None:
            self._note_cut_off(permit, cut_off)
            return
        try:
            says = self._says(error)
            floor = requested_delay(error, self._ask_delay) if says is False else 0.0
        except BaseException:  # conditions are functions of the user's
            self.on_abandon(permit)
            raise
        if says is None:
            self.on_abandon(permit)
        elif says:
            self._count_success(permit)
        else:
            self._failed(permit, error, floor)

    def _note_cut_off(self, permit: Permit, cut_off: CutOff) -> None:
        with self._lock:
            now = self._clock()
            if self._storage is None and self._counts_at(now):
                self._noted(lambda: self._machine.cut_off(permit, now, cut_off), now)
            else:
                self._machine.abandoned(permit)
        self.events.deliver()

    def _says(self, error: Exception) -> bool | None:
        """Return whether `error` shows a dependency that is well; None where it shows nothing."""
        if isinstance(error, BaseExceptionGroup):
            return self._group_says(error)
        if self.is_system_error(error):
            return False
        return True if (self._recorded.conditions or is_answer(error)) and not self._excluded(error) else None

    def _group_says(self, group: BaseExceptionGroup[Any]) -> bool | None:
        """Judge an exception group by the worst error in it: one failure makes it a failure."""
        if self._excluded(group):
            return None
        slow_after = self._options.slow_call_duration_threshold
        says = {
            self._says(cast("Exception", each))
            for each in leaves(group)
            if not is_refusal(each) and cut_off_of(each, slow_after) is None
        }
        if False in says or (True in says and self._recorded(group)):
            return False
        return True if True in says else None

    def _failed(self, permit: Permit, error: Exception, floor: float) -> None:
        change = self._count_failure(permit, floor)
        self._hooks.failure(error)
        self.events.deliver()
        if change is not None and self._options.throw_new_error_on_trip and self.current_state == "open":
            message = f"circuit {self.name!r} opened"
            raise CircuitOpenError(message, policy=self.name, retry_after=self.retry_after) from error

    def _count_failure(self, permit: Permit, floor: float) -> Transition | None:
        if self._storage is not None and self._counts_at(self._clock()):
            _storage.failed(permit, self._machine)
        with self._lock:
            now = self._clock()
            if not self._counts_at(now):
                self._machine.abandoned(permit)
                return None
            if self._storage is not None and isinstance(permit, Trial):
                _storage.tried(permit, self._machine, self._storage, is_success=False)
            return self._noted(lambda: self._machine.failed(permit, now, floor), now)

    def on_abandon(self, permit: Permit, /) -> None:
        """Give a trial's permit back; count nothing but what is slow by now, although it has not ended."""
        if type(permit) is Closed:
            return
        with self._lock:
            now = self._clock()
            if type(permit) is Timed and self._counts_at(now):
                self._note(self._machine.look(now), now)
            self._machine.abandoned(permit)
        self.events.deliver()


def _checked_storage(storage: Any) -> pybreaker.CircuitBreakerStorage | None:
    if storage is None or isinstance(storage, pybreaker.CircuitBreakerStorage):
        return storage
    raise ConfigurationError([Problem("state_storage", storage, "a pybreaker.CircuitBreakerStorage, or None")])
