"""Callers that wait less than the service allows: they affect no other callers, and leave no blind spot."""

import asyncio
import math
from collections.abc import Callable

import pytest

from resilience import (
    AppError,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceededError,
    Pipeline,
)
from resilience.testing import ManualClock, RecordingListener

# The limits are short: on a machine that stands still, another one may end the call.
pytestmark = pytest.mark.realtime

COLOURS = pytest.mark.parametrize("colour", ["blocking", "awaiting"])
ALLOWED = 2.0
"""Seconds that the service allows a call."""


class World:
    """One dependency behind a breaker, on a clock of its own."""

    def __init__(self, colour: str, breaker: CircuitBreaker, clock: ManualClock) -> None:
        self.colour, self.breaker, self.clock = colour, breaker, clock
        self.heard = RecordingListener()
        breaker.events.subscribe(self.heard)
        self._pipeline = Pipeline("dependency", breaker)

    def run(self, act: Callable[[], object]) -> None:
        """Make one call that does `act`."""

        async def awaited() -> None:
            act()

        if self.colour == "blocking":
            self._pipeline.call(act)
        else:
            asyncio.run(self._pipeline.acall(awaited))

    def cut_off(self, seconds: float, allowed: float) -> None:
        """Behave like a call that is cut off after `seconds`."""
        self.clock.advance(seconds)
        raise DeadlineExceededError("cut off", seconds=seconds, allowed=allowed)

    def impatient(self, patience: float = 0.02, allowed: float = ALLOWED) -> None:
        """Have a caller wait for `patience` seconds, in vain."""
        with (
            Deadline(self.clock() + patience, limit=math.inf, clock=self.clock),
            pytest.raises(DeadlineExceededError),
        ):
            self.run(lambda: self.cut_off(patience, allowed))

    def opened(self, patience: float) -> float:
        """Have callers wait in vain, one after another, until the circuit opens; return the seconds that took."""
        began = self.clock()
        for _ in range(1000):
            if self.state != "closed":
                break
            self.impatient(patience)
        assert self.state == "open"
        return self.clock() - began

    def refused(self, patience: float = 0.02) -> None:
        """Have a caller refused."""
        with (
            Deadline(self.clock() + patience, limit=math.inf, clock=self.clock),
            pytest.raises(CircuitOpenError),
        ):
            self.run(lambda: None)

    def answered(self) -> None:
        """Have a caller with time answered."""
        self.run(lambda: None)

    def fails(self, error: Exception | None = None) -> None:
        """Have a caller with time get an error."""
        raised = error or ConnectionError("down")

        def act() -> None:
            raise raised

        with pytest.raises(type(raised)):
            self.run(act)

    @property
    def state(self) -> str:
        return self.breaker.current_state

    @property
    def reasons(self) -> list[str]:
        """Why the circuit has changed its state, each time."""
        return [event.facts["reason"] for event in self.heard.events if "reason" in event.facts]


@pytest.fixture(params=["blocking", "awaiting"])
def make(request: pytest.FixtureRequest) -> Callable[..., World]:
    """Make a dependency whose breaker has these options, for either colour."""

    def world(**options: object) -> World:
        clock = ManualClock()
        given = {"fail_max": 3, "reset_timeout": 10, "reset_timeout_jitter": 0, **options}
        breaker = CircuitBreaker(clock=clock, **given)  # type: ignore[arg-type]  # each test names its options
        return World(request.param, breaker, clock)

    return world


Make = Callable[..., World]
RATE = {"fail_max": None, "failure_rate_threshold": 0.5, "minimum_calls": 10}


@pytest.mark.parametrize("options", [{}, RATE, {**RATE, "sliding_window": "60s"}])
def test_cut_offs_between_answers_never_open_the_circuit(make: Make, options: dict[str, object]) -> None:
    """Law: however many callers are impatient, a dependency that answers is left alone."""
    world = make(**options)
    for _ in range(50):
        for _ in range(20):
            world.impatient()
        world.answered()
    assert world.state == "closed"
    assert world.reasons == []
    assert world.breaker.snapshot()["failures"] == 0


@pytest.mark.parametrize(("options", "calls"), [({}, 3), (RATE, 10), ({**RATE, "sliding_window": "60s"}, 10)])
def test_a_dependency_that_never_answers_opens_the_circuit_for_impatient_callers(
    make: Make, options: dict[str, object], calls: int
) -> None:
    """Law: cut-offs alone open the circuit, after as many calls as a rule needs and as long as one call may take."""
    world = make(**options)
    for _ in range(calls - 1):
        world.impatient(1)
    assert world.state == "closed"
    world.impatient(1)
    assert world.state == "open"
    assert world.reasons == ["calls cut off"]
    world.refused(1)


def test_it_takes_as_long_as_the_service_allows_one_call(make: Make) -> None:
    """Law: however many cut-offs there are, nothing is concluded before a patient call would have been at its end."""
    world = make()
    assert world.opened(0.02) == pytest.approx(ALLOWED, abs=0.03)


def test_without_any_limit_of_the_service_the_slow_call_threshold_counts(make: Make) -> None:
    """Law: a service without Timeout and deadline waits for `slow_call_duration_threshold`, in all."""
    world = make(slow_call_duration_threshold=5)
    for _ in range(4):
        world.impatient(1, allowed=math.inf)
    assert world.state == "closed"
    world.impatient(1.01, allowed=math.inf)
    assert world.state == "open"


def test_ten_seconds_without_an_answer_are_enough(make: Make) -> None:
    """Law: a service that allows a call more time, or as much as it takes, finds out after ten seconds all the same."""
    for allowed in (30.0, math.inf):
        world = make()
        for _ in range(9):
            world.impatient(1, allowed=allowed)
        assert world.state == "closed"
        world.impatient(1.01, allowed=allowed)
        assert world.state == "open"


def test_impatient_callers_never_cause_refusals_of_more_patient_callers(make: Make) -> None:
    """Law: a circuit that cut-offs have opened lets all callers with more time pass, at once and together."""
    world = make()
    world.opened(0.02)
    assert world.state == "open"
    permits = [world.breaker.admit() for _ in range(10)]
    with Deadline(world.clock() + 0.1, limit=math.inf, clock=world.clock):
        permits.append(world.breaker.admit())
    world.refused(0.02)
    for permit in permits:
        world.breaker.on_success(permit, None)
    world.impatient(0.02)
    assert world.state == "closed"
    assert world.reasons == ["calls cut off", "calls are answered again"]


def test_one_patient_caller_in_a_row_of_impatient_ones_does_not_speak_for_all(make: Make) -> None:
    """Law: the circuit opens for patience that as many callers as a rule needs have shown, not for the longest."""
    world = make()
    world.impatient(1)
    world.opened(0.02)
    assert world.state == "open"
    world.impatient(0.5)
    world.impatient(0.5)
    world.refused(0.5)
    world.answered()


def test_calls_that_begin_late_open_the_circuit_for_calls_that_begin_as_late(make: Make) -> None:
    """Law: calls in the second half of the service's own deadline have no others refused, and no blind spot either."""
    world = make()

    def late(left: float = 0.4) -> Deadline:
        at = world.clock() + left
        return Deadline(at, began=at - 1, clock=world.clock)

    for _ in range(3):
        with late(), pytest.raises(DeadlineExceededError):
            world.run(lambda: world.cut_off(0.4, 1.0))
    assert world.state == "open"
    with late(), pytest.raises(CircuitOpenError):
        world.answered()
    with late(0.9):
        world.answered()
    with late():
        world.answered()
    assert world.reasons == ["calls cut off", "calls are answered again"]


def test_failures_of_patient_callers_open_the_circuit_for_all(make: Make) -> None:
    """Law: while impatient callers are refused, calls of others go on to be judged by the rules."""
    world = make()
    world.opened(0.02)
    for _ in range(3):
        world.fails()
    with pytest.raises(CircuitOpenError):
        world.answered()
    assert world.reasons == ["calls cut off", "consecutive failures"]


def test_a_trial_that_is_cut_off_shows_nothing_and_frees_its_permit(make: Make) -> None:
    """Law: half-open, an impatient caller neither opens nor closes the circuit, and blocks no other caller."""
    world = make()
    for _ in range(3):
        world.fails()
    world.clock.advance(10)
    for _ in range(5):
        world.impatient(0.02)
        assert world.state == "half-open"
    world.answered()
    assert world.state == "closed"


def test_a_more_patient_caller_takes_over_the_permit_of_an_impatient_trial(make: Make) -> None:
    """Law: half-open, callers who cannot be cut off so soon are not kept out by one who can; nor by their like."""
    world = make()
    for _ in range(3):
        world.fails()
    world.clock.advance(10)
    with Deadline(world.clock() + 0.02, limit=math.inf, clock=world.clock):
        impatient = world.breaker.admit()
    world.refused(0.02)
    patient = world.breaker.admit()
    with pytest.raises(CircuitOpenError):
        world.breaker.admit()
    world.breaker.on_failure(impatient, ConnectionError("of a trial that counts no more"))
    assert world.state == "half-open"
    world.breaker.on_success(patient, None)
    assert world.state == "closed"


def test_trials_cut_off_for_a_whole_lease_open_the_circuit_again(make: Make) -> None:
    """Law: impatient trials cannot keep a circuit half-open while the dependency hangs."""
    world = make(half_open_lease=5)
    for _ in range(3):
        world.fails()
    world.clock.advance(10)
    for _ in range(4):
        world.impatient(1)
    assert world.state == "half-open"
    world.impatient(1)
    assert world.state == "open"
    world.refused(1)
    assert world.reasons[-1] == "trial calls cut off"
    world.answered()  # a caller with more patience is a trial at once
    assert world.state == "closed"


def test_after_an_opening_by_cut_offs_one_more_opens_the_circuit_again(make: Make) -> None:
    """Law: half-open for impatient callers, the first trial that is cut off opens the circuit for them again."""
    world = make()
    for _ in range(3):
        world.impatient(1)
    world.clock.advance(10)
    world.impatient(1)
    assert world.state == "open"
    world.refused(1)
    world.clock.advance(10)
    world.answered()
    world.impatient(1)
    assert world.state == "closed"


def test_a_cut_off_above_the_slow_call_threshold_is_slow(make: Make) -> None:
    """Law: a rule about slow calls sees those that impatient callers have waited for longer than it allows."""
    rules = {"fail_max": None, "slow_call_rate_threshold": 0.5, "slow_call_duration_threshold": 0.5}
    world = make(**rules, minimum_calls=4)
    for _ in range(5):
        world.impatient(0.4)
        world.answered()
    assert world.breaker.snapshot()["slow_calls"] == 0
    for _ in range(5):
        world.impatient(0.6)
    assert world.state == "open"
    assert world.reasons == ["slow call rate"]


def test_a_cancelled_call_that_outlived_the_threshold_is_slow(make: Make) -> None:
    """Law: a call that is cancelled after it has become slow counts like one that another call finds still running."""
    rules = {"fail_max": None, "slow_call_rate_threshold": 1.0, "slow_call_duration_threshold": 0.5}
    world = make(**rules, minimum_calls=2)
    for _ in range(2):
        permit = world.breaker.admit()
        world.clock.advance(0.6)
        world.breaker.on_abandon(permit)
    assert world.state == "open"


@pytest.mark.parametrize(
    "error",
    [TimeoutError("of a driver"), AppError("DEADLINE_EXCEEDED", http_status=504, grpc_status="DEADLINE_EXCEEDED")],
)
def test_another_timeout_at_the_callers_deadline_is_a_cut_off(make: Make, error: Exception) -> None:
    """Law: a timeout that does not know whose it was is the caller's doing once the caller's deadline has passed."""
    world = make()
    with Deadline(world.clock() + 0.02, limit=math.inf, clock=world.clock):
        world.clock.advance(0.02)
        world.fails(error)
        assert world.breaker.fail_counter == 0
        world.fails(ConnectionError("down"))
        assert world.breaker.fail_counter == 1
    with Deadline(world.clock() + 10, limit=math.inf, clock=world.clock):
        world.fails(error)
    with Deadline(world.clock(), clock=world.clock):
        world.fails(error)
    assert world.breaker.fail_counter == 3


def test_a_mode_that_counts_nothing_counts_no_cut_offs(make: Make) -> None:
    """Law: while an operator disables the breaker, impatient callers change nothing."""
    world = make()
    world.breaker.set_mode("disabled")
    for _ in range(10):
        world.impatient(1)
    world.breaker.set_mode("automatic")
    assert world.state == "closed"


def test_impatient_callers_are_not_refused_in_shadow_mode(make: Make) -> None:
    """Law: a breaker in metrics_only reports the calls that it would have refused, and refuses none."""
    world = make(shadow=True)
    for _ in range(4):
        world.impatient(1)
    world.impatient(1)
    assert world.reasons[0] == "calls cut off"
    assert {event.kind for event in world.heard.events} >= {"breaker.opened", "breaker.rejected"}


def test_a_group_of_cut_offs_is_one_and_a_failure_among_them_counts(make: Make) -> None:
    """Law: an exception group is the caller's doing if nothing but cut-offs and refusals is in it."""
    world = make()
    cut_off = DeadlineExceededError("cut off", seconds=0.02, allowed=ALLOWED)
    refusal = CircuitOpenError("open", policy="inner")
    world.fails(ExceptionGroup("several", [cut_off, refusal]))
    assert world.breaker.fail_counter == 0
    world.fails(ExceptionGroup("several", [cut_off, ConnectionError("down")]))
    assert world.breaker.fail_counter == 1
