"""What a bucket does at the very moment."""

from resilience.ratelimit._machine import Quota
from resilience.ratelimit._rate import as_rate


def quota(rate: str = "2/second", burst: int = 4) -> Quota:
    return Quota("p", as_rate(rate), burst)


def test_a_bucket_drained_without_a_wish_has_its_next_token_in_its_own_time() -> None:
    """Where the other side asked for no wait, the bucket is empty and no emptier."""
    bucket = quota()
    assert bucket.drained(0.0, 100.0) == bucket.drained(0.0, 100.0, 0.0) == 100.0 + bucket.capacity
    assert bucket.drained(0.0, 100.0, 3.0) == 100.0 + bucket.capacity + 3.0 - bucket.interval
