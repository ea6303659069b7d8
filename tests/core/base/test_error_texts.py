"""The texts of refusals and timeouts state the facts; what a remote client gets does not."""

from __future__ import annotations

import contextlib
import copy
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceededError,
    DrainingError,
    Keyed,
    Pipeline,
    RateLimit,
    RateLimitedError,
    RejectedError,
    Retry,
    Timeout,
)
from resilience.envelope import envelope_of
from resilience.testing import ManualClock, no_waits

Failed: Any = contextlib.suppress(TimeoutError)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def failing(*_args: object) -> None:
    raise TimeoutError("no answer from 10.0.0.7")


def breaker(clock: ManualClock, **options: Any) -> CircuitBreaker:
    options = {"failure_rate_threshold": 0.5, "minimum_calls": 20, "sliding_window": 20} | options
    return CircuitBreaker(reset_timeout=30, reset_timeout_jitter=0, clock=clock, **options)


def text_of(call: Callable[..., object], *args: object) -> str:
    """Return the text of the error of a call, after a look at what may happen to an error."""
    with pytest.raises((RejectedError, DeadlineExceededError)) as caught:
        call(*args)
    error, text = caught.value, str(caught.value)
    assert [str(copied(error)) for copied in (copy.copy, copy.deepcopy)] == [text] * 2
    assert str(pickle.loads(pickle.dumps(error))) == text
    assert envelope_of(error).message == type(error).public_message
    return text


def test_an_open_circuit_says_why_and_until_when(clock: ManualClock) -> None:
    """The text has the name, the key, the counts, the last error's type and the time that is left; no error's text."""
    banks = Pipeline("payments", Keyed(lambda _: breaker(clock), key=lambda host, *_: host))
    for number in range(20):
        with Failed:
            banks.call(lambda _host, number: failing() if number >= 8 else None, "api.bank.example", number)
    clock.advance(2)
    text = (
        "circuit 'payments.breaker' (api.bank.example) is open: 12 of 20 calls failed (failure rate), "
        "last TimeoutError; next trial in "
    )
    assert text_of(banks.call, failing, "api.bank.example") == f"{text}28 s"
    clock.advance(27.75)
    assert text_of(banks.call, failing, "api.bank.example") == f"{text}0.25 s"


def test_a_circuit_states_each_reason(clock: ManualClock) -> None:
    """Slow calls, failed trials, an operator and a mode are named as the reason."""
    payments = breaker(clock, name="payments", fail_max=2)
    payments.open_for(60, reason="the bank\nmoves")
    assert text_of(payments.admit) == r"circuit 'payments' is open: the bank\nmoves; next trial in 60 s"
    clock.advance(61)
    with Failed:
        payments.call(failing)
    text = "circuit 'payments' is open: trial call failed, last TimeoutError; next trial in 30 s"
    assert text_of(payments.admit) == text
    payments.name = "other"
    assert text_of(payments.admit) == "circuit 'other' is open; next trial in 30 s"
    payments.set_mode("forced_open", reason="migration")
    assert text_of(payments.admit) == "circuit 'other' is held open (migration)"
    slow = breaker(clock, slow_call_rate_threshold=0.5, slow_call_duration_threshold=1, name="slow", minimum_calls=1)
    slow.call(clock.advance, 2)
    text = "circuit 'slow' is open: 1 of 1 calls were slow (slow call rate); next trial in 30 s"
    assert text_of(slow.admit) == text


def test_the_error_of_a_trip_has_the_same_text(clock: ManualClock) -> None:
    """With `throw_new_error_on_trip` the call that opens the circuit gets the text that later calls get."""
    ledger = breaker(clock, fail_max=1, throw_new_error_on_trip=True, name="ledger")
    text = text_of(ledger.call, failing)
    assert text == text_of(ledger.call, failing)
    assert "is open: 1 of 1 calls failed (consecutive failures), last TimeoutError" in text


def test_a_trial_that_is_refused_has_the_reason_of_the_opening(clock: ManualClock) -> None:
    """While the trials run, further calls get the reason of the opening and the end of the oldest lease."""
    ledger = breaker(clock, fail_max=1, name="ledger", half_open_lease=5)
    with Failed:
        ledger.call(failing)
    clock.advance(31)
    ledger.admit()
    assert text_of(ledger.admit) == (
        "circuit 'ledger' is open: 1 of 1 calls failed (consecutive failures), last TimeoutError; next trial in 5 s"
    )


def test_other_refusals(clock: ManualClock) -> None:
    """A limit states its rate and when to retry, a bulkhead its places and the wait, each with name and key."""
    limit = Pipeline("p", Keyed(lambda _: RateLimit("5/minute", burst=1, clock=clock), key=lambda user: user))
    limit.call(len, "ada")
    assert text_of(limit.call, len, "ada") == "rate limit 'p.ratelimit' (ada): 5/minute exceeded; retry in 12 s"
    full = Bulkhead(1)
    full.admit()
    assert text_of(Pipeline("p", full).call, int) == "bulkhead 'p.bulkhead': all 1 places are taken and none may wait"
    busy = Bulkhead(1, max_wait=0.02)
    waiting = Pipeline("p", busy)
    with waiting.guard():
        text = text_of(Pipeline("p", busy).call, int)
    assert text == "bulkhead 'p.bulkhead': all 1 places are taken and none became free within 0.02 s"


def test_timeouts_and_deadlines(clock: ManualClock) -> None:
    """A timeout states the time that the call had, or that no time was left, and how much of it was the margin."""
    search = Pipeline("search", Timeout("20ms"))
    text = text_of(search.call, time.sleep, 0.5)
    assert text == "timeout 'search.timeout': the call took longer than 0.02 s"
    with Deadline(clock() + 1, clock=clock):
        clock.advance(1.5)
        text = text_of(search.call, int)
    assert text == "timeout 'search.timeout': the deadline had passed before the call"
    with Deadline(clock() + 1, clock=clock):
        text = text_of(Pipeline("pay", Timeout(5, margin=2)).call, int)
    assert text == "timeout 'pay.timeout': 1 s to the deadline are within the margin of 2 s; the call was not made"


def test_a_retry_that_gave_up_notes_attempts_and_time() -> None:
    """The caller gets its own error, with a note of the attempts, the time, the reason, and each error."""
    payments = Pipeline("payments", Retry(attempts=2, on=TimeoutError))
    with no_waits(), pytest.raises(TimeoutError) as caught:
        payments.call(failing)
    (note,) = caught.value.__notes__
    assert note.startswith("payments.retry: gave up after 2 attempts in ")
    assert note.count("TimeoutError: no answer") == 2


def test_the_time_is_said_only_if_it_is_known() -> None:
    """A refusal of code other than ours keeps its text; without `retry_after` nothing is added."""
    assert str(RejectedError("wait", retry_after=3)) == "wait"
    assert str(DrainingError("leaving", retry_after=3)) == "leaving"
    assert str(RateLimitedError("too fast")) == "too fast"
    assert str(RateLimitedError("too fast", retry_after=3)) == "too fast; retry in 3 s"
    assert str(BulkheadFullError("full", retry_after=0.1)) == "full; a place may be free in 0.1 s"
    refusal = CircuitOpenError("closed for lunch", policy="p", retry_after=9000)
    assert (str(refusal), refusal.args) == (
        "closed for lunch; next trial in 9000 s",
        ("closed for lunch", "p", 9000),
    )
    refusal.policy, refusal.retry_after = "q", 2
    assert (str(refusal), refusal.args) == ("closed for lunch; next trial in 2 s", ("closed for lunch", "q", 2))
    refusal.args = ()
    assert str(refusal) == ""
