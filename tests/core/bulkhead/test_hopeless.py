"""When a wait is hopeless, at times far from zero."""

from resilience.bulkhead._machine import Arrival, Places

START = 1000.0


def test_a_wait_is_hopeless_beyond_the_patience_left() -> None:
    """A caller whose patience is shorter than the line takes is refused, at whatever time."""
    places: Places[str] = Places(1, 9)
    assert places.arrive("first", START, START) is Arrival.ADMITTED
    assert places.arrive("second", START, START + 60) is Arrival.QUEUED
    assert places.release("first", START + 5) == "second"
    assert places.arrive("third", START + 5, START + 60) is Arrival.QUEUED
    assert places.minimum_wait(START + 5) == 5.0
    assert places.arrive("fourth", START + 5, START + 9.9) is Arrival.HOPELESS
    assert places.arrive("fifth", START + 5, START + 10) is Arrival.QUEUED
