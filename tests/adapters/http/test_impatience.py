"""A caller who waits less than the service allows is no failure of the host that is asked in its name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
from http_callers import SyncCaller
from http_upstreams import Upstream

from resilience import CircuitBreaker, Deadline, DeadlineExceededError, Pipeline, Retry, Timeout
from resilience.budget import RetryBudget

# The limits are short: on a machine that stands still, another one may end the call.
pytestmark = pytest.mark.realtime

Caller = Callable[..., SyncCaller]
PATIENCE = 0.15


def impatient(seconds: float = PATIENCE) -> Deadline:
    """Return the deadline of a caller, in a service that sets none itself."""
    return Deadline.after(seconds, limit=math.inf)


def late(client: SyncCaller, upstream: Upstream, deadline: Deadline, **options: Any) -> DeadlineExceededError:
    """Return the error of a request that the deadline ends."""
    with deadline, pytest.raises(DeadlineExceededError) as raised:
        client.get(upstream.url, **options)
    return raised.value


def test_a_cut_off_says_what_the_service_would_have_allowed(caller: Caller, upstream: Upstream) -> None:
    """Law: an error of ours carries the client's own timeout as what the service allows, and counts nowhere."""
    breaker = CircuitBreaker(fail_max=3)
    client = caller(pipeline=Pipeline("upstream", breaker))
    upstream.delay = 0.5
    error = late(client, upstream, impatient())
    assert error.is_callers
    assert error.allowed == 5
    assert error.seconds == pytest.approx(PATIENCE, abs=0.12)
    assert breaker.fail_counter == 0


@pytest.mark.parametrize(
    ("deadline", "timeout"),
    [
        pytest.param(lambda: Deadline.after(PATIENCE), 2, id="a deadline of the service"),
        pytest.param(lambda: impatient(5), PATIENCE, id="the Timeout"),
    ],
)
def test_what_used_all_that_the_service_allows_counts(
    caller: Caller, upstream: Upstream, deadline: Callable[[], Deadline], timeout: float
) -> None:
    """Law: a call that a limit of the service ended is a failure of the host."""
    breaker = CircuitBreaker(fail_max=3)
    client = caller(pipeline=Pipeline("upstream", breaker, Timeout(timeout)))
    upstream.delay = 0.5
    assert not late(client, upstream, deadline()).is_callers
    assert breaker.fail_counter == 1


def test_a_timeout_of_the_client_counts_however_impatient_the_caller(caller: Caller, upstream: Upstream) -> None:
    """Law: the client's own timeout is what the service allows."""
    breaker = CircuitBreaker(fail_max=3)
    client = caller(pipeline=Pipeline("upstream", breaker))
    upstream.delay = 1
    with impatient(30), pytest.raises(client.timed_out):
        client.get(upstream.url, timeout=0.1)
    assert breaker.fail_counter == 1


@pytest.mark.parametrize("timeout", [2, 5])
def test_a_cut_off_is_not_retried_and_spends_no_budget(caller: Caller, upstream: Upstream, timeout: float) -> None:
    """Law: with whatever margin is left, no other attempt is made for a caller who has left."""
    budget = RetryBudget(minimum=5)
    retry = Retry(attempts=3, on=Exception, wait_initial=0, wait_jitter=0, budget=budget)
    client = caller(pipeline=Pipeline("upstream", retry, Timeout(timeout)))
    upstream.delay = 0.5
    late(client, upstream, impatient())
    assert len(upstream.seen) <= 1
    assert retry.snapshot()["retries"] == budget.snapshot()["refused"] == 0


def answered(client: SyncCaller, upstream: Upstream, patience: float, status: int = 504) -> None:
    """Have a request answered by an error, at once."""
    upstream.answers(status)
    with impatient(patience), contextlib.suppress(DeadlineExceededError):
        assert client.get(upstream.url).status == status


def test_a_504_that_our_own_deadline_brought_about_counts_nowhere(caller: Caller, upstream: Upstream) -> None:
    """Law: a service that gives up in time for the short deadline we have sent it is no failure."""
    breaker, retry = CircuitBreaker(fail_max=10), Retry(attempts=3, on=Exception, wait_initial=0, wait_jitter=0)
    client = caller(pipeline=Pipeline("upstream", retry, breaker))
    client.get(upstream.url)  # a connection, so that what follows takes no time
    answered(client, upstream, 0.04)
    assert breaker.fail_counter == 0
    assert len(upstream.seen) <= 2


@pytest.mark.parametrize(
    ("patience", "status", "options"),
    [
        pytest.param(10, 504, {}, id="long before the deadline"),
        pytest.param(0.04, 503, {}, id="another error"),
        pytest.param(0.04, 504, {"sends_context": False}, id="no deadline was sent"),
    ],
)
def test_any_other_answer_of_a_host_in_trouble_counts(
    caller: Caller, upstream: Upstream, patience: float, status: int, options: dict[str, Any]
) -> None:
    """Law: a failure of the host counts, whoever waits for it."""
    breaker = CircuitBreaker(fail_max=10)
    client = caller(pipeline=Pipeline("upstream", breaker), **options)
    for _ in range(5):  # of which a busy machine may cut off one or another
        client.get(upstream.url)
        answered(client, upstream, patience, status)
        if breaker.fail_counter:
            break
    assert breaker.fail_counter == 1
