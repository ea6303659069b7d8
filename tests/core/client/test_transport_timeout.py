"""A timeout that the transport keeps."""

from __future__ import annotations

import asyncio

import pytest

from resilience import DeadlineExceededError, Pipeline, Timeout
from resilience.client import TransportTimeout
from resilience.testing import ManualClock, RecordingListener
from resilience.timeout import Deadline


class TransportError(DeadlineExceededError):
    """The error of a transport that ends calls by itself."""


def deadline() -> Deadline:
    found = Deadline.current()
    assert found is not None
    return found


class Guarded:
    """One pipeline with a timeout of 2 s, which a transport keeps."""

    def __init__(self, margin: float = 0.0) -> None:
        self.clock, self.heard = ManualClock(), RecordingListener()
        self.timeout = Timeout("2s", name="shop.timeout", clock=self.clock)
        self.policy = TransportTimeout(self.timeout, TransportError, margin)
        self.pipeline = Pipeline("shop", self.policy)
        self.pipeline.subscribe(self.heard)

    def call(self, error: Exception | None = None, *, awaits: bool = False) -> float:
        """Make a call that looks at its deadline and fails with `error`; return the seconds it may take."""

        def act() -> float:
            if error is not None:
                raise error
            return deadline().remaining()

        async def awaited() -> float:
            return act()

        return asyncio.run(self.pipeline.acall(awaited)) if awaits else self.pipeline.call(act)


BOTH = pytest.mark.parametrize("awaits", [False, True], ids=["blocking", "awaiting"])


@BOTH
def test_the_call_finds_a_deadline_in_force(*, awaits: bool) -> None:
    """The transport finds the seconds of the timeout, and the margin that the client context keeps back, on top."""
    assert Guarded().call(awaits=awaits) == 2.0
    assert Guarded(margin=0.5).call(awaits=awaits) == 2.5
    assert Deadline.current() is None


@BOTH
def test_a_sooner_deadline_wins(*, awaits: bool) -> None:
    """The caller's own deadline, if it is sooner, is the one the transport finds."""
    guarded = Guarded()
    with Deadline.after("500ms", clock=guarded.clock):
        assert guarded.call(awaits=awaits) == 0.5


def test_without_seconds_nothing_is_limited() -> None:
    """A timeout without seconds of its own, outside any deadline, limits nothing."""
    pipeline = Pipeline("shop", TransportTimeout(Timeout(None), TransportError))
    assert pipeline.call(lambda: deadline().remaining()) == float("inf")


@BOTH
def test_a_call_that_the_transport_ended_is_counted(*, awaits: bool) -> None:
    """An error of the transport for want of time is counted and reported as the timeout's own; others are not."""
    guarded = Guarded()
    for error, count in ((ValueError(), 0), (DeadlineExceededError("of another part"), 0), (TransportError("late"), 1)):
        with pytest.raises(type(error)):
            guarded.call(error, awaits=awaits)
        assert guarded.timeout.elapsed_calls == count
    assert [(event.kind, event.policy) for event in guarded.heard.events] == [("timeout.elapsed", "shop.timeout")]


def test_it_shows_the_timeout() -> None:
    """Name, description and figures are those of the timeout."""
    guarded = Guarded()
    policy = guarded.policy
    assert policy.name == "shop.timeout"
    assert policy.describe() == guarded.timeout.describe()
    assert policy.snapshot() == guarded.timeout.snapshot()
