"""The flight against a model: who waits, who gets the outcome, and who makes the call next."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience.singleflight._machine import Flight


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
