"""One circuit: its state machine under a lock, with its mode, its events and its storage."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import pybreaker

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.breaker import _report, _storage
from resilience.breaker._cut_offs import CutOff
from resilience.breaker._leased import FleetSide
from resilience.breaker._machine import CircuitMachine, StateChange
from resilience.breaker._options import BreakerOptions
from resilience.breaker._plan import AUTOMATIC, DISABLED, FORCED_OPEN, METRICS_ONLY, Mode
from resilience.breaker._report import SEVERITY, CircuitOpenError, new_refusal
from resilience.breaker._rules import OutcomeRules, TripRules, judge_under_lock, rules_of
from resilience.breaker._states import IS_OPEN, OPEN, UNTRACKED, Closed, Open, Permit, Refusal, TimedCall, Trial
from resilience.breaker._storage import GuardedStorage
from resilience.clock import Clock
from resilience.event_log import NOT_QUIET, error_name
from resilience.events import Emitter
from resilience.timeout import neutral_remaining

__all__ = ("Circuit",)

T = TypeVar("T")


class Circuit(Measured):
    """Admits and counts the calls of one breaker; the only place that takes its lock.

    The lock guards the machine, the mode and the storage. It is never held while code of a user runs (L1), except for
    accesses to a storage, which have a time limit. Events are recorded under it and delivered after its release (L6).

    `admit` reads `fast_permit`, `machine.epoch` and `mode` without the lock, each once, so it decides by a state
    that the circuit was in. Each change of state or mode updates `fast_permit`, even after an interrupt.
    """

    fast_permit: Closed | None
    """The closed epoch, if calls may use it as their permit without `admit`; None if each call has to ask."""

    def __init__(
        self,
        name: str,
        options: BreakerOptions,
        *,
        clock: Clock,
        random: Callable[[], float],
        storage: pybreaker.CircuitBreakerStorage | None,
    ) -> None:
        self.options = options
        self.events = Emitter()
        self.now: Clock = clock
        self.lock: AbstractContextManager[object] = threading.RLock()
        self._refusals = NOT_QUIET  # until the first refusal: a keyed policy gives the circuit its log later
        self._last_error: str | type | None = None  # the error itself would keep the frames of the call
        self._changes = 0  # of the state so far, each one from when the storage knows it
        # Both refer to the circuit weakly: with a cycle, a circuit would stay in memory until the collector runs.
        timeout = options.storage_timeout
        self._storage = None if storage is None else GuardedStorage(storage, timeout, self.report_storage)
        self.machine = CircuitMachine(rules_of(weakref.ref(self)), options.plan, now=clock(), random=random)
        self.shared: FleetSide | None = None
        self._decide: Callable[[float, float], tuple[Permit | Refusal, StateChange | None]] = self.machine.admit
        self.mode = Mode.configured(options.first_mode)
        self.rename(name)
        self._update_fast_permit()
        renew_after_fork(self)

    def share(self, shared: FleetSide) -> None:
        """Be in step with the fleet from the next call on, which comes to `_admit_locked`."""
        self.shared, self._decide = shared, shared.admit
        self._update_fast_permit()
        if isinstance(epoch := self.machine.epoch, Closed) and epoch.running is not None:
            epoch.running.due = -math.inf

    def after_fork(self) -> None:
        """Keep the state, with a new lock: a thread of the parent may have been in the midst of a change."""
        self.lock = threading.RLock()
        self._update_fast_permit()

    def after_test(self) -> None:
        """Begin in the first state and mode again. A storage, which holds the state of others too, is closed first."""
        if self._storage is not None:
            self.close()
        with self.lock:
            self.machine.close("reset", self.now())
            self.machine.totals.clear()
            self.mode = Mode.configured(self.options.first_mode)
            self._update_fast_permit()

    def rename(self, name: str) -> None:
        """Use another name in events and refusals."""
        self.name = name
        self.open_message = f"circuit {name!r} is open"  # until it opens

    def admit(self) -> Permit:
        """Return a permit, or raise `CircuitOpenError`. Takes no lock while closed or open, unless it has a storage."""
        closed = self.fast_permit
        if closed is not None:
            return closed
        epoch = self.machine.epoch
        if self._storage is not None:
            self.follow_storage()
        elif self.mode is None:
            if type(epoch) is Open:
                now = self.now()
                left = epoch.until - now
                if left > 0 and epoch.cut_offs is None:
                    is_quiet = now < (refusals := self._refusals).quiet_until and not self.events.listeners
                    if is_quiet and (Emitter.observer is None or Emitter.observer.span() is None):
                        next(refusals.left_out)  # as `events.wants` does
                    else:
                        self._report_refusal(now, left)
                    self.machine.totals.refused += 1
                    raise new_refusal(CircuitOpenError, self.open_message, self.name, left)
            elif type(epoch) is Closed and epoch.running is not None:
                now = self.now()
                if now <= epoch.running.due:
                    call = TimedCall()  # `begin`, inlined
                    call.circuit, call.epoch, call.started, call.number = self, epoch, now, None
                    epoch.running.calls[call] = None
                    return call
        return self._admit_locked()

    def _admit_locked(self) -> Permit:
        answer: Permit | Refusal = UNTRACKED
        try:
            with self.lock:
                now = self.now()
                if self.shared is not None and not self.shared.is_joined:
                    self.shared.join(self.name, self.events.log.key)
                self._end_mode(now)
                mode = self.mode
                if mode is not None and mode.word == DISABLED:
                    change = None
                elif mode is not None and mode.word == FORCED_OPEN:
                    answer, change = Refusal(mode.left(now), f"is held open ({mode.reason})"), None
                else:  # the patience of the caller does not matter to a closed circuit
                    patience = math.inf if type(self.machine.epoch) is Closed else neutral_remaining()
                    answer, change = self._decide(now, patience)
                self._note(change, now)
                if type(answer) is Closed and self._storage is None:
                    self._update_fast_permit()  # an interrupt may have struck between the change and its update
            self.events.deliver()
            if isinstance(answer, Refusal):
                return self._refuse(answer, mode, now)
            if isinstance(answer, TimedCall | Trial):
                answer.circuit = self
        except BaseException:  # an interrupt: the caller has no permit to give back
            if not isinstance(answer, Refusal):
                self.abandon(answer)
            raise
        return answer

    def _refuse(self, refusal: Refusal, mode: Mode | None, now: float) -> Permit:
        if mode is None or mode.word == FORCED_OPEN:
            self._report_refusal(now, refusal.retry_after, refusal.why)
            self.machine.totals.refused += 1
            who, why = self.events.log.quoted(self.name), refusal.why
            message = self.open_message if why == IS_OPEN else f"circuit {who} {why}"
            raise new_refusal(CircuitOpenError, message, self.name, refusal.retry_after)
        self._report_refusal(now, refusal.retry_after, refusal.why, shadow=True)
        self.machine.totals.refused_in_shadow += 1
        return UNTRACKED

    def _report_refusal(self, now: float, retry_after: float | None, why: str = IS_OPEN, **more: object) -> None:
        more |= {"retry_after": retry_after, "why": why}
        self.events.emit("breaker.rejected", self.name, now, "warning", **more)
        self._refusals = self.events.log.sample("breaker.rejected")

    def record_timed_success(self, permit: TimedCall, /) -> None:
        """Count a timed success; without the lock if it was quick and was not counted as slow meanwhile."""
        epoch, now = permit.epoch, self.now()
        running = epoch.running if type(epoch) is Closed else None
        # `is_slow` and `end`, inlined: this is the path of every success if slow calls count
        if running is None or now - permit.started > running.slow_after or running.calls.pop(permit, self) is not None:
            self.record_success(permit)
            return
        rule = epoch.rule
        if type(rule) is TripRules and now < rule.window.edge and self.mode is None:
            rule.count_success()
        else:
            epoch.record_success()

    def record_success(self, permit: TimedCall | Trial, /) -> None:
        """Count a success under the lock."""
        with self.lock:
            now = self.now()
            if self._counts_at(now):
                if self._storage is not None and isinstance(permit, Trial):
                    _storage.record_trial(permit, self.machine, self._storage, is_success=True)
                self._note(self.machine.record_success(permit, now), now)
            else:
                self.machine.abandon(permit)
        self.events.deliver()

    def judge_success(self, rules: TripRules, /) -> None:
        """Count a success of a closed circuit that may open it: its rules choose which successes come here."""
        self.change(lambda now: self.machine.judge_success(rules, now) if self._counts_at(now) else None)

    def record_failure(self, permit: Permit, asked: float, error: Exception | None = None) -> StateChange | None:
        """Count a failure (of a result: no `error`). Return its change of the state; the caller delivers the events."""
        if self._storage is not None and self._counts_at(self.now()):
            _storage.record_failure(permit, self.machine)
        with self.lock:
            now = self.now()
            if not self._counts_at(now):
                self.machine.abandon(permit)
                return None
            self._last_error = error_name(error) if hasattr(type(error), "log_name") else type(error)
            if self._storage is not None and isinstance(permit, Trial):
                _storage.record_trial(permit, self.machine, self._storage, is_success=False)
            return self._apply(now, self.machine.record_failure, permit, now, asked)

    def record_cut_off(self, permit: Permit, cut_off: CutOff) -> None:
        """Note a call that the deadline of its caller ended."""
        with self.lock:
            now = self.now()
            if self._storage is None and self._counts_at(now):
                self._apply(now, self.machine.record_cut_off, permit, now, cut_off)
            else:
                self.machine.abandon(permit)
        self.events.deliver()

    def abandon(self, permit: Permit) -> None:
        """Give a permit back without an outcome. Counts only running calls that are slow by now."""
        if type(permit) is Closed:
            return
        with self.lock:
            now = self.now()
            if type(permit) is TimedCall and self._counts_at(now):
                self._note(self.machine.count_slow_running(now), now)
            self.machine.abandon(permit)
        self.events.deliver()

    def open(self, reason: str, seconds: float | None = None) -> None:
        """Open the circuit by hand, for the reset timeout or for `seconds`."""
        self.change(lambda now: self.machine.open(now, reason, seconds=seconds, is_by_hand=True))

    def half_open(self) -> None:
        """Admit trials from now on."""
        self.change(lambda now: self.machine.half_open("half-opened by hand", now))

    def close(self) -> None:
        """Close the circuit and forget its counts."""
        self.change(lambda now: self.machine.close("closed by hand", now))

    def change(self, change: Callable[[float], StateChange | None]) -> None:
        """Make a change under the lock, and deliver its events."""
        with self.lock:
            now = self.now()
            self._apply(now, change, now)
        self.events.deliver()

    def _apply(self, now: float, change: Callable[..., StateChange | None], *args: Any) -> StateChange | None:
        """Make a change under the lock and note it. Also after an interrupt no call uses a permit of an old state."""
        try:
            made = change(*args)
            if made is not None or self.shared is not None:
                self._note(made, now)
        except BaseException:  # the state may have changed
            self._update_fast_permit()
            raise
        return made

    def _note(self, change: StateChange | None, now: float, *, publish: bool = True) -> None:
        """Record the event of a change, and write the change to the storage. Called under the lock."""
        if self.shared is not None:
            self.shared.look(now, change)
        if change is None:
            return
        self._update_fast_permit()
        if publish and self._storage is not None:
            _storage.publish(change, self.machine, self._storage)
        self._changes += 1
        kind, facts = _report.kind_and_facts(change, self.machine, now, self.mode, self._last_error)
        if change.after == OPEN:
            self.open_message = _report.open_message(self.events.log.quoted(self.name), facts)
        self.events.record(kind, self.name, now, SEVERITY[change.after], **facts)

    def _update_fast_permit(self) -> None:
        """Set the permit that calls use without asking, if there is one."""
        self.fast_permit = None
        mode, epoch = self.mode, self.machine.epoch
        if self._storage is not None or (self.shared is not None and not self.shared.is_joined):
            return
        if mode is None or (mode.word == METRICS_ONLY and mode.is_permanent):
            self.fast_permit = epoch if type(epoch) is Closed and epoch.running is None else None
        elif mode.word == DISABLED and mode.is_permanent:
            self.fast_permit = UNTRACKED

    def set_mode(self, word: str, duration: float | None, reason: str) -> None:
        """Enter a mode for `duration` seconds, or for good."""
        with self.lock:
            now = self.now()
            until = math.inf if duration is None else now + duration
            self.enter_mode(None if word == AUTOMATIC else Mode(word, until, reason), now)
        self.events.deliver()

    def enter_mode(self, mode: Mode | None, now: float) -> None:
        """Enter a mode, or (None) the automatic one. Called under the lock."""
        before, after = self.mode or Mode(AUTOMATIC), mode or Mode(AUTOMATIC)
        counts, epoch = after.counts, self.machine.epoch
        # Only operators: no interrupt leaves a mode with the fast permit, or with the counting, of another mode.
        self.fast_permit = None
        self.mode = mode
        if type(epoch) is Closed:  # for the running calls: their permit is the epoch itself
            epoch.record_success = epoch.rule.record_success if counts else UNTRACKED.record_success
        self._update_fast_permit()
        facts = {"before": before.word, "after": after.word, "reason": after.reason, "expires": after.left(now)}
        self.events.record("breaker.mode_changed", self.name, now, "warning", **facts)

    def _end_mode(self, now: float) -> None:
        if self.mode is not None and now >= self.mode.until:
            self.enter_mode(Mode.configured(self.options.first_mode), now)

    def mode_at(self, now: float) -> Mode | None:
        """Return the mode in force. A mode that has run out is ended by the next call, and hidden until then."""
        mode = self.mode  # one load
        return mode if mode is None or now < mode.until else Mode.configured(self.options.first_mode)

    def _counts_at(self, now: float) -> bool:
        """Return whether calls that end now count."""
        return (mode := self.mode_at(now)) is None or mode.counts

    def reconfigure(self, **changes: Any) -> None:
        """Apply other options from the next decision on; the counts stay."""
        with self.lock:
            options = self.options = dataclasses.replace(self.options, **changes)
            self.machine.use_plan(options.plan)
            if type(epoch := self.machine.epoch) is Closed:
                epoch.rule.use_limits(options.limits)

    def new_rules(self, now: float) -> OutcomeRules:
        """Return the rules of a closed epoch that begins now."""
        options = self.options
        if self._storage is not None and options.consecutive is not None and not options.looks_back:
            return _storage.StoredFailures(self._storage, options.consecutive)
        return options.trip_rules(now, self.now, functools.partial(judge_under_lock, weakref.ref(self)))

    def report_storage(self, error: Exception | None) -> None:
        """Report an outage, found perhaps under the lock, or (None) its end, found by a thread without the lock."""
        now = self.now()
        if error is None:
            self.events.emit("breaker.storage_recovered", self.name, now)
        else:
            self.events.record("breaker.storage_outage", self.name, now, "error", error=type(error).__name__)

    def follow_storage(self) -> None:
        """Adopt the state of the storage if another breaker changed it. Does nothing without a storage."""
        storage = self._storage
        if storage is None or (stored := _storage.read(self.machine, storage, self.now(), self._changes)) is None:
            return
        with self.lock:
            if stored.changes == self._changes:  # else it may be older than our own last write
                now = self.now()
                self._note(_storage.follow(self.machine, stored, now), now, publish=False)
        self.events.deliver()

    def stored(self, ask: Callable[[pybreaker.CircuitBreakerStorage], T], own: T) -> T:
        """Return the value in the storage; `own` if there is no storage or it does not answer. Not under the lock."""
        if (guarded := self._storage) is None:
            return own
        answer = guarded.run(lambda: ask(guarded.storage), without=own)
        self.events.deliver()  # this access may have found the storage away
        return answer

    @property
    def state(self) -> str:
        """The state that callers see: that of the mode, of the storage, or of the machine."""
        mode = self.mode_at(self.now())
        if mode is not None and (shown := mode.state) is not None:
            return shown
        return self.stored(lambda storage: storage.state, self.machine.epoch.state)

    @property
    def mode_word(self) -> str:
        """The name of the mode in force."""
        with self.lock:
            self._end_mode(self.now())
            mode = self.mode
        self.events.deliver()
        return AUTOMATIC if mode is None else mode.word

    def measure(self) -> Measurement:
        """Return the counts since the start, the state and the mode, and the state of the fleet of a shared circuit."""
        now = self.now()
        found = _report.measurement_of(self.name, self.machine, self.mode_at(now))
        if self.shared is None:
            return found
        return found._replace(levels={**found.levels, **self.shared.levels(now)})
