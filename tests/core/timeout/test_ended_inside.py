"""A client inside a `Timeout` keeps the deadline itself, its margin sooner than the `Timeout` would."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience import DeadlineExceededError, Timeout
from resilience.testing import ManualClock, RecordingListener


def ended(timeout: Timeout, error: DeadlineExceededError, colour: str) -> None:
    def call() -> None:
        raise error

    async def acall() -> None:
        raise error

    with pytest.raises(DeadlineExceededError) as caught:
        timeout.around(call)() if colour == "blocking" else asyncio.run(run(timeout.around_async(acall)))
    assert caught.value is error


async def run(call: Any) -> None:
    await call()


@pytest.mark.parametrize("colour", ["blocking", "awaiting"])
@pytest.mark.parametrize(
    ("policy", "seconds", "counted"), [("client", 1.99, 1), ("client", 0.0, 0), ("inner", 1.0, 0), ("", None, 0)]
)
def test_a_call_that_a_client_has_ended_is_counted(
    policy: str, seconds: float | None, counted: int, colour: str
) -> None:
    """A `Timeout` counts and reports a call that a client has ended for it; another error is not its own."""
    error = DeadlineExceededError("late", policy=policy, seconds=seconds)
    timeout, events = Timeout(2, name="t", clock=ManualClock()), RecordingListener()
    timeout.events.subscribe(events)
    ended(timeout, error, colour)
    assert timeout.elapsed_calls == counted
    assert [(event.kind, event.facts) for event in events.events] == [("timeout.elapsed", {"seconds": 2.0})] * counted


def test_two_timeouts_count_it_once() -> None:
    """Only the innermost timeout counts a call whose own time was over, and the error has its name."""
    inner, outer = Timeout(1, name="inner"), Timeout(5, name="outer")
    error = DeadlineExceededError("late", policy="client", seconds=0.99)

    def call() -> None:
        raise error

    with pytest.raises(DeadlineExceededError):
        outer.around(inner.around(call))()
    assert (inner.elapsed_calls, outer.elapsed_calls, error.policy) == (1, 0, "inner")
