"""The effects of an attempt that ends: on failures, on latencies, and on the next attempt."""

from resilience.hedge._machine import Latencies, Race, Rank, RankedOutcome, _bucket

START = 1000.0


def test_only_errors_that_are_the_callers_to_see_are_failures() -> None:
    """A rejected result is not a failure, and neither is the error behind a substitute."""
    race = Race(1.0, 4, 1000.0)
    for _ in range(4):
        race.start(1000.0)
    error = OSError()
    race.end(RankedOutcome(1, Rank.UNACCEPTABLE, result=3), 1001.0)
    race.end(RankedOutcome(2, Rank.SUBSTITUTED, error=error), 1001.0)
    assert race.failures == []
    failed = RankedOutcome(3, Rank.FAILED, error=error)
    race.end(failed, 1001.0)
    assert race.failures == [failed]


# What the clock says, to the moment


def raced(delay: float, ended: float, ending: Rank) -> Race:
    """Return a call whose first attempt ended so many seconds after it began."""
    race = Race(delay, 2, START)
    race.start(START)
    race.end(RankedOutcome(1, ending), START + ended)
    return race


def test_a_first_attempt_that_failed_says_how_long_it_took_itself() -> None:
    """What a hedge took afterwards says nothing about the attempt before it."""
    race = raced(2.0, 1.0, Rank.FAILED)
    race.start(START + 1)
    race.end(RankedOutcome(2, Rank.ANSWERED), START + 3)
    assert race.latency(START + 9) is None
    assert raced(2.0, 2.0, Rank.FAILED).latency(START + 9) == 4.0
    assert raced(2.0, 1.5, Rank.ANSWERED).latency(START + 9) == 1.5


def test_without_a_delay_all_attempts_are_due_at_once() -> None:
    """With a delay of nothing there is nothing to wait for; with any other, there is."""
    for delay, is_due in ((0.0, True), (0.5, False)):
        race = Race(delay, 2, START)
        race.start(START)
        assert race.is_due is is_due


def test_after_an_answer_nothing_is_due() -> None:
    """An answer ends the race: no other attempt is to be started."""
    race = raced(1.0, 0.5, Rank.ANSWERED)
    assert (race.is_over, race.is_due) == (True, False)
    assert raced(1.0, 0.5, Rank.FAILED).is_due


def test_answers_of_no_time_leave_the_window_like_others() -> None:
    """The shortest latency there is counts while it is among the latest, and no longer."""
    for first, second in ((0.0, 1.0), (1.0, 0.0)):
        for quantile in (0.25, 0.5, 0.75):
            latencies = Latencies(quantile, 1, 8)
            for value in [first] * 8 + [second] * 8:
                latencies.observe(value)
            alone = Latencies(quantile, 1, 8)
            alone.observe(second)
            assert latencies.slow == alone.slow
    assert _bucket(0.0) == _bucket(-1.0) == 0
