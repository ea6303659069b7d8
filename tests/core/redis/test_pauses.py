"""The pauses during an outage."""

from resilience.redis._machine import FIRST_PAUSE, Availability


def test_jitter_shortens_a_pause_by_half_at_most() -> None:
    """With all the jitter there is, a pause is half as long; with half of it, three quarters."""
    for jitter, share in ((0.0, 1.0), (0.5, 0.75), (1.0, 0.5)):
        availability = Availability(lease=1)
        permit = availability.admit(1000.0)
        assert permit is not None
        availability.failed(permit, 1000.0, jitter)
        assert abs(availability.trial_after(1000.0) - FIRST_PAUSE * share) < 1e-9
