"""Which flights a caller may join."""

from resilience.singleflight._machine import Flight


def test_a_flight_is_of_the_first_epoch_unless_it_says_otherwise() -> None:
    """Callers begin in epoch 0, and so does a flight."""
    assert Flight[int]().epoch == 0
    assert Flight[int](3).epoch == 3
