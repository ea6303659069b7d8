import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from resilience import ConfigurationError, Deadline, Pipeline, Retry, RetryBudget
from resilience.retry import is_active, set_active
from resilience.testing import ManualClock, RecordingListener, no_waits


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        raise OSError

    async def later(self) -> None:
        self()


def attempts(pipeline: Pipeline) -> int:
    failing = Failing()
    with pytest.raises(OSError):
        pipeline.call(failing)
    return failing.calls


@pytest.fixture
def active() -> Iterator[None]:
    yield
    set_active(True)


def test_nobody_sleeps_without_waits() -> None:
    """Inside `no_waits` the same attempts are made at once; events still report the waits."""
    listener = RecordingListener()
    pipeline = Pipeline("p", Retry(3, wait_initial=60, wait_max=60, wait_jitter=0), listeners=[listener])
    began = time.monotonic()
    with no_waits():
        assert attempts(pipeline) == 3
    assert time.monotonic() - began < 5
    assert [event.facts.get("wait") for event in listener.events] == [60, 60, None]


async def test_nobody_sleeps_without_waits_when_awaited() -> None:
    """The same when awaited, with strategies that are awaited too."""

    async def minute(_: Any) -> float:
        await asyncio.sleep(0)
        return 60.0

    failing = Failing()
    with no_waits(), pytest.raises(OSError):
        await asyncio.wait_for(Pipeline("p", Retry(3, wait=minute)).acall(failing.later), 5)
    assert failing.calls == 3


def test_waits_left_out_count_as_passed() -> None:
    """Timeout, deadline and tenacity's stops end a retry at the same attempt with and without waits."""
    told: dict[str, Any] = {"attempts": None, "wait_initial": 1, "wait_jitter": 0, "backoff": "constant"}
    cases: list[dict[str, Any]] = [
        {"timeout": 4.5},
        {"stop": lambda state: state.seconds_since_start >= 4},
        {"stop": lambda state: state.idle_for >= 4},
    ]
    for options in cases:
        slow, fast = ManualClock(), ManualClock()
        expected = attempts(Pipeline("p", Retry(**told, **options, clock=slow), sleeper=slow))
        with no_waits():
            assert attempts(Pipeline("p", Retry(**told, **options, clock=fast), sleeper=fast)) == expected == 5
        assert fast.slept == []
    clock = ManualClock()
    with no_waits(), Deadline.after(4.5, clock=clock):
        assert attempts(Pipeline("p", Retry(**told, clock=clock), sleeper=clock)) == 5


def test_attempts_may_be_capped() -> None:
    """`no_waits(attempts)` caps every retry, tenacity's as well; a retry that makes fewer still does."""
    with no_waits(2):
        assert attempts(Pipeline("p", Retry(5))) == 2
        assert attempts(Pipeline("p", Retry(None))) == 2
        assert attempts(Pipeline("p", Retry(stop=lambda _: False))) == 2
        assert attempts(Pipeline("p", Retry(1))) == 1


def test_it_nests() -> None:
    """The innermost number is in force, and every exit of the block restores the one outside."""
    clock = ManualClock()
    pipeline = Pipeline("p", Retry(5, wait_initial=1, wait_jitter=0, clock=clock), sleeper=clock)
    with no_waits(2):
        with no_waits():
            assert attempts(pipeline) == 2
        with no_waits(4):
            assert attempts(pipeline) == 4
        with pytest.raises(KeyError), no_waits(3):
            raise KeyError
        assert attempts(pipeline) == 2
    assert clock.slept == []
    assert attempts(pipeline) == 5
    assert clock.slept == [1, 2, 4, 5]


def test_it_holds_for_the_process_in_any_order() -> None:
    """Another thread sees it too, and uses that overlap end in any order."""
    clock = ManualClock()
    pipeline = Pipeline("p", Retry(2, wait_initial=1, clock=clock), sleeper=clock)
    first, second = no_waits(), no_waits()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    thread = threading.Thread(target=attempts, args=(pipeline,))
    thread.start()
    thread.join()
    assert clock.slept == []
    second.__exit__(None, None, None)
    assert attempts(pipeline) == 2
    assert len(clock.slept) == 1


def test_bad_caps_are_refused_where_they_are_given() -> None:
    """What is no number of attempts, or no yes or no, is an error at once."""
    for wrong in (0, -1, "2", True):
        with pytest.raises(ConfigurationError, match="attempts="):
            no_waits(wrong)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigurationError, match="active=0"):
        set_active(0)  # type: ignore[arg-type]  # wrong on purpose
    assert is_active()


@pytest.mark.usefixtures("active")
def test_retries_can_be_switched_off() -> None:
    """Switched off, each call is made once and its outcome stands: no predicate is asked, no event is emitted."""
    listener, budget = RecordingListener(), RetryBudget()
    retry = Retry(on=lambda _: pytest.fail("asked"), on_result=lambda value: value == 0, budget=budget)
    pipeline = Pipeline("p", retry, listeners=[listener])
    set_active(False)
    assert not is_active()
    assert attempts(pipeline) == 1
    assert pipeline.call(int) == 0
    assert listener.events == []
    assert budget.calls == 0
    set_active(True)
    assert attempts(Pipeline("q", Retry(2, wait_initial=0))) == 2
