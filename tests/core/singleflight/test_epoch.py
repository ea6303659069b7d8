"""Which flights a caller may join, and when."""

from resilience.singleflight._machine import Flight


def test_a_flight_is_of_the_first_epoch_unless_it_says_otherwise() -> None:
    """Callers begin in epoch 0, and so does a flight; it knows who must not wait for it."""
    assert (Flight[int]().epoch, Flight[int]().leader) == (0, None)
    leader = object()
    assert (Flight[int](3, leader).epoch, Flight[int](3, leader).leader) == (3, leader)


class Interrupted(Flight[str]):
    """A caller joins just after the flight was found empty."""

    looks = 0

    def first(self) -> str | None:
        found = super().first()
        self.looks += 1
        if self.looks == 1:
            assert found is None
            assert self.join("late")
        return found


def test_who_joins_in_the_last_moment_makes_the_call() -> None:
    """A caller that joined after the flight was found empty makes the call, and does not wait for ever."""
    flight = Interrupted()
    assert flight.successor() == "late"
    assert not flight.is_over
    assert flight.leave("late")
    assert flight.successor() is None
    assert flight.is_over
