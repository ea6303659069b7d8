"""Exception groups (PEP 654), as `asyncio.TaskGroup` raises them: the errors in a group decide, not the group."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilience import (
    AppError,
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    idempotent,
)
from resilience.envelope import envelope_of, worst_of
from resilience.errors import BulkheadFullError, DeadlineExceededError, RateLimitedError, RejectedError, leaves
from resilience.policy import PolicyBase
from resilience.testing import ManualClock

Run = Callable[[Any, BaseException], Any]


def group(*errors: Any) -> BaseExceptionGroup[Any]:
    """Nest the errors the way task groups within task groups do."""
    return BaseExceptionGroup("outer", [BaseExceptionGroup("inner", errors[:1]), *errors[1:]])


def blocking(pipeline: Pipeline, error: BaseException) -> Any:
    @idempotent
    def fail() -> None:
        raise error

    return pipeline.call(fail)


def awaiting(pipeline: Pipeline, error: BaseException) -> Any:
    @idempotent
    async def fail() -> None:
        raise error

    return asyncio.run(pipeline.acall(fail))


@pytest.fixture(params=[blocking, awaiting], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    function: Run = request.param
    return function


def refusal() -> RejectedError:
    return RateLimitedError("no", policy="limit", retry_after=7.0)


def cut_off() -> DeadlineExceededError:
    """Return the error of a call that the caller's own deadline ended, rather than the dependency."""
    return DeadlineExceededError("late", seconds=0.01, allowed=math.inf)


class ServerError(Exception):
    def __init__(self, status: int = 500, retry_after: float | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after
        self.is_answer = status < 500


class Counting(PolicyBase):
    calls = 0

    def admit(self) -> None:
        self.calls += 1


def test_leaves_are_found_at_any_depth() -> None:
    """`leaves` returns the errors of nested groups in order, and a plain error as it is, however deep a group is."""
    one, two, three = ValueError(1), KeyError(2), OSError(3)
    assert leaves(ExceptionGroup("a", [one, ExceptionGroup("b", [two]), three])) == [one, two, three]
    assert leaves(one) == [one]
    deep: Any = one
    for _ in range(5000):
        deep = ExceptionGroup[Any]("deep", [deep])
    assert leaves(deep) == [one]
    while isinstance(deep, ExceptionGroup):  # taken apart one by one: its destructor would recurse
        deep = deep.exceptions[0]


@pytest.mark.parametrize(
    ("errors", "failures", "state"),
    [
        ([refusal(), BulkheadFullError("full")], 0, "closed"),
        ([refusal(), DeadlineExceededError("spent", seconds=0.0)], 0, "closed"),
        ([refusal(), ServerError()], 1, "open"),
        ([ServerError(404), ServerError(422)], 0, "closed"),
        ([ServerError(404), ServerError(500)], 1, "open"),
        ([cut_off(), refusal()], 0, "closed"),
        ([cut_off(), ServerError()], 1, "open"),
    ],
)
def test_a_breaker_judges_a_group_by_its_worst_error(run: Run, errors: list[Any], failures: int, state: str) -> None:
    """A group of refusals is a refusal, a group of answers an answer, and one failure makes the group a failure."""
    breaker = CircuitBreaker(failure_count_threshold=1)
    with pytest.raises(ExceptionGroup):
        run(Pipeline("p", breaker), group(*errors))
    assert breaker.current_state == state
    assert breaker.snapshot()["failures"] == failures


def test_a_breaker_counts_a_group_of_answers_as_a_success(run: Run) -> None:
    """Answers inside a group end a series of failures, as one answer does."""
    breaker = CircuitBreaker(fail_max=2)
    for error in (ServerError(), group(ServerError(404), ServerError(404)), ServerError()):
        with pytest.raises(Exception, match=r"."):
            run(Pipeline("p", breaker), error)
    assert breaker.current_state == "closed"


@pytest.mark.parametrize(
    ("options", "errors", "state"),
    [
        ({"exclude": [ValueError]}, [ValueError(), UnicodeError()], "closed"),
        ({"exclude": [ValueError]}, [ValueError(), OSError()], "open"),
        ({"exclude": [lambda error: error.status == 501]}, [ServerError(501), ServerError(501)], "closed"),
        ({"exclude": [lambda error: error.status == 501]}, [ServerError(501), ServerError(500)], "open"),
        ({"exclude": [ExceptionGroup]}, [OSError()], "closed"),
        ({"record": OSError}, [ValueError(), ConnectionError()], "open"),
        ({"record": OSError}, [ValueError(), KeyError()], "closed"),
        ({"record": lambda error: error.status == 503}, [ServerError(503), ServerError(500)], "open"),
        ({"record": ExceptionGroup}, [KeyError()], "open"),
        ({"record": ExceptionGroup}, [refusal()], "closed"),
    ],
)
def test_conditions_of_a_breaker_look_into_groups(
    run: Run, options: dict[str, Any], errors: list[Any], state: str
) -> None:
    """`exclude` and `record` judge each error in a group; a class may name the group; predicates never see a group."""
    breaker = CircuitBreaker(failure_count_threshold=1, **options)
    with pytest.raises(ExceptionGroup):
        run(Pipeline("p", breaker), group(*errors))
    assert breaker.current_state == state


def test_a_group_opens_for_as_long_as_its_errors_ask(run: Run) -> None:
    """The open time has the longest `retry_after` in the group as its floor, found by a function or an attribute."""
    for ask in (None, lambda error: error.retry_after):
        breaker = CircuitBreaker(
            failure_count_threshold=1, reset_timeout=1, reset_timeout_jitter=0, retry_after=ask, clock=ManualClock()
        )
        with pytest.raises(ExceptionGroup):
            run(Pipeline("p", breaker), group(ServerError(503, 2.0), ServerError(503, 30.0), ServerError(500)))
        assert breaker.retry_after == 30.0


def test_a_cancellation_in_a_group_counts_nothing(run: Run) -> None:
    """A group that holds more than `Exception`s ends the call as an interrupt does: no policy scores or repeats it."""
    breaker = CircuitBreaker(failure_count_threshold=1)
    pipeline = Pipeline("p", Fallback("stand-in"), Retry(attempts=3, wait_initial=0), breaker)
    with pytest.raises(BaseExceptionGroup) as caught:
        run(pipeline, group(OSError(), GeneratorExit()))
    assert not isinstance(caught.value, Exception)
    assert breaker.current_state == "closed"


async def _in_groups(call: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_awaited(call))
        tasks.create_task(_awaited(call))


async def _awaited(call: Callable[[], Awaitable[Any]]) -> None:
    await call()


async def test_an_open_circuit_inside_a_task_group_does_not_open_the_one_outside() -> None:
    """The refusals of an inner breaker, raised by a real `TaskGroup`, are no failures of the outer call (L4)."""
    inner, outer = CircuitBreaker(fail_max=1, name="inner"), CircuitBreaker(fail_max=1, name="outer")
    inner.open()

    async def page() -> None:
        await _in_groups(lambda: Pipeline("in", inner).acall(asyncio.sleep, 0))

    with pytest.raises(ExceptionGroup) as caught:
        await Pipeline("out", Retry(on=Exception, wait_initial=0), outer).acall(page)
    assert {type(error) for error in leaves(caught.value)} == {CircuitOpenError}
    assert outer.current_state == "closed"


@pytest.mark.parametrize(
    ("on", "errors", "attempts"),
    [
        (OSError, [OSError(), ConnectionError()], 3),
        (OSError, [OSError(), ValueError()], 1),
        (Exception, [OSError(), refusal()], 1),
        (ExceptionGroup, [OSError(), ValueError()], 3),
        (ExceptionGroup, [OSError(), refusal()], 1),
        (ExceptionGroup, [OSError(), AppError("X_1")], 1),
        (ExceptionGroup, [OSError(), DeadlineExceededError("late")], 3),
        (ExceptionGroup, [OSError(), cut_off()], 1),
        (Exception, [OSError(), cut_off()], 1),
        ((OSError, RateLimitedError), [OSError(), refusal()], 3),
        (lambda error: error.status >= 500, [ServerError(500), ServerError(503)], 3),
        (lambda error: error.status >= 500, [ServerError(500), ServerError(404)], 1),
        ((OSError, lambda error: error.status >= 500), [OSError(), ServerError(503)], 3),
    ],
)
def test_a_retry_repeats_a_group_if_it_would_repeat_all_its_errors(
    run: Run, on: Any, errors: list[Any], attempts: int
) -> None:
    """Every error in the group has to match `on`, and a refusal or a permanent error has to be named by its class."""
    counting = Counting()
    retry = Retry(attempts=3, on=on, wait_initial=0, wait_jitter="none", retry_after=lambda _: 0.0)
    with pytest.raises(ExceptionGroup):
        run(Pipeline("p", retry, counting), group(*errors))
    assert counting.calls == attempts


def test_a_predicate_that_names_waits_waits_for_the_longest(run: Run) -> None:
    """Of the waits that a predicate names for the errors in a group, and of those that servers ask for, the longest."""
    waits: list[float] = []
    for on, errors in (
        (lambda error: error.status / 1e5, [ServerError(500), ServerError(700)]),
        (ServerError, [ServerError(503, 0.002), ServerError(503, 0.007), ServerError(500)]),
    ):
        retry = Retry(attempts=2, on=on, wait_initial=0, wait_jitter="none")
        retry.events.subscribe(lambda event: waits.append(event.facts["wait"]) if "wait" in event.facts else None)
        with pytest.raises(ExceptionGroup):
            run(Pipeline("p", retry), group(*errors))
    assert waits == [pytest.approx(0.007), pytest.approx(0.007)]


def test_a_group_in_which_one_server_says_never_is_not_repeated(run: Run) -> None:
    """A `retry_after` below 0 of one error in the group ends the retry, whatever the others ask for."""
    retry = Retry(attempts=3, on=ServerError, wait_initial=0)
    reasons: list[str] = []
    retry.events.subscribe(lambda event: reasons.append(event.facts["reason"]))
    with pytest.raises(ExceptionGroup):
        run(Pipeline("p", retry), group(ServerError(503, -1.0), ServerError(503, 2.0)))
    assert reasons == ["pushback"]


def test_tenacity_does_not_repeat_a_group_of_refusals(run: Run) -> None:
    """A strategy that repeats any exception does not sleep out the open time of a breaker inside a task group (L4)."""
    made: list[int] = []

    def asked(state: Any) -> bool:
        made.append(state.attempt_number)
        return True

    with pytest.raises(ExceptionGroup):
        run(Pipeline("p", Retry(attempts=3, retry=asked, wait_initial=0)), group(refusal(), OSError()))
    assert made == []


@pytest.mark.parametrize(
    ("on", "errors", "is_answered"),
    [
        (RejectedError, [refusal(), BulkheadFullError("full")], True),
        (RejectedError, [refusal(), OSError()], False),
        (lambda error: error.status == 503, [ServerError(503)], True),
        (lambda error: error.status == 503, [ServerError(503), ServerError(500)], False),
        (ExceptionGroup, [OSError()], True),
        ((RejectedError, OSError), [refusal(), OSError()], True),
    ],
)
def test_a_fallback_stands_in_for_a_group_of_its_errors(
    run: Run, on: Any, errors: list[Any], *, is_answered: bool
) -> None:
    """The alternative answers if every error in the group is one of `on`."""
    pipeline = Pipeline("p", Fallback("stand-in", on=on))
    if is_answered:
        assert run(pipeline, group(*errors)) == "stand-in"
        return
    with pytest.raises(ExceptionGroup):
        run(pipeline, group(*errors))


@pytest.mark.parametrize(
    ("on", "errors", "attempts"),
    [
        (OSError, [OSError(), ConnectionError()], 2),
        (OSError, [OSError(), ValueError()], 1),
        (Exception, [OSError(), ValueError()], 2),
        (Exception, [OSError(), refusal()], 1),
        (Exception, [refusal(), AppError("X_1")], 1),
        (Exception, [OSError(), cut_off()], 1),
        (ExceptionGroup, [OSError(), DeadlineExceededError("late")], 2),
        ((OSError, RateLimitedError), [OSError(), refusal()], 2),
    ],
)
def test_a_hedge_starts_another_attempt_for_a_group_of_its_errors(
    run: Run, on: Any, errors: list[Any], attempts: int
) -> None:
    """Another attempt follows if every error in the group is one of `on`, and no refusal is in the group."""
    counting = Counting()
    hedge = Hedge(delay=30, max_hedges=1, on=on)
    with pytest.raises(ExceptionGroup):
        run(Pipeline("p", hedge, counting), group(*errors))
    assert counting.calls == attempts


def test_one_error_that_drains_is_enough(run: Run) -> None:
    """A group drains the bucket if one error in it does, for the longest time asked; refusals drain nothing."""
    for errors, wait in (
        ([ServerError(429, 3.0), OSError(), ServerError(429, 5.0)], 5.0),
        ([refusal(), BulkheadFullError("full")], None),
    ):
        limit = RateLimit("10/second", burst=5, drain_on=Exception, clock=ManualClock())
        pipeline = Pipeline("p", limit)
        with pytest.raises(ExceptionGroup):
            run(pipeline, group(*errors))
        if wait is None:
            assert limit.snapshot()["remaining"] == 4
        else:
            with pytest.raises(RateLimitedError) as caught:
                limit.admit()
            assert caught.value.retry_after == pytest.approx(wait)


async def test_a_place_is_kept_for_all_threads_of_a_group() -> None:
    """Two threads outlive the deadlines of a task group: the place is given back when both have ended (L9)."""
    first, second = threading.Event(), threading.Event()
    bulkhead, timeout = Bulkhead(1), Timeout(0.05)

    async def page() -> None:
        async with asyncio.TaskGroup() as tasks:
            for release in (first, second):
                tasks.create_task(_shielded(timeout, release))

    with pytest.raises(ExceptionGroup):
        await Pipeline("p", bulkhead).acall(page)
    assert bulkhead.concurrent_calls == 1
    first.set()
    await asyncio.sleep(0.1)
    assert bulkhead.concurrent_calls == 1
    second.set()
    for _ in range(500):
        if not bulkhead.concurrent_calls:
            break
        await asyncio.sleep(0.01)
    assert bulkhead.concurrent_calls == 0


async def _shielded(policy: Timeout, release: threading.Event) -> None:
    def work() -> None:
        release.wait(10)

    call = asyncio.ensure_future(asyncio.to_thread(Pipeline("t", policy).call, work))
    while not call.done():
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:  # by the other task's error: both threads are to be in the group
            continue
    call.result()


@pytest.mark.parametrize(
    ("errors", "code", "retry_after"),
    [
        ([refusal()], "RATE_LIMITED", 7.0),
        ([refusal(), CircuitOpenError("open", retry_after=2.0)], "CIRCUIT_OPEN", 7.0),
        ([AppError("SHOP_C001", http_status=409), refusal()], "SHOP_C001", 7.0),
        ([AppError("SHOP_C001", http_status=409), BulkheadFullError("full")], "BULKHEAD_FULL", None),
        ([AppError("SHOP_D001", http_status=500), BulkheadFullError("full")], "SHOP_D001", None),
        ([ValueError("secret"), refusal()], "INTERNAL", None),
    ],
)
def test_the_envelope_of_a_group_is_that_of_its_worst_error(
    errors: list[Any], code: str, retry_after: float | None
) -> None:
    """Faults come before server errors, those before client errors; the longest wait of all is what clients learn."""
    envelope = envelope_of(group(*errors), request_id="r-1")
    assert (envelope.code, envelope.retry_after, envelope.request_id) == (code, retry_after, "r-1")
    assert getattr(worst_of(group(*errors)), "code", "INTERNAL") == code
