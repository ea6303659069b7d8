"""What HTTP says about calling again."""

from __future__ import annotations

import pytest

from resilience.client import is_failure, is_worth_repeating, may_repeat


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "QUERY", "get"])
def test_idempotent_methods_may_be_repeated(method: str) -> None:
    """RFC 9110 says which methods do no harm when they arrive twice."""
    assert may_repeat(method, {})


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "PURGE", ""])
def test_other_methods_need_a_key(method: str) -> None:
    """Any other request has to carry a key by which the server knows it again."""
    assert not may_repeat(method, {})
    assert not may_repeat(method, {"Idempotency-Key": ""})
    assert may_repeat(method, {"Idempotency-Key": "k"})


def test_statuses() -> None:
    """429 and all from 500 on are failures, and all but the permanent ones of them are worth another attempt."""
    failures = [status for status in range(100, 600) if is_failure(status)]
    assert failures == [429, *range(500, 600)]
    hopeless = [status for status in failures if not is_worth_repeating(status)]
    assert hopeless == [501, 505, 506, 508, 510, 511]
    assert not is_worth_repeating(404)
