"""What a Sentinel may answer."""

from __future__ import annotations

import pytest

from resilience.redis._sentinel import Sentinels
from resilience.redis._url import Endpoint

FIRST, SECOND = Endpoint("one", 26379), Endpoint("two", 26379)


def sentinels() -> Sentinels:
    return Sentinels((FIRST, SECOND), "payments", {"connection_class": object}, 1.0)


def test_a_sentinel_that_answers_is_asked_first() -> None:
    """The Sentinel that named a master is the first one to be asked from then on."""
    asked = sentinels()
    assert asked._named(SECOND, [b"10.0.0.7", b"6379"]) == Endpoint("10.0.0.7", 6379)
    assert asked._endpoints == (SECOND, FIRST)


@pytest.mark.parametrize(
    "reply",
    [
        [b"10.0.0.7", b"x"],
        [b"", b"6379"],
        [b"10.0.0.7", b"0"],
        [b"10.0.0.7", b"99999999"],
        [b"h" * 254, b"6379"],
        [b"10.0.0.7"],
    ],
    ids=["no number", "no host", "port 0", "port too large", "host too long", "half an answer"],
)
def test_an_answer_that_is_no_address_helps_no_one(reply: list[object]) -> None:
    """An answer that cannot be used is refused, and its Sentinel is not preferred."""
    asked = sentinels()
    with pytest.raises(ValueError):
        asked._named(SECOND, reply)
    assert asked._endpoints == (FIRST, SECOND)
