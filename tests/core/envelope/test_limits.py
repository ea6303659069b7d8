"""Where the limits of an envelope's fields are."""

from resilience.envelope._machine import is_code, seconds_known


def test_a_code_of_the_longest_length_is_one() -> None:
    """A code may have 63 characters, as the reason of google.rpc.ErrorInfo may."""
    assert is_code("A" * 63)
    assert not is_code("A" * 64)


def test_waits_are_told_by_the_millisecond_from_none_to_a_year() -> None:
    """Both ends are waits; a fraction of a millisecond is rounded away."""
    assert [seconds_known(wait) for wait in (0, 1.23456, 31_536_000.0)] == [0.0, 1.235, 31_536_000.0]
    assert [seconds_known(wait) for wait in (-0.001, 31_536_000.5)] == [None, None]
