"""Whose deadline it is: the service's own, or that of a caller who waits less than the service allows."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    CircuitBreaker,
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    Hedge,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    idempotent,
)
from resilience.budget import RetryBudget
from resilience.errors import ResilienceError, cut_off_by_caller
from resilience.server import RequestContext, ServerGate, ServerOptions
from resilience.singleflight import SingleFlight
from resilience.testing import ManualClock

# The limits are short: on a machine that stands still, another one may end the call.
pytestmark = pytest.mark.realtime

COLOURS = pytest.mark.parametrize("colour", ["blocking", "awaiting"])
PATIENCE = 0.02
"""Seconds for which an impatient caller waits."""


def error_of(colour: str, deadline: Deadline, *policies: Policy | Any, takes: float = 0.3) -> BaseException:
    """Return the error of a call that takes `takes` seconds, made under `deadline` through `policies`."""
    pipeline = Pipeline("upstream", *policies)

    @idempotent
    async def awaited() -> None:
        await asyncio.sleep(takes)

    async def act() -> None:
        with deadline:
            await pipeline(awaited)()

    @idempotent
    def blocking() -> None:
        time.sleep(takes)

    with pytest.raises(ResilienceError) as raised:  # noqa: PT012 - one call, in either colour
        if colour == "awaiting":
            asyncio.run(act())
        else:
            with deadline:
                pipeline(blocking)()
    return raised.value


def impatient(limit: float | str = math.inf) -> Deadline:
    """Return the deadline of a caller who waits less than the service allows."""
    return Deadline.after(PATIENCE, limit=limit)


def begun(left: float, whole: float = 1.0) -> Deadline:
    """Return a deadline of `whole` seconds, of the service, that has run until `left` seconds are left."""
    now = time.monotonic()
    return Deadline(now + left, began=now + left - whole)


def test_a_deadline_is_the_services_own_unless_its_limit_is_later() -> None:
    """Law: a deadline is a caller's exactly if the service itself would go on after it."""
    clock = ManualClock()
    own, callers = Deadline(clock() + 1, clock=clock), Deadline(clock() + 1, limit=clock() + 2, clock=clock)
    assert (own.is_callers, callers.is_callers) == (False, True)
    assert (own.limit, callers.limit) == (own.at, callers.at + 1)
    assert not Deadline(clock() + 3, limit=clock() + 2, clock=clock).is_callers
    assert not Deadline.after(1, limit=1, clock=clock).is_callers
    assert Deadline.after(1, limit=math.inf, clock=clock).limit == math.inf


def test_a_limit_that_is_no_moment_is_refused_by_name() -> None:
    """Law: a bad limit is a clear error at construction."""
    with pytest.raises(ConfigurationError, match="limit='soon'"):
        Deadline.after(1, limit="soon")
    bad: Any = "soon"
    with pytest.raises(ConfigurationError, match="limit='soon'"):
        Deadline(1.0, limit=bad)


@pytest.mark.parametrize(
    ("own", "asked", "is_callers", "limit"),
    [
        (None, None, None, None),
        (1.0, None, False, 1.0),
        (None, "250ms", True, math.inf),
        (1.0, "250ms", True, 1.0),
        (1.0, "5s", False, 1.0),
        (1.0, "1s", False, 1.0),
    ],
)
def test_the_server_side_tells_a_callers_deadline_from_its_own(
    own: float | None, asked: str | None, *, is_callers: bool | None, limit: float | None
) -> None:
    """Law: a header makes the caller's deadline, if it ends sooner than the one of the server options."""
    gate = ServerGate(ServerOptions(deadline=own))
    deadline = gate.receive({} if asked is None else {"x-request-timeout": asked}).deadline
    if deadline is None:
        assert is_callers is None
        return
    assert deadline.is_callers is is_callers
    assert limit is not None
    assert deadline.limit == pytest.approx(time.monotonic() + limit, abs=0.5) or deadline.limit == limit


def test_grpcs_own_word_is_the_callers_deadline_as_well() -> None:
    """Law: a deadline that the transport knows counts like a header."""
    deadline = ServerGate(ServerOptions(deadline=1.0)).receive({}, timeout=0.02).deadline
    assert deadline is not None
    assert deadline.is_callers


def test_an_answered_request_has_no_callers_deadline_any_more() -> None:
    """Law: work after the response is not cut off by the caller."""
    gate = ServerGate(ServerOptions())
    context: RequestContext = gate.receive({"x-request-timeout": "1s"})
    gate.response_sent(context)
    assert context.deadline is not None
    assert not context.deadline.is_callers


@COLOURS
@pytest.mark.parametrize(
    ("deadline", "seconds", "allowed"),
    [
        pytest.param(impatient, 2.0, 2.0, id="a caller's 20 ms, a Timeout of 2 s"),
        pytest.param(lambda: impatient(1), 2.0, 1.0, id="a caller's 20 ms, a service's 1 s, a Timeout of 2 s"),
        pytest.param(impatient, None, math.inf, id="a caller's 20 ms, no limit of the service"),
        pytest.param(lambda: Deadline.after(1, limit=math.inf), 0.02, None, id="the Timeout comes first"),
        pytest.param(lambda: Deadline.after(PATIENCE), 2.0, None, id="a deadline of the service"),
        pytest.param(lambda: begun(0.05), 2.0, 1.0, id="the rest of a deadline of the service"),
        pytest.param(lambda: begun(0.25), 2.0, 1.0, id="less than half of a deadline of the service"),
        pytest.param(lambda: begun(0.1), 0.2, 0.2, id="less of it than the Timeout"),
        pytest.param(lambda: begun(0.25), 0.1, None, id="more of it than the Timeout"),
        pytest.param(lambda: begun(0.2, 0.3), 2.0, None, id="more than half of a deadline of the service"),
    ],
)
def test_a_timeout_says_whether_the_caller_cut_the_call_off(
    colour: str, deadline: Callable[[], Deadline], seconds: float | None, allowed: float | None
) -> None:
    """Law: the error carries the time that the service allows exactly if the caller's deadline was shorter."""
    error = error_of(colour, deadline(), Timeout(seconds))
    assert isinstance(error, DeadlineExceededError)
    assert error.is_callers is (allowed is not None)
    assert error.allowed == (None if allowed is None else pytest.approx(allowed, abs=0.1))


@COLOURS
def test_a_deadline_inside_of_a_callers_one_limits_what_the_service_allows(colour: str) -> None:
    """Law: every deadline of the service that is in force bounds the time that the service allows."""
    with Deadline.after(0.5):
        around = error_of("blocking", impatient(), Timeout(2))
    inner = error_of(colour, impatient(), Timeout(0.5, name="whole"), Timeout(2))
    for error in (around, inner):
        assert isinstance(error, DeadlineExceededError)
        assert error.allowed == pytest.approx(0.5, abs=0.1)


@COLOURS
def test_a_shared_call_that_begins_late_is_its_callers_cut_off(colour: str) -> None:
    """Law: a shared call that has the rest of the service's deadline alone says nothing about the dependency."""
    error = error_of(colour, begun(0.1), SingleFlight(), Timeout(2))
    assert isinstance(error, DeadlineExceededError)
    assert error.is_callers


@COLOURS
def test_a_shielded_call_is_not_the_callers_cut_off(colour: str) -> None:
    """Law: inside a shield only the shield's own deadline counts, and that is the service's."""
    pipeline = Pipeline("cleaning", Timeout(2))

    async def act() -> None:
        with impatient(), Deadline.shield(PATIENCE):
            await pipeline(asyncio.sleep)(0.3)

    with pytest.raises(DeadlineExceededError) as raised:  # noqa: PT012 - one call, in either colour
        if colour == "awaiting":
            asyncio.run(act())
        else:
            with impatient(), Deadline.shield(PATIENCE):
                pipeline.call(time.sleep, 0.3)
    assert not raised.value.is_callers


@COLOURS
@pytest.mark.parametrize(
    ("deadline", "seconds", "failures"),
    [
        pytest.param(impatient, 2.0, 0, id="impatient"),
        pytest.param(impatient, None, 0, id="impatient, without a Timeout"),
        pytest.param(lambda: Deadline.after(1, limit=math.inf), 0.02, 1, id="the Timeout's own"),
        pytest.param(lambda: Deadline.after(PATIENCE), 2.0, 1, id="the service's own deadline"),
    ],
)
def test_a_breaker_counts_a_cut_off_only_if_the_service_made_it(
    colour: str, deadline: Callable[[], Deadline], seconds: float | None, failures: int
) -> None:
    """Law: an impatient caller is no failure of the dependency; a call that used all the service's time is."""
    breaker = CircuitBreaker(fail_max=3)
    error_of(colour, deadline(), breaker, Timeout(seconds))
    assert breaker.fail_counter == failures


@COLOURS
def test_a_call_past_the_slow_call_threshold_counts_where_nothing_else_limits_it(colour: str) -> None:
    """Law: without a Timeout and a deadline of the service, the slow-call threshold is the service's limit."""
    breaker = CircuitBreaker(fail_max=3, slow_call_duration_threshold=PATIENCE / 2)
    error_of(colour, impatient(), breaker, Timeout(None))
    assert breaker.fail_counter == 1


@COLOURS
def test_an_error_raised_from_a_cut_off_is_one(colour: str) -> None:
    """Law: an SDK that wraps our error in its own, as its cause, does not make a failure of it."""
    breaker, timeout = CircuitBreaker(fail_max=3), Pipeline("inner", Timeout(2))

    class SdkError(Exception):
        pass

    def wrapped() -> None:
        try:
            timeout.call(time.sleep, 0.3)
        except DeadlineExceededError as error:
            raise SdkError("timed out") from error

    async def awaited() -> None:
        try:
            await timeout(asyncio.sleep)(0.3)
        except DeadlineExceededError as error:
            raise SdkError("timed out") from error

    async def act() -> None:
        with impatient():
            await Pipeline("outer", breaker)(awaited)()

    with pytest.raises(SdkError) as raised:  # noqa: PT012 - one call, in either colour
        if colour == "awaiting":
            asyncio.run(act())
        else:
            with impatient():
                Pipeline("outer", breaker).call(wrapped)
    assert breaker.fail_counter == 0
    assert cut_off_by_caller(raised.value) is raised.value.__cause__


@COLOURS
@pytest.mark.parametrize("asked_for", [Exception, DeadlineExceededError, ResilienceError])
def test_a_retry_neither_repeats_a_cut_off_nor_spends_its_budget(colour: str, asked_for: type[Exception]) -> None:
    """Law: no other attempt is made for a caller who has left, with whatever margin the timeout keeps."""
    budget = RetryBudget(minimum=5)
    retry = Retry(attempts=3, on=asked_for, wait_initial=0, wait_jitter=0, budget=budget)
    error_of(colour, Deadline.after(0.2, limit=math.inf), retry, Timeout(2, margin=0.1), takes=0.6)
    assert retry.snapshot()["retries"] == 0
    assert budget.snapshot()["refused"] == budget.retries == budget.calls == 0


@COLOURS
def test_a_hedge_starts_no_attempt_for_a_cut_off_and_spends_no_budget(colour: str) -> None:
    """Law: an attempt that the caller cut off is no reason for another one at once."""
    budget = RetryBudget(minimum=5)
    hedge = Hedge(delay=5, budget=budget)
    error = error_of(colour, Deadline.after(0.2, limit=math.inf), hedge, Timeout(2, margin=0.1), takes=0.6)
    assert cut_off_by_caller(error) is error
    assert hedge.snapshot()["hedges"] == 0
    assert budget.extras == budget.calls == 0


def test_a_breaker_is_neutral_towards_who_waits_impatiently_for_a_shared_call() -> None:
    """Law: a caller who gives up waiting for the call of another caller says nothing about the dependency."""
    breaker, flight = CircuitBreaker(fail_max=3), SingleFlight()
    pipeline = Pipeline("shared", breaker, flight)

    async def slow() -> None:
        await asyncio.sleep(0.2)

    shared = pipeline(slow)

    async def impatiently() -> None:
        with impatient():
            await shared()

    async def act() -> tuple[BaseException | None, BaseException | None]:
        first = asyncio.create_task(shared())
        await asyncio.sleep(0)
        return await asyncio.gather(impatiently(), first, return_exceptions=True)

    late, first = asyncio.run(act())
    assert first is None
    assert isinstance(late, DeadlineExceededError)
    assert late.is_callers
    assert breaker.fail_counter == 0


@COLOURS
def test_a_margin_does_not_make_a_callers_deadline_of_the_services_own(colour: str) -> None:
    """Law: the margin that a timeout keeps back of the service's deadline is the service's as well."""
    seen: list[Deadline | None] = []

    async def awaited() -> None:
        seen.append(Deadline.current())

    def blocking() -> None:
        seen.append(Deadline.current())

    pipeline = Pipeline("inner", Timeout(5, margin=0.2))
    for deadline in (Deadline.after(1), Deadline.after(1, limit=2)):
        with deadline:
            if colour == "blocking":
                pipeline.call(blocking)
            else:
                asyncio.run(pipeline.acall(awaited))
    assert [each is not None and each.is_callers for each in seen] == [False, True]
