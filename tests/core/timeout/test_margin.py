"""What a timeout keeps back from the deadline in force, and timeouts with no time of their own."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    CircuitBreaker,
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    Resilience,
    Timeout,
)
from resilience.testing import ManualClock, RecordingListener

COLOURS = pytest.mark.parametrize("colour", ["blocking", "awaiting"])


def run(colour: str, pipeline: Pipeline, fn: Callable[[], Any]) -> Any:
    """Call `fn` through `pipeline` in either colour."""
    if colour == "blocking":
        return pipeline.call(fn)

    async def act() -> Any:
        return fn()

    return asyncio.run(pipeline.acall(act))


def left() -> float:
    """Return the seconds left."""
    deadline = Deadline.current()
    assert deadline is not None
    return deadline.remaining()


@COLOURS
def test_one_margin_makes_the_cascade(colour: str) -> None:
    """Client 1 s, service 800 ms, database 500 ms: one margin of 200 ms, and 100 ms of work on the way."""
    clock, seen = ManualClock(), []
    service = Pipeline("service", Timeout("5s", margin="200ms", clock=clock))
    database = Pipeline("database", Timeout("5s", margin="200ms", clock=clock))

    def query() -> None:
        seen.append(left())

    async def awaited_query() -> None:
        query()

    def serve() -> None:
        seen.append(left())
        clock.advance(0.1)
        database.call(query)

    async def awaited_serve() -> None:
        seen.append(left())
        clock.advance(0.1)
        await database.acall(awaited_query)

    with Deadline.after("1s", clock=clock):
        seen.append(left())
        if colour == "blocking":
            service.call(serve)
        else:
            asyncio.run(service.acall(awaited_serve))
    assert seen == pytest.approx([1.0, 0.8, 0.5])


@COLOURS
def test_nothing_left_after_the_margin_is_refused_before_the_call(colour: str) -> None:
    """Where the margin takes all that is left the call is not made, and the error says so."""
    clock, listener = ManualClock(), RecordingListener()
    breaker = CircuitBreaker(1)
    pipeline = Pipeline("p", breaker, Timeout(5, margin=0.2, clock=clock), listeners=[listener])
    with Deadline.after(0.2, clock=clock), pytest.raises(DeadlineExceededError, match="within the margin") as caught:
        run(colour, pipeline, pytest.fail)
    assert caught.value.is_before_call
    assert breaker.current_state == "closed"
    [event] = [event for event in listener.events if event.kind == "timeout.rejected"]
    assert event.facts == {"reason": "deadline", "remaining": 0.2, "margin": 0.2}


@COLOURS
def test_margin_does_nothing_without_a_deadline(colour: str) -> None:
    """Without a deadline in force there is no caller to leave a margin to: the call gets its seconds."""
    clock = ManualClock()
    assert run(colour, Pipeline("p", Timeout(5, margin=4, clock=clock)), left) == 5
    with Deadline.after(60, clock=clock):
        assert run(colour, Pipeline("p", Timeout(5, margin=4, clock=clock)), left) == 5


@COLOURS
def test_without_seconds_only_the_deadline_in_force_counts(colour: str) -> None:
    """`Timeout(None)` cuts a call at the deadline in force, and leaves one without a deadline alone."""
    clock = ManualClock()
    timeout = Timeout(None, margin=1, clock=clock)
    pipeline = Pipeline("p", timeout)

    def untimed() -> tuple[Deadline | None, int]:
        return Deadline.current(), threading.get_ident()

    assert run(colour, pipeline, untimed) == (None, threading.get_ident())
    with Deadline.after(10, clock=clock):
        assert run(colour, pipeline, left) == 9
    assert repr(timeout) == "<Timeout 'p.timeout' by the deadline in force, 1 s before the deadline>"


async def test_a_block_without_a_limit_runs_as_it_is() -> None:
    """`async with` over a timeout that has no limit here changes nothing."""
    async with Timeout(None).scope():
        assert Deadline.current() is None
    with Deadline.after(0.01), pytest.raises(DeadlineExceededError):
        async with Timeout(None).scope():
            await asyncio.sleep(5)


def test_margin_is_configured_once_for_every_pipeline() -> None:
    """The margin of the default pipeline is every pipeline's, until one has its own."""
    resilience = Resilience.from_env({
        "RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__MARGIN": "200ms",
        "RESILIENCE_PIPELINE__DATABASE__TIMEOUT__SECONDS": "3s",
        "RESILIENCE_PIPELINE__LEDGER__TIMEOUT__MARGIN": "50ms",
        "RESILIENCE_PIPELINE__OPEN__TIMEOUT__SECONDS": "none",
    })  # fmt: skip
    options = {name: resilience.pipeline(name).policies[0].options for name in ("database", "ledger", "open")}  # type: ignore[union-attr]  # a Timeout
    assert {name: (options.seconds, options.margin) for name, options in options.items()} == {
        "database": (3.0, 0.2),
        "ledger": (30.0, 0.05),
        "open": (None, 0.2),
    }
    resilience.close()


@pytest.mark.parametrize("margin", [-1, "soon", None, float("nan")])
def test_bad_margins_are_refused(margin: Any) -> None:
    """A bad margin is refused at construction."""
    with pytest.raises(ConfigurationError, match="margin="):
        Timeout(1, margin=margin)
