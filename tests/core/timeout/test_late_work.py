"""Threads of calls that outlived their callers."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Iterator

import pytest

from resilience import BulkheadFullError, Deadline, DeadlineExceededError, Pipeline, ThreadPoolBulkhead, Timeout
from resilience.testing import RecordingListener

# The limits are short: on a machine that stands still, another one may end the call.
pytestmark = pytest.mark.realtime

THREADS = 6
PATIENCE = 0.02


class Slow:
    """A blocking dependency that answers once it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def answer(self) -> str:
        self.go.wait(20)
        return "answer"


@pytest.fixture
def slow() -> Iterator[Slow]:
    """Make a dependency, and let its calls end after the test."""
    made = Slow()
    yield made
    made.go.set()


@pytest.fixture(params=["timeout", "thread pool", "thread pool, awaiting"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """Make a pipeline with so many threads."""
    if request.param == "timeout":
        return Pipeline("db", Timeout("30s", max_threads=THREADS))
    return Pipeline("db", ThreadPoolBulkhead(THREADS, max_wait=0))


def test_an_impatient_client_takes_no_more_than_half_of_the_threads(
    request: pytest.FixtureRequest, pipeline: Pipeline, slow: Slow
) -> None:
    """Law: callers who wait for less than a call takes leave half of the threads to callers with time."""
    heard = RecordingListener()
    pipeline.subscribe(heard)
    is_awaiting = "awaiting" in request.node.callspec.id

    def call() -> str:
        return asyncio.run(pipeline.acall(slow.answer)) if is_awaiting else pipeline.call(slow.answer)

    def impatient() -> None:
        with Deadline.after(PATIENCE, limit=math.inf):
            call()

    for _ in range(THREADS // 2):
        with pytest.raises(DeadlineExceededError):
            impatient()
    for _ in range(THREADS):
        with pytest.raises(BulkheadFullError, match="outlived their callers"):
            impatient()
    assert {event.facts.get("reason") for event in heard.events if event.kind.endswith(".rejected")} == {"late"}
    answers: list[str] = []
    users = [threading.Thread(target=lambda: answers.append(call())) for _ in range(THREADS // 2)]
    for user in users:
        user.start()
    slow.go.set()
    for user in users:
        user.join(20)
    assert answers == ["answer"] * (THREADS // 2)


def test_late_threads_that_have_ended_keep_no_caller_out(pipeline: Pipeline, slow: Slow) -> None:
    """Law: once the late calls have ended, impatient callers get threads again."""
    for _ in range(THREADS // 2):
        with Deadline.after(PATIENCE, limit=math.inf), pytest.raises(DeadlineExceededError):
            pipeline.call(slow.answer)
    slow.go.set()
    answers: list[str] = []
    end = time.monotonic() + 20
    while not answers and time.monotonic() < end:
        time.sleep(0.01)
        with contextlib.suppress(BulkheadFullError), Deadline.after(5, limit=math.inf):
            answers.append(pipeline.call(slow.answer))
    assert answers == ["answer"]
