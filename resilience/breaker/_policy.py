"""The thread-safe breaker: a lock, a clock and events around the machine, under pybreaker's interface."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, cast

import pybreaker

from resilience._fork import renew_after_fork
from resilience.breaker import _storage
from resilience.breaker._errors import CircuitOpenError
from resilience.breaker._hooks import Hooks
from resilience.breaker._machine import Closed, Machine, Open, Permit, Refusal, Transition, Trial
from resilience.breaker._options import BreakerOptions
from resilience.breaker._surface import Surface
from resilience.breaker._window import ConsecutiveFailures, FailureRate, TripRule
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, DeadlineExceededError, Problem, RejectedError
from resilience.events import Emitter, Listener
from resilience.options import CLOCK, checked
from resilience.policy import PolicyBase

__all__ = ("CircuitBreaker",)

Exclusion = type[BaseException] | Callable[[Any], bool]
_EVENTS = {"closed": "breaker.closed", "open": "breaker.opened", "half-open": "breaker.half_opened"}
_SEVERITY = {"closed": "info", "open": "error", "half-open": "warning"}


class CircuitBreaker(PolicyBase, Surface):  # type: ignore[misc]  # pybreaker allows a nameless breaker; ours has one
    """Refuses calls to a dependency that keeps failing, and lets a few through to see whether it is back.

    A `pybreaker.CircuitBreaker`: its parameters and methods keep their names and meaning, so changing one import line
    upgrades an existing user. Different on purpose: no lock is held while the guarded function runs; `async def`
    works; half-open admits exactly `half_open_max_calls` trials; cancellation counts as nothing; an excluded error is
    neutral; time is monotonic; the call that trips the circuit gets its own error.

    With no rule named it opens after `fail_max` consecutive failures; `failure_rate_threshold` (0 to 1) judges the
    last `sliding_window` calls instead. `reset_timeout` and `half_open_lease` are durations. A call that is refused
    gets `CircuitOpenError`. Raises `ConfigurationError` naming every option that is wrong.
    """

    kind = "breaker"

    def __init__(
        self,
        fail_max: int = 5,
        reset_timeout: float | str | timedelta = 60,
        success_threshold: int = 1,
        exclude: Iterable[Exclusion] | None = None,
        listeners: Iterable[pybreaker.CircuitBreakerListener | Listener] | None = None,
        state_storage: pybreaker.CircuitBreakerStorage | None = None,
        name: str | None = None,
        throw_new_error_on_trip: bool = False,  # noqa: FBT001, FBT002 - pybreaker's signature
        *,
        failure_rate_threshold: float | None = None,
        sliding_window: int = 100,
        minimum_calls: int | None = None,
        half_open_max_calls: int | None = None,
        half_open_lease: float | str | timedelta | None = None,
        clock: Clock = monotonic,
    ) -> None:
        PolicyBase.__init__(self, name)
        self._options = BreakerOptions(
            fail_max=fail_max,
            reset_timeout=cast("float", reset_timeout),
            success_threshold=success_threshold,
            half_open_max_calls=half_open_max_calls,
            half_open_lease=cast("float | None", half_open_lease),
            failure_rate_threshold=failure_rate_threshold,
            sliding_window=sliding_window,
            minimum_calls=minimum_calls,
            throw_new_error_on_trip=throw_new_error_on_trip,
        )
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.after_fork()
        renew_after_fork(self)
        self._excluded_exceptions: list[Any] = []
        for exclusion in _listed("exclude", exclude):
            self.add_excluded_exception(exclusion)
        self._storage = _checked_storage(state_storage)
        self._machine = self._new_machine()
        self._closed = cast("Closed | None", self._machine.epoch)
        """The epoch while calls pass freely, else None."""
        self._hooks = Hooks(self)
        self.events = Emitter()
        for listener in _listed("listeners", listeners):
            self.add_listener(listener)
        if self._storage is not None:
            self.admit = self._admit_stored  # type: ignore[method-assign]  # so that all others pay nothing for it
            self._note(_storage.follow(self._machine, self._storage, clock()), clock(), publish=False)

    def after_fork(self) -> None:
        """Keep the state learnt, under a lock nobody holds."""
        self._lock: Any = threading.RLock()  # guards the machine; never held while a caller's function runs

    # The policy contract

    def admit(self) -> Permit:
        """Return a permit, or raise `CircuitOpenError`. Takes no lock while closed or open, no clock while closed."""
        closed = self._closed  # one load: whatever happens meanwhile, this is a state the circuit was in
        if closed is not None:
            return closed
        epoch = self._machine.epoch
        if type(epoch) is Open:
            now = self._clock()
            if now < epoch.until:
                raise self._refused(epoch.until - now, now)
        return self._admit_trial()

    def _admit_trial(self) -> Permit:
        with self._lock:
            now = self._clock()
            answer, change = self._machine.admit(now)
            self._note(change, now)
        try:
            self.events.deliver()
        except BaseException:  # an interrupt that came while a listener was told
            if not isinstance(answer, Refusal):
                self.on_abandon(answer)
            raise
        if isinstance(answer, Refusal):
            raise self._refused(answer.retry_after, now)
        if isinstance(answer, Trial):
            answer.report = self._succeeded
        return answer

    def _refused(self, retry_after: float, now: float) -> CircuitOpenError:
        name = self._name or self.kind
        if self.events.listeners:  # not `if self.events`: a call of ours on every refusal
            self.events.emit("breaker.rejected", name, now, "warning", retry_after=retry_after)
        return CircuitOpenError(f"circuit {name!r} is open", policy=name, retry_after=retry_after)

    def _admit_stored(self) -> Permit:
        storage = cast("pybreaker.CircuitBreakerStorage", self._storage)
        with self._lock:
            now = self._clock()
            self._note(_storage.follow(self._machine, storage, now), now, publish=False)
        self.events.deliver()
        return self._admit_trial()

    def on_success(self, permit: Permit, _result: Any, /) -> None:
        """Count a success; for a closed circuit one atomic call, into the permit's own epoch even if that is over."""
        permit.succeeded()
        if self._hooks.listeners:
            self._hooks.success()

    def _succeeded(self, trial: Trial) -> None:
        with self._lock:
            if self._storage is not None:
                self._storage.increment_success_counter()
            self._note(self._machine.succeeded(trial), self._clock())
        self.events.deliver()

    def on_failure(self, permit: Permit, error: Exception, /) -> None:
        """Count a failure, unless one of our own policies refused the call (L4) or the error is excluded."""
        try:
            counts = not _is_refusal(error) and self.is_system_error(error)
        except BaseException:  # an exclusion is a predicate of the user's
            self.on_abandon(permit)
            raise
        if not counts:
            self.on_abandon(permit)
            return
        with self._lock:
            now = self._clock()
            change = self._machine.failed(permit, now)
            self._note(change, now)
        self._hooks.failure(error)
        self.events.deliver()
        if change is not None and self._options.throw_new_error_on_trip:
            wait = self._options.reset_timeout
            raise CircuitOpenError(f"circuit {self.name!r} opened", policy=self.name, retry_after=wait) from error

    def on_abandon(self, permit: Permit, /) -> None:
        """Give a trial's permit back; count nothing."""
        if type(permit) is not Closed:
            with self._lock:
                self._machine.abandoned(permit)

    # Changes from outside

    def _change(self, change: Callable[[float], Transition]) -> None:
        with self._lock:
            now = self._clock()
            self._note(change(now), now)
        self.events.deliver()

    def _note(self, change: Transition | None, now: float, *, publish: bool = True) -> None:
        """Queue the event of a transition; called under the lock, delivered after it."""
        if change is None:
            return
        epoch = self._machine.epoch
        self._closed = epoch if isinstance(epoch, Closed) else None
        if publish and self._storage is not None:
            _storage.publish(change, self._storage)
        self.events.record(
            _EVENTS[change.after],
            self.name,
            now,
            _SEVERITY[change.after],
            before=change.before,
            after=change.after,
            reason=change.reason,
            failures=change.failures,
            calls=change.calls,
        )

    def _reconfigure(self, **changes: Any) -> None:
        """Apply new limits from the next decision on; what was counted stays."""
        with self._lock:
            options = self._options = dataclasses.replace(self._options, **changes)
            machine = self._machine
            machine.adopt(self._new_machine())
            rule = machine.epoch.rule if isinstance(machine.epoch, Closed) else None
            if isinstance(rule, ConsecutiveFailures | _storage.StoredFailures):
                rule.limit = options.fail_max

    def _new_machine(self) -> Machine:
        options = self._options
        return Machine(
            self._new_rule,
            reset_timeout=options.reset_timeout,
            permits=options.trials,
            wanted=options.success_threshold,
            lease=options.half_open_lease or options.reset_timeout,
        )

    def _new_rule(self) -> TripRule:
        options = self._options
        if options.failure_rate_threshold is not None:
            return FailureRate(options.failure_rate_threshold, options.sliding_window, options.evidence)
        if self._storage is not None:
            return _storage.StoredFailures(self._storage, options.fail_max)
        return ConsecutiveFailures(options.fail_max)


def _is_refusal(error: Exception) -> bool:
    """Whether the dependency was never called, so that the error says nothing about it (L4)."""
    return isinstance(error, RejectedError) or (isinstance(error, DeadlineExceededError) and error.is_before_call)


def _listed(option: str, values: Any) -> Iterable[Any]:
    if values is None:
        return ()
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError([Problem(option, values, "a list, or None")])
    return values


def _checked_storage(storage: Any) -> pybreaker.CircuitBreakerStorage | None:
    if storage is None or isinstance(storage, pybreaker.CircuitBreakerStorage):
        return storage
    raise ConfigurationError([Problem("state_storage", storage, "a pybreaker.CircuitBreakerStorage, or None")])
