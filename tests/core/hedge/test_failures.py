"""Which ends of attempts are told to the caller beside the one it gets."""

from resilience.hedge._machine import Ending, Outcome, Race


def test_only_errors_that_are_the_callers_to_see_are_failures() -> None:
    """A result that was turned down is no error, and the error behind a stand-in is not told again."""
    race = Race(1.0, 4, 1000.0)
    for _ in range(4):
        race.start(1000.0)
    error = OSError()
    race.end(Outcome(1, Ending.UNACCEPTABLE, result=3), 1001.0)
    race.end(Outcome(2, Ending.SUBSTITUTED, error=error), 1001.0)
    assert race.failures == []
    failed = Outcome(3, Ending.FAILED, error=error)
    race.end(failed, 1001.0)
    assert race.failures == [failed]
