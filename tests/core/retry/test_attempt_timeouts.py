"""A timeout inside a retry is the timeout of each attempt; a timeout outside of it is the total."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import tenacity

from resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    RateLimit,
    RejectedError,
    Resilience,
    Retry,
    RetryBudget,
    Timeout,
)
from resilience.testing import RecordingListener

# A busy machine may take longer than SHORT to start the thread of an attempt.
pytestmark = pytest.mark.realtime

SHORT = 0.02


class Hanging:
    """Hangs `times` times, until `release`, then answers how often it was called."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0
        self._ended = threading.Event()

    def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        if number <= self.times:
            self._ended.wait(10)
        return number

    async def awaited(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            await asyncio.Event().wait()
        return self.calls

    def release(self) -> None:
        """Let the late threads end."""
        self._ended.set()


def run(pipeline: Pipeline, hanging: Hanging, colour: str) -> int:
    try:
        if colour == "blocking":
            return pipeline.call(hanging)
        return asyncio.run(pipeline.acall(hanging.awaited))
    finally:
        hanging.release()


COLOURS = pytest.mark.parametrize("colour", ["blocking", "awaiting"])


@COLOURS
@pytest.mark.parametrize("on", [ConnectionError, lambda _error: False], ids=["class", "predicate"])
def test_an_attempt_that_timed_out_is_made_again(colour: str, on: Any) -> None:
    """A timeout inside is part of the attempt: the retry repeats it, whatever errors `on` names."""
    pipeline = Pipeline("p", Retry(attempts=3, on=on, wait_initial=0), CircuitBreaker(), Timeout(SHORT))
    assert run(pipeline, Hanging(2), colour) == 3


@COLOURS
def test_the_last_attempt_raises_the_timeout(colour: str) -> None:
    """If every attempt times out, the caller gets the timeout's error with a note of all attempts."""
    hanging = Hanging(9)
    pipeline = Pipeline("p", Retry(attempts=2, on=ConnectionError, wait_initial=0), Timeout(SHORT))
    with pytest.raises(DeadlineExceededError) as caught:
        run(pipeline, hanging, colour)
    assert hanging.calls == 2
    assert caught.value.policy == "p.timeout"
    assert "gave up after 2 attempts" in caught.value.__notes__[0]


@COLOURS
@pytest.mark.parametrize("on", [ConnectionError, Exception, lambda _error: True], ids=["class", "all", "predicate"])
def test_a_timeout_is_not_repeated_if_the_retry_says_so(colour: str, on: Any) -> None:
    """`on_timeout=False` ends the call with the first attempt that timed out, even if `on` accepts every error."""
    hanging = Hanging(9)
    pipeline = Pipeline("p", Retry(attempts=3, on=on, on_timeout=False, wait_initial=0), Timeout(SHORT))
    with pytest.raises(DeadlineExceededError):
        run(pipeline, hanging, colour)
    assert hanging.calls == 1


def test_no_class_may_ask_for_what_the_switch_excludes() -> None:
    """`on_timeout=False` beside a class that names our timeout is refused: one of the two has no effect."""
    with pytest.raises(ConfigurationError, match="on_timeout=False: expected true if `on` names DeadlineExceededError"):
        Retry(on=DeadlineExceededError, on_timeout=False)


def test_the_switch_is_a_variable() -> None:
    """The configuration can switch the repetition of timeouts off."""
    hanging, prefix = Hanging(9), "RESILIENCE_PIPELINE__P__"
    settings = {f"{prefix}RETRY__ON_TIMEOUT": "no", f"{prefix}TIMEOUT__SECONDS": "20ms"}
    with Resilience.from_env(settings) as toolkit, pytest.raises(DeadlineExceededError):
        run(toolkit.pipeline("p"), hanging, "blocking")
    assert hanging.calls == 1


@COLOURS
def test_a_timeout_outside_is_the_total(colour: str) -> None:
    """A timeout outside of the retry ends all attempts together, and is not repeated."""
    hanging = Hanging(9)
    pipeline = Pipeline("p", Timeout(SHORT), Retry(attempts=3, on=ConnectionError, wait_initial=0))
    with pytest.raises(DeadlineExceededError):
        run(pipeline, hanging, colour)
    assert hanging.calls == 1


@COLOURS
def test_the_total_bounds_the_attempts(colour: str) -> None:
    """With a timeout on both sides, the outer one ends the attempts of the inner one."""
    hanging = Hanging(1000)
    total, each = Timeout(5 * SHORT, name="total"), Timeout(SHORT, name="each", max_threads=100)
    pipeline = Pipeline("p", total, Retry(attempts=None, on=ConnectionError, wait_initial=0), each)
    with pytest.raises(DeadlineExceededError) as caught:
        run(pipeline, hanging, colour)
    assert caught.value.policy in {"total", "each"}
    assert 1 < hanging.calls <= 6


def test_the_timeout_of_another_pipeline_is_an_error_as_any_other() -> None:
    """A function that a pipeline of its own guards raises its timeout: `on` decides about it."""
    inner, hanging = Pipeline("inner", Timeout(SHORT)), Hanging(9)
    outer = Pipeline("outer", Retry(attempts=3, on=ConnectionError, wait_initial=0), Timeout(10))
    with pytest.raises(DeadlineExceededError) as caught:
        outer.call(inner(hanging))
    hanging.release()
    assert (hanging.calls, caught.value.policy) == (1, "inner.timeout")


def test_a_timeout_error_of_the_function_is_the_users() -> None:
    """A `TimeoutError` that the function raises is retried only if `on` names it (L10)."""
    calls: list[int] = []

    def own() -> None:
        calls.append(1)
        raise TimeoutError("the driver's own")

    with pytest.raises(TimeoutError, match="the driver's own"):
        Pipeline("p", Retry(attempts=3, on=ConnectionError, wait_initial=0), Timeout(10)).call(own)
    assert len(calls) == 1


def test_a_caller_that_gave_up_gets_no_other_attempt() -> None:
    """An attempt that the caller's deadline cut off is not repeated, although a timeout inside ended it."""
    hanging = Hanging(9)
    pipeline = Pipeline("p", Retry(attempts=3, on=ConnectionError, wait_initial=0), Timeout(10, margin=0.1))
    with Deadline.after(0.12, limit=30), pytest.raises(DeadlineExceededError) as caught:
        run(pipeline, hanging, "blocking")
    assert caught.value.is_callers
    assert hanging.calls == 1


def test_no_wait_starts_past_the_deadline() -> None:
    """The repetition of a timeout keeps the deadline in force (L8)."""
    hanging, listener = Hanging(9), RecordingListener()
    retry = Retry(attempts=9, on=ConnectionError, wait_initial=60, wait_jitter="none", wait_max=60)
    pipeline = Pipeline("p", retry, Timeout(SHORT), listeners=[listener])
    with Deadline.after(30), pytest.raises(DeadlineExceededError):
        run(pipeline, hanging, "blocking")
    assert hanging.calls == 1
    assert [event.facts["reason"] for event in listener.events if event.kind == "retry.exhausted"] == ["deadline"]


def test_the_repetition_of_a_timeout_spends_the_budget() -> None:
    """A retry budget limits the attempts after a timeout as any other attempts."""
    hanging = Hanging(9)
    retry = Retry(attempts=9, on=ConnectionError, wait_initial=0, budget=RetryBudget(ratio=0.0, minimum=0))
    with pytest.raises(DeadlineExceededError):
        run(Pipeline("p", retry, Timeout(SHORT)), hanging, "blocking")
    assert hanging.calls == 1


def test_only_marked_functions_are_repeated_if_the_retry_says_so() -> None:
    """`idempotent_only` stands before `on_timeout`: a function without the mark is called once."""
    hanging = Hanging(9)
    pipeline = Pipeline("p", Retry(attempts=3, on=ConnectionError, idempotent_only=True), Timeout(SHORT))
    with pytest.raises(DeadlineExceededError):
        run(pipeline, hanging, "blocking")
    assert hanging.calls == 1


@pytest.mark.parametrize(
    "refusing",
    [
        lambda: Timeout(10, max_threads=1),
        lambda: Bulkhead(1),
        lambda: RateLimit("1/hour", burst=1),
        lambda: CircuitBreaker(fail_max=1),
    ],
    ids=["threads", "bulkhead", "rate", "circuit"],
)
def test_refusals_stay_unrepeated(refusing: Callable[[], Any]) -> None:
    """A refusal is not the timeout of an attempt: a retry repeats it only if a class in `on` names it (L4)."""
    policy, listener = refusing(), RecordingListener()
    policies = [policy] if isinstance(policy, Timeout) else [policy, Timeout(10)]
    pipeline = Pipeline("p", Retry(attempts=3, on=httpx2.TransportError, wait_initial=0), *policies)
    pipeline.subscribe(listener)
    hanging, failing = Hanging(1), threading.Thread(target=lambda: pipeline.call(hanging))
    if isinstance(policy, CircuitBreaker):
        policy.open()
    elif isinstance(policy, RateLimit):
        pipeline.call(int)
    else:
        failing.start()
        while not hanging.calls:
            threading.Event().wait(0.001)
    with pytest.raises(RejectedError) as caught:
        pipeline.call(int)
    hanging.release()
    if failing.ident is not None:
        failing.join()
    assert caught.value.code in {"BULKHEAD_FULL", "RATE_LIMITED", "CIRCUIT_OPEN"}
    assert [event.kind for event in listener.events if event.kind.startswith("retry")] == []


class RefusedRequestError(CircuitOpenError, httpx2.TransportError):
    """A refusal that is an error of the client as well, as an adapter raises it."""


@pytest.mark.parametrize(
    "options",
    [
        {"on": httpx2.TransportError},
        {"on": lambda error: isinstance(error, httpx2.TransportError)},
        {"retry": tenacity.retry_if_exception_type(httpx2.TransportError)},
    ],
    ids=["class", "predicate", "tenacity"],
)
def test_a_refusal_is_no_error_of_the_client_for_a_retry(options: dict[str, Any]) -> None:
    """A refusal that is a subclass of the client's error is not repeated by a retry of that error (L4)."""
    calls: list[int] = []

    def refused() -> None:
        calls.append(1)
        raise RefusedRequestError("open")

    with pytest.raises(RefusedRequestError):
        Pipeline("p", Retry(attempts=3, wait_initial=0, **options), Timeout(10)).call(refused)
    assert len(calls) == 1
    named = Pipeline("p", Retry(attempts=3, on=RefusedRequestError, wait_initial=0))
    with pytest.raises(RefusedRequestError):
        named.call(refused)
    assert len(calls) == 4


def test_tenacity_decides_about_a_timeout_too() -> None:
    """With `retry=`, tenacity decides about the attempt's timeout; `on_timeout=False` comes before it."""
    asks: dict[str, Any] = {"retry": tenacity.retry_if_exception_type(Exception), "wait_initial": 0, "attempts": 2}
    for options, calls in (({}, 2), ({"on_timeout": False}, 1), ({"retry": tenacity.retry_never}, 1)):
        hanging = Hanging(9)
        with pytest.raises(DeadlineExceededError):
            run(Pipeline("p", Retry(**{**asks, **options}), Timeout(SHORT)), hanging, "blocking")
        assert hanging.calls == calls
