"""The flight against a model: who waits, who gets the outcome, and who makes the call next."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience.singleflight._machine import Flight
from resilience.timeout import Deadline, LatestDeadline


class FlightModel(RuleBasedStateMachine):
    """Every follower leaves exactly once: with the outcome, as the leader, or by itself; in the order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.flight: Flight[int] = Flight()
        self.line: list[int] = []
        self.gone: list[int] = []
        self.next = 0

    @rule()
    def join(self) -> None:
        self.next += 1
        if self.flight.join(self.next):
            self.line.append(self.next)
        else:
            assert self.flight.is_over

    @precondition(lambda self: self.line)
    @rule(position=st.integers(0, 9))
    def leave(self, position: int) -> None:
        waiter = self.line.pop(position % len(self.line))
        assert self.flight.leave(waiter)
        self.gone.append(waiter)

    @rule()
    def hand_over(self) -> None:
        was_over = self.flight.is_over
        successor = self.flight.successor()
        assert successor == (self.line.pop(0) if self.line else None)
        assert self.flight.is_over == (was_over or successor is None)
        if successor is not None:
            assert self.flight.leave(successor)
            self.gone.append(successor)

    @rule()
    def finish(self) -> None:
        assert self.flight.finish() == self.line
        self.gone += self.line
        self.line = []

    @invariant()
    def agrees(self) -> None:
        assert self.flight.waiting == len(self.line)
        assert not (self.flight.is_over and self.line)
        assert not any(self.flight.leave(waiter) for waiter in self.gone)


TestFlight = FlightModel.TestCase


def test_a_new_flight_is_under_way() -> None:
    """A flight keeps what it was made with, has no followers, and has not ended."""
    leader, deadline = object(), LatestDeadline(Deadline(5.0))
    flight: Flight[str] = Flight(3, leader, deadline)
    assert (flight.epoch, flight.leader, flight.deadline, flight.waiting) == (3, leader, deadline, 0)
    assert (flight.ran_short, flight.is_over) == (False, False)


def test_no_follower_joins_a_flight_that_is_over() -> None:
    """A caller that comes after the outcome was handed out does not wait, and leaves nothing behind."""
    flight: Flight[str] = Flight()
    assert flight.join("early")
    assert flight.finish() == ["early"]
    assert not flight.join("late")
    assert flight.waiting == 0


def test_followers_get_the_outcome_in_the_order_of_arrival() -> None:
    """The caller that has waited longest is served first, as the next leader and with the outcome."""
    flight: Flight[str] = Flight()
    for follower in ("first", "second", "third"):
        flight.join(follower)
    assert flight.successor() == "first"
    assert flight.leave("first")
    assert flight.finish() == ["second", "third"]
