"""The behaviour of a bucket exactly at its boundaries."""

from resilience.ratelimit._machine import BucketTable, Quota
from resilience.ratelimit._rate import as_rate


def quota(rate: str = "2/second", burst: int = 4) -> Quota:
    return Quota("p", as_rate(rate), burst)


def test_a_bucket_drained_without_a_wish_has_its_next_token_in_its_own_time() -> None:
    """If the other side asked for no wait, the bucket is empty and no emptier."""
    bucket = quota()
    assert bucket.drained(0.0, 100.0) == bucket.drained(0.0, 100.0, 0.0) == 100.0 + bucket.capacity
    assert bucket.drained(0.0, 100.0, 3.0) == 100.0 + bucket.capacity + 3.0 - bucket.interval


def test_a_bucket_is_forgotten_at_the_moment_it_is_full() -> None:
    """A bucket that is full just now is forgotten: it is the same as a bucket of a new key."""
    table = BucketTable(100)
    table.add("a", 100.0, 50.0)
    table.add("b", 200.0, 99.9)
    assert list(table.cells) == ["a", "b"]
    table.add("c", 200.0, 100.0)
    assert list(table.cells) == ["b", "c"]


def test_a_key_left_in_line_without_a_bucket_is_let_go() -> None:
    """A key that an interrupt left in line does no harm, and it does not count as a bucket when room is needed."""
    table = BucketTable(2)
    table.add("a", 100.0, 0.0)
    table._order.appendleft("interrupted")
    table.add("b", 200.0, 0.0)
    table._order.appendleft("interrupted")
    table._order.append("interrupted")
    table._order.append("interrupted")
    assert table._displace()
    assert list(table.cells) == ["b"]
