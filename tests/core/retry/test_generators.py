"""Generators whose items are out: there is no other attempt, and nothing says there is."""

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest
import tenacity

from resilience import Keyed, Pipeline, Retry, RetryBudget
from resilience.testing import ManualClock, RecordingListener

Run = Callable[[Pipeline, list[bool]], Any]


async def blocking(pipeline: Pipeline, fails_early: list[bool]) -> None:
    @pipeline
    def rows() -> Generator[int, None, None]:
        if fails_early.pop():
            raise ConnectionError("early")
        yield 1
        raise ConnectionError("late")

    for _ in rows():
        pass


async def awaiting(pipeline: Pipeline, fails_early: list[bool]) -> None:
    @pipeline
    async def rows() -> AsyncGenerator[int, None]:
        if fails_early.pop():
            raise ConnectionError("early")
        yield 1
        raise ConnectionError("late")

    async for _ in rows():
        pass


@pytest.fixture(params=[blocking, awaiting])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


def retry(**options: Any) -> tuple[Retry, Pipeline, RecordingListener, ManualClock]:
    clock, listener = ManualClock(), RecordingListener()
    policy = Retry(wait_initial=5, wait_jitter="none", clock=clock, **options)
    return policy, Pipeline("p", policy, listeners=[listener], sleeper=clock), listener, clock


async def test_a_failure_after_an_item_schedules_nothing(run: Run) -> None:
    """A generator that fails with items out is given up at once, and said and counted to be."""
    policy, pipeline, listener, clock = retry()
    with pytest.raises(ConnectionError, match="late") as caught:
        await run(pipeline, [False])
    assert [(event.kind, event.facts["attempts"], event.facts["reason"]) for event in listener.events] == [
        ("retry.exhausted", 1, "started")
    ]
    counts = policy.snapshot()
    assert (counts["retries"], counts["failed_without_retry"], clock.slept) == (0, 1, [])
    assert not hasattr(caught.value, "__notes__")


async def test_a_failure_after_a_retry_and_an_item_tells_of_both_attempts(run: Run) -> None:
    """A generator that fails before its first item is retried; after a later failure, the error lists the attempts."""
    policy, pipeline, listener, clock = retry()
    with pytest.raises(ConnectionError, match="late") as caught:
        await run(pipeline, [False, True])
    assert listener.kinds == ["retry.scheduled", "retry.exhausted"]
    assert "gave up after 2 attempts in 5.000 s (started)" in caught.value.__notes__[0]
    counts = policy.snapshot()
    assert (counts["retries"], counts["failed_with_retry"], counts["succeeded_with_retry"]) == (1, 1, 0)
    assert clock.slept == [5.0]


async def test_a_failure_after_an_item_spends_no_budget_and_asks_for_no_wait(run: Run) -> None:
    """Neither the budget nor a strategy is asked for an attempt that is not made."""
    asked: list[str] = []
    budget = RetryBudget(minimum=0)

    def wait(_state: Any) -> float:
        asked.append("wait")
        return 0.0

    _, pipeline, listener, _ = retry(budget=budget, wait=wait, stop=tenacity.stop_never)
    with pytest.raises(ConnectionError, match="late"):
        await run(pipeline, [False])
    assert (budget.calls, asked, listener.kinds) == (0, [], ["retry.exhausted"])


async def test_errors_that_are_not_retried_tell_nothing_after_an_item(run: Run) -> None:
    """An error of another kind is no retry's business, early or late."""
    policy, pipeline, listener, _ = retry(on=KeyError)
    with pytest.raises(ConnectionError):
        await run(pipeline, [False])
    assert (listener.events, policy.snapshot()["failed_without_retry"]) == ([], 1)


async def test_a_retry_by_key_knows_it_too(run: Run) -> None:
    """A keyed retry learns of yielded items as any other retry does."""
    policies: list[Retry] = []

    def make(_key: str) -> Retry:
        policies.append(Retry(wait_initial=5, wait_jitter="none"))
        return policies[-1]

    with pytest.raises(ConnectionError, match="late"):
        await run(Pipeline("p", Keyed(make, key=lambda: "a")), [False])
    assert policies[-1].snapshot()["retries"] == 0


def test_a_result_judged_after_an_item_stands() -> None:
    """The value of a generator whose items are out is given up like an error, and handed over."""
    _, pipeline, listener, _ = retry(on_result=lambda result: result == "sum")

    @pipeline
    def rows() -> Generator[int, None, str]:
        yield 1
        return "sum"

    generator = rows()
    assert next(generator) == 1
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert (stopped.value.value, listener.kinds) == ("sum", ["retry.exhausted"])
