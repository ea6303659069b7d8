"""The circuit breaker: pybreaker's interface and the policy contract over one circuit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, cast

import pybreaker

from resilience._engine._steps import Steps
from resilience.breaker._circuit import Circuit
from resilience.breaker._cut_offs import CutOff
from resilience.breaker._failures import Condition, FailureRules, Harmless, listed
from resilience.breaker._options import BreakerArguments, BreakerOptions
from resilience.breaker._plan import AUTOMATIC, FORCED_OPEN, MODES, Mode
from resilience.breaker._pybreaker import PybreakerFace
from resilience.breaker._report import CircuitOpenError, figures_of
from resilience.breaker._states import Open, Permit
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Listener
from resilience.options import CLOCK, LONGEST, RANDOMNESS, Choice, Text, checked, seconds
from resilience.policy import NO_RESULT, PolicyBase

if TYPE_CHECKING:
    from resilience.redis import RedisConnection
else:  # `typing.get_type_hints` works without the import, which a breaker of one process does not need
    RedisConnection = Any

__all__ = ("CircuitBreaker",)

_MODE = Choice(*MODES)
_REASON = Text("a reason", longest=200)


class CircuitBreaker(PolicyBase, PybreakerFace):  # type: ignore[misc]  # pybreaker allows a breaker without a name
    """Refuse calls to a dependency that keeps failing, and try now and then whether it works again.

    A `pybreaker.CircuitBreaker`: its parameters and methods keep their names and meaning, so an existing user changes
    one import. The intended differences are listed in docs/howto/moving-from-pybreaker.md.

    Without any rule the circuit opens after five consecutive failures. `fail_max`, `failure_rate_threshold`,
    `slow_call_rate_threshold` and `failure_count_threshold` are rules. You can combine them; the first one that matches
    opens the circuit. While it is open, each call gets `CircuitOpenError`. After `reset_timeout` a few trial calls
    decide whether it closes. Times are seconds as a number, a `timedelta`, or text such as `"250ms"` or `"5m"`.

    Args:
        fail_max: Consecutive failures that open the circuit. 5 if no other rule is set.
        reset_timeout: How long the circuit stays open, in seconds.
        success_threshold: Successful trial calls that close the circuit.
        exclude: Exception classes and predicates over the error. An excluded error counts neither as a failure nor as a
            success.
        listeners: `pybreaker.CircuitBreakerListener` objects, and functions that take one `Event`.
        state_storage: A pybreaker storage to share the state with other breakers.
        shared: The `RedisConnection` by which the instances of a service share this circuit, by its name. None: each
            instance has its own circuit. Not beside `state_storage`. See docs/howto/shared-breaker.md.
        name: The name in events and errors. By default `breaker`, or `<pipeline>.breaker` in a pipeline.
        throw_new_error_on_trip: The call that opens the circuit gets `CircuitOpenError` instead of its own error.
        record: Exception classes and predicates: only these errors are failures. Other errors are successes.
        ignore: Another name of `exclude`, for users of resilience4j.
        record_result: A function that returns whether a result is a failure.
        retry_after: A function that takes the error or the result, and returns how long the dependency asked to be left
            alone: seconds, a `timedelta`, or text as in a `Retry-After` header.
        clock: Returns monotonic seconds.
        randomness: Returns a number in [0, 1), for the jitter.
        **options: All other fields of `BreakerOptions`: windows, slow calls, open time, trials, ramp, modes.

    Raises:
        ConfigurationError: An option is wrong; the error lists every problem.

    Example:
        >>> from resilience import CircuitBreaker
        >>> payments = CircuitBreaker(failure_rate_threshold=0.5, sliding_window="60s", reset_timeout="30s")
        >>> @payments
        ... def charge(order: str) -> str:
        ...     return f"charged {order}"
        >>> charge("o-1")
        'charged o-1'
        >>> payments.current_state
        'closed'
    """

    __call__ = PybreakerFace.__call__  # a breaker is a decorator, too
    kind = "breaker"
    settles_once = True

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
        shared: RedisConnection | None = None,
        clock: Clock = monotonic,
        randomness: Callable[[], float] = random.random,
        **options: Unpack[BreakerArguments],
    ) -> None:
        PolicyBase.__init__(self, name)
        known = BreakerOptions.of(
            fail_max=fail_max,
            reset_timeout=cast("float", reset_timeout),
            success_threshold=success_threshold,
            throw_new_error_on_trip=throw_new_error_on_trip,
            shared=_is_shared(shared, state_storage),
            **cast("Any", options),  # durations as the user wrote them: the rules turn them into seconds
        )
        checked(clock, "clock", CLOCK)
        checked(randomness, "randomness", RANDOMNESS)
        failures = FailureRules(
            exclude=exclude,
            ignore=ignore,
            record=record,
            record_result=record_result,
            retry_after=retry_after,
            slow_after=known.slow_call_duration_threshold,
        )
        storage = _checked_storage(state_storage)
        PybreakerFace.__init__(
            self, Circuit(self.name, known, clock=clock, random=randomness, storage=storage), failures
        )
        if shared is not None:
            self._share(shared)
        for listener in listed("listeners", listeners):
            self.add_listener(listener)
        self._circuit.follow_storage()
        self._is_made = True

    def renamed(self) -> None:
        """Use the new name in events and errors."""
        self._circuit.rename(self.name)

    def _share(self, connection: RedisConnection) -> None:
        from resilience.breaker.shared._partner import SharedCircuit  # noqa: PLC0415 - it imports the parts of Redis

        self._circuit.share(SharedCircuit(self._circuit, connection, self.options.votes))

    # The policy contract

    def choose_steps(self, steps: Steps) -> Steps:
        """Let the engine ask the circuit itself; a subclass that overrides `admit` is asked for each call."""
        if type(self).admit is not CircuitBreaker.admit:
            return steps
        steps.admit, steps.fast_permit = self._circuit.admit, self._circuit  # in place: `replace` costs a new key 5 us
        return steps

    def admit(self) -> Permit:
        """Return a permit, or raise `CircuitOpenError`."""
        return self._circuit.admit()

    def on_success(self, permit: Permit, result: Any, /) -> None:
        """Count a success: in a closed circuit one atomic operation, without the lock."""
        if not self._checks_successes:
            permit.record_success()
            return
        failures = self._failures
        try:
            is_failure = (
                failures.record_result is not None and result is not NO_RESULT and failures.record_result(result)
            )
            asked = failures.asked_delay(result) if is_failure else 0.0
        except BaseException:  # both are functions of the user
            self._circuit.abandon(permit)
            raise
        if is_failure:
            self._circuit.record_failure(permit, asked)
            self.events.deliver()
        else:
            self._record_success(permit)

    def on_failure(self, permit: Permit, error: Exception, /) -> None:
        """Count a failure, unless the error says nothing about the dependency."""
        circuit = self._circuit
        try:
            found = self._failures.classify(error)
        except BaseException:  # conditions are functions of the user
            circuit.abandon(permit)
            raise
        if found is Harmless.IGNORED:
            circuit.abandon(permit)
        elif found is Harmless.SUCCESS:
            self._record_success(permit)
        elif isinstance(found, CutOff):
            circuit.record_cut_off(permit, found)
        else:
            change = circuit.record_failure(permit, found.asked, error)
            if self._hooks.listeners:
                self._hooks.failure(error)
            if self.events.pending:
                self.events.deliver()
            if change is not None and circuit.options.throw_new_error_on_trip and self.current_state == "open":
                raise CircuitOpenError(circuit.open_message, policy=self.name, retry_after=self.retry_after) from error

    def _record_success(self, permit: Permit) -> None:
        permit.record_success()
        if self._hooks.listeners:
            self._hooks.success()

    def on_abandon(self, permit: Permit, /) -> None:
        """Give a permit back without an outcome."""
        self._circuit.abandon(permit)

    # Modes and figures

    @property
    def mode(self) -> str:
        """`automatic`, `forced_open`, `disabled` or `metrics_only`."""
        return self._circuit.mode_word

    def set_mode(self, mode: str, *, expires: float | str | timedelta | None = None, reason: str = "by hand") -> None:
        """Hold the circuit open, let all calls pass, or only report.

        When the mode returns to `automatic`, the circuit is in the state that it was in before, and time has passed.

        Args:
            mode: `automatic`, `forced_open`, `disabled` or `metrics_only`.
            expires: How long the mode lasts, in seconds; None for no end.
            reason: A text of up to 200 characters for events, snapshots and errors.
        """
        word = checked(mode, "mode", _MODE)
        duration = None if expires is None else seconds(expires, "expires", above=True)
        if word == AUTOMATIC and duration is not None:
            expected = "None for the mode automatic: there is nothing to end"
            raise ConfigurationError([Problem("expires", expires, expected)])
        self._circuit.set_mode(word, duration, checked(reason, "reason", _REASON))

    def open_for(self, duration: float | str | timedelta, *, reason: str = "opened by hand") -> None:
        """Open the circuit for exactly `duration` seconds, whatever its state is."""
        length = seconds(duration, "duration", above=True)
        self._circuit.open(checked(reason, "reason", _REASON), length)

    def open_until(self, moment: float | datetime, *, reason: str = "opened by hand") -> None:
        """Open the circuit until `moment`; a moment in the past opens nothing.

        Args:
            moment: A time of the breaker's own (monotonic) clock, or a datetime with a time zone. A datetime is turned
                into a duration at once: later steps of the wall clock change nothing.
            reason: A text of up to 200 characters.
        """
        if isinstance(moment, datetime):
            length = _seconds_until(moment)
        else:
            length = (
                seconds(max(0.0, moment - self._circuit.now()), "moment") if _is_number(moment) else _refuse(moment)
            )
        if length > 0:
            self.open_for(min(length, LONGEST), reason=reason)

    @property
    def retry_after(self) -> float | None:
        """Seconds until an open circuit may admit a call; None if it is not open, or held open for good."""
        circuit = self._circuit
        with circuit.lock:
            now = circuit.now()
            mode, own = circuit.mode_at(now), circuit.machine.retry_after(now)
        if mode is None:
            return own
        return mode.left(now) if mode.word == FORCED_OPEN else None

    @property
    def is_idle(self) -> bool:
        """Whether no operator has set a mode or opened the circuit, so that it can be dropped. Takes no lock."""
        now, epoch = self._circuit.now(), self._circuit.machine.epoch
        mode = self._circuit.mode_at(now)
        word = AUTOMATIC if mode is None else mode.word
        is_held = isinstance(epoch, Open) and epoch.is_by_hand and now < epoch.until
        return word == self.options.first_mode and not is_held

    @property
    def is_refusing(self) -> bool:
        """Whether the circuit is open and its time is not over. Takes no lock."""
        epoch = self._circuit.machine.epoch
        return isinstance(epoch, Open) and self._circuit.now() < epoch.until

    def snapshot(self) -> dict[str, Any]:
        """Return state, mode, counts, rates and remaining open time (seconds), as plain data.

        They are of one moment. A `state_storage` is not asked. A shared breaker adds `fleet`: the record of the fleet.
        """
        circuit = self._circuit
        _ = circuit.mode_word  # ends a mode that has run out, with its event
        with circuit.lock:
            now = circuit.now()
            figures = figures_of(circuit.machine, circuit.mode_at(now) or Mode(AUTOMATIC), now)
            if circuit.shared is not None:
                figures["fleet"] = dict(circuit.shared.figures)
        return figures

    def __repr__(self) -> str:
        mode, state, left = self._circuit.mode_at(self._circuit.now()), self.current_state, self.retry_after
        if state == "open" and left is not None:
            state = f"open for {left:.1f} s"
        return f"<CircuitBreaker {self.name!r} {state}{'' if mode is None else f' ({mode.word})'}>"


def _checked_storage(storage: object) -> pybreaker.CircuitBreakerStorage | None:
    if storage is None or isinstance(storage, pybreaker.CircuitBreakerStorage):
        return storage
    raise ConfigurationError([Problem("state_storage", storage, "a pybreaker.CircuitBreakerStorage, or None")])


def _is_shared(connection: object, storage: object) -> bool:
    if connection is None:
        return False
    from resilience.redis import RedisConnection as Connection  # noqa: PLC0415 - imported by services with Redis

    if not isinstance(connection, Connection):  # only its type is shown: it may hold a password
        expected = "a RedisConnection, or None (RESILIENCE_REDIS__URL and ...__SHARED=true make one by themselves)"
        raise ConfigurationError([Problem("shared", type(connection).__name__, expected)])
    if storage is not None:
        expected = "None beside shared: a circuit has one place for its state"
        raise ConfigurationError([Problem("state_storage", type(storage).__name__, expected)])
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - NaN


def _seconds_until(moment: datetime) -> float:
    if moment.tzinfo is None:
        _refuse(moment)
    return (moment - datetime.now(UTC)).total_seconds()


def _refuse(moment: object) -> NoReturn:
    expected = "a moment of the breaker's clock in seconds, or a datetime with a time zone"
    raise ConfigurationError([Problem("moment", moment, expected)])
