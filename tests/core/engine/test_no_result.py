"""What has no result is asked about by no predicate over results."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
import tenacity

from resilience import CircuitBreaker, Pipeline, RateLimit, Retry
from resilience.policy import NO_RESULT, PolicyBase


def items() -> Generator[int, None, None]:
    yield 1


def nothing() -> Generator[int, None, None]:
    yield from ()


def summed() -> Generator[int, None, str]:
    yield 1
    return "sum"


async def stream() -> AsyncGenerator[int, None]:
    yield 1


class Seen(PolicyBase):
    """Writes down the results it is told of."""

    def __init__(self) -> None:
        super().__init__("seen")
        self.results: list[Any] = []

    def on_success(self, _permit: Any, result: Any, /) -> None:
        self.results.append(result)


async def through(pipeline: Pipeline) -> None:
    """Go through `pipeline` with all that has no result."""
    assert list(pipeline(items)()) == [1]
    assert list(pipeline.call(nothing)) == []
    assert [item async for item in pipeline(stream)()] == [1]
    with pipeline.guard():
        pass
    async with pipeline.guard():
        pass


async def test_blocks_and_generators_have_no_result() -> None:
    """A block or a generator without a value succeeds with `NO_RESULT`; a function that returns None returned it."""
    seen = Seen()
    await through(Pipeline("p", seen))
    assert seen.results == [NO_RESULT] * 5
    seen.results.clear()
    list(Pipeline("p", seen)(summed)())
    Pipeline("p", seen).call(lambda: None)
    assert seen.results == ["sum", None]
    assert repr(NO_RESULT) == "NO_RESULT"


def by_length(result: Any) -> bool:
    return len(result) == 3


async def test_predicates_over_results_are_asked_about_results_only() -> None:
    """A breaker counts what has no result as a success, a limit drains nothing for it, in every form."""
    breaker, limit = CircuitBreaker(1, record_result=by_length, retry_after=by_length), RateLimit("9/hour", burst=9)
    drained = RateLimit("9/hour", drain_on=by_length)
    await through(Pipeline("p", breaker, limit))
    await through(Pipeline("q", drained))
    with breaker.calling():
        pass
    assert breaker.current_state == "closed"
    list(Pipeline("p", breaker)(summed)())
    assert breaker.current_state == "open"


@pytest.mark.parametrize("options", [{"on_result": by_length}, {"retry": tenacity.retry_if_result(by_length)}])
@pytest.mark.parametrize("budget", [None, "rows"])
async def test_a_retry_leaves_what_has_no_result_alone(options: dict[str, Any], budget: str | None) -> None:
    """A generator that ends is no result to be judged, whether or not an item went out before."""
    retry = Retry(**options, budget=budget, wait_initial=0)
    pipeline = Pipeline("p", retry)
    assert list(pipeline(items)()) == [1]
    assert list(pipeline(nothing)()) == []
    assert [item async for item in pipeline(stream)()] == [1]
    assert retry.budget is None or retry.budget.calls == 0
