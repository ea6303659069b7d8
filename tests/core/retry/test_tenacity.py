import asyncio
import functools
import logging
import random
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
import tenacity.asyncio

from resilience import (
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Pipeline,
    RateLimitedError,
    RejectedError,
    ResilienceError,
    Retry,
    RetryBudget,
)
from resilience.plugins import Steps
from resilience.testing import ManualClock, RecordingListener

OUTCOMES: list[list[Any]] = [
    ["fine"],
    [OSError("a"), "fine"],
    [OSError("a"), None, OSError("b"), "fine"],
    [None, None, None, None, None, None, None, None],
    [OSError(str(number)) for number in range(8)],
    [OSError("a"), KeyError("b"), "fine"],
    [KeyError("b"), ValueError("c"), OSError("d"), None, OSError("e"), None, KeyError("f"), "fine"],
    [tenacity.TryAgain(), tenacity.TryAgain(), "fine"],
    [tenacity.TryAgain()] * 8,
]

WAITS: dict[str, Any] = {
    "none": tenacity.wait_none(),
    "fixed": tenacity.wait_fixed(2),
    "timedelta": tenacity.wait_fixed(timedelta(milliseconds=1500)),
    "random": tenacity.wait_random(1, 3),
    "incrementing": tenacity.wait_incrementing(1, 2, 6),
    "exponential": tenacity.wait_exponential(multiplier=0.5, max=4, min=1),
    "random exponential": tenacity.wait_random_exponential(multiplier=0.5, max=4),
    "exponential jitter": tenacity.wait_exponential_jitter(max=4, jitter=0.25),
    "sum": tenacity.wait_fixed(1) + tenacity.wait_random(0, 2) + tenacity.wait_incrementing(0, 1),
    "builtin sum": sum([tenacity.wait_fixed(1), tenacity.wait_incrementing(0, 1)]),
    "chain": tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(2), tenacity.wait_fixed(5)),
    "function": lambda state: state.attempt_number * 1.5,
    "what passed": lambda state: 1 + state.idle_for / 2 + state.seconds_since_start / 4,
}
STOPS: dict[str, Any] = {
    "attempts": tenacity.stop_after_attempt(4),
    "delay": tenacity.stop_after_delay(5) | tenacity.stop_after_attempt(7),
    "before delay": tenacity.stop_before_delay(5) | tenacity.stop_after_attempt(7),
    "both": tenacity.stop_after_attempt(3) & tenacity.stop_after_delay(2) | tenacity.stop_after_attempt(7),
    "all": tenacity.stop_all(tenacity.stop_after_attempt(2), tenacity.stop_after_attempt(5)),
    "function": lambda state: state.upcoming_sleep > 3 or state.attempt_number > 5,
}
RETRIES: dict[str, Any] = {
    "type": tenacity.retry_if_exception_type((OSError, KeyError)),
    "not type": tenacity.retry_if_not_exception_type(KeyError),
    "unless": tenacity.retry_unless_exception_type(KeyError),
    "exception": tenacity.retry_if_exception(lambda error: "b" not in str(error)),
    "message": tenacity.retry_if_exception_message(match=r"[a-d0-9]"),
    "result": tenacity.retry_if_result(lambda value: value is None),
    "not result": tenacity.retry_if_not_result(lambda value: value == "fine"),
    "always": tenacity.retry_always,
    "never": tenacity.retry_never,
    "or": tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda value: value is None),
    "and": tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception(lambda error: "b" not in str(error)),
    "any": tenacity.retry_any(tenacity.retry_if_exception_type(OSError), tenacity.retry_if_exception_type(KeyError)),
    "mixed": tenacity.retry_all(
        tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda value: value is None),
        tenacity.retry_if_not_exception_type(ValueError),
    ),
    "function": lambda state: state.outcome.failed or state.outcome.result() is None,
}


class Told:
    """Records the arguments of each callback, and every sleep."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.lines: list[Any] = []

    def callback(self, name: str) -> Callable[[Any], Any]:
        def note(state: Any) -> str:
            outcome = state.outcome
            ended = repr(outcome.exception()) if outcome.failed else repr(outcome.result())
            action = state.next_action and state.next_action.sleep
            times = (state.idle_for, state.seconds_since_start, state.upcoming_sleep)
            self.lines.append((name, state.attempt_number, outcome.attempt_number, ended, action, *times))
            state.remembered = [*getattr(state, "remembered", ()), name]
            return f"last word after {state.attempt_number}: {state.remembered}"

        return note

    def acallback(self, name: str) -> Callable[[Any], Any]:
        note = self.callback(name)

        async def anote(state: Any) -> Any:
            await asyncio.sleep(0)
            return note(state)

        return anote

    def act(self, outcomes: list[Any]) -> Callable[[], Any]:
        following = iter(outcomes)

        def call() -> Any:
            self.clock.advance(0.25)
            outcome = next(following, "fine")
            self.lines.append(("call", repr(outcome), self.clock.now))
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return call

    def ends(self, how: str, value: Any) -> list[Any]:
        waits = [wait for wait in self.clock.slept if wait]
        return [*self.lines, ("end", how, repr(value)), ("slept", *waits)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """Return a clock that tenacity reads too."""
    clock = ManualClock(100.0)
    monkeypatch.setattr("tenacity.time", SimpleNamespace(monotonic=clock))
    return clock


def by(
    call: Callable[[Callable[[], Any], dict[str, Any]], Any], outcomes: list[Any], clock: ManualClock, given: Any
) -> list[Any]:
    clock.now, clock.slept = 100.0, []
    random.seed(7)
    told = Told(clock)
    try:
        return told.ends("returned", call(told.act(outcomes), given(told)))
    except tenacity.RetryError as error:  # the one difference: from us the caller gets the last result itself
        return told.ends("returned", error.last_attempt.result())
    except Exception as error:  # noqa: BLE001 - whatever is raised has to be the same
        return told.ends("raised", error)


def check(clock: ManualClock, given: Callable[[Told], dict[str, Any]]) -> None:
    """Compare everything that can be seen of a call, for calls of all kinds."""

    def theirs(act: Callable[[], Any], options: dict[str, Any]) -> Any:
        return tenacity.Retrying(sleep=clock.sleep, reraise=True, **options)(act)

    def ours(act: Callable[[], Any], options: dict[str, Any]) -> Any:
        return Pipeline("p", Retry(clock=clock, **options), sleeper=clock).call(act)

    async def theirs_async(act: Callable[[], Any], options: dict[str, Any]) -> Any:
        return await tenacity.AsyncRetrying(sleep=clock.asleep, reraise=True, **options)(as_coroutine_function(act))

    async def ours_async(act: Callable[[], Any], options: dict[str, Any]) -> Any:
        return await Pipeline("p", Retry(clock=clock, **options), sleeper=clock).acall(as_coroutine_function(act))

    for outcomes in OUTCOMES:
        expected = by(theirs, outcomes, clock, given)
        assert by(ours, outcomes, clock, given) == expected
        assert by(lambda *call: asyncio.run(theirs_async(*call)), outcomes, clock, given) == expected
        assert by(lambda *call: asyncio.run(ours_async(*call)), outcomes, clock, given) == expected


def as_coroutine_function(act: Callable[[], Any]) -> Callable[[], Any]:
    async def call() -> Any:
        await asyncio.sleep(0)
        return act()

    return call


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("stop", STOPS)
def test_waits_and_stops_decide_as_in_tenacity(clock: ManualClock, wait: str, stop: str) -> None:
    """Attempts, sleeps, callbacks and ends are tenacity's own, whatever its wait and stop are made of."""
    check(
        clock,
        lambda told: {
            "wait": WAITS[wait],
            "stop": STOPS[stop],
            "retry": RETRIES["or"],
            "after": told.callback("after"),
            "before_sleep": told.callback("before_sleep"),
        },
    )


@pytest.mark.parametrize("retry", RETRIES)
@pytest.mark.parametrize("callbacks", [(), ("after",), ("after", "before_sleep", "retry_error_callback")])
def test_predicates_and_callbacks_are_asked_as_in_tenacity(
    clock: ManualClock, retry: str, callbacks: tuple[str, ...]
) -> None:
    """Retried outcomes, the arguments and order of callbacks, and the final result are the same as with tenacity."""
    check(
        clock,
        lambda told: {
            "wait": WAITS["sum"],
            "stop": STOPS["attempts"],
            "retry": RETRIES[retry],
            **{name: told.callback(name) for name in callbacks},
        },
    )


async def _is_bad(value: Any) -> bool:
    await asyncio.sleep(0)
    return value is None


async def _is_os_error(error: BaseException) -> bool:
    await asyncio.sleep(0)
    return isinstance(error, OSError)


async def _one(_state: Any) -> float:
    await asyncio.sleep(0)
    return 1.0


AWAITED: dict[str, Any] = {
    "result": tenacity.asyncio.retry_if_result(_is_bad),
    "exception": tenacity.asyncio.retry_if_exception(_is_os_error),
    "or": tenacity.retry_if_exception_type(OSError) | tenacity.asyncio.retry_if_result(_is_bad),
    "and": tenacity.asyncio.retry_if_exception(_is_os_error) & tenacity.retry_if_exception(lambda e: "b" not in str(e)),
    "any": tenacity.asyncio.retry_any(RETRIES["type"], tenacity.asyncio.retry_if_result(_is_bad)),
    "plain": RETRIES["or"],
}


@pytest.mark.parametrize("retry", AWAITED)
def test_coroutine_functions_are_asked_as_in_tenacity(clock: ManualClock, retry: str) -> None:
    """If the call is awaited, predicates, waits, stops and callbacks may be coroutine functions."""
    callbacks = ("after", "before_sleep", "retry_error_callback")

    def given(told: Told) -> dict[str, Any]:
        asked = {name: told.acallback(name) for name in callbacks}
        return {"wait": _one, "stop": STOPS["attempts"], "retry": AWAITED[retry], **asked}

    async def theirs(act: Callable[[], Any], options: dict[str, Any]) -> Any:
        return await tenacity.AsyncRetrying(sleep=clock.asleep, reraise=True, **options)(as_coroutine_function(act))

    async def ours(act: Callable[[], Any], options: dict[str, Any]) -> Any:
        return await Pipeline("p", Retry(clock=clock, **options), sleeper=clock).acall(as_coroutine_function(act))

    for outcomes in OUTCOMES:
        expected = by(lambda *call: asyncio.run(theirs(*call)), outcomes, clock, given)
        assert by(lambda *call: asyncio.run(ours(*call)), outcomes, clock, given) == expected


async def always(_: Any) -> bool:
    await asyncio.sleep(0)
    return True


class Always:
    async def __call__(self, _: Any) -> bool:
        return await always(None)


@pytest.mark.parametrize(
    "option",
    ["on", "on_result", "retry_after", "wait", "stop", "retry", "before_sleep", "after", "retry_error_callback"],
)
@pytest.mark.parametrize("function", [always, Always(), functools.partial(always)], ids=["def", "object", "partial"])
def test_what_has_to_be_awaited_guards_no_blocking_call(option: str, function: Any) -> None:
    """A coroutine function in any place is refused when a blocking function is wrapped."""
    pipeline = Pipeline("p", Retry(**{option: function}))
    for wrap in (lambda: pipeline(ascii), lambda: pipeline.call(str)):
        with pytest.raises(ConfigurationError, match=r"'p\.retry' cannot guard a blocking call"):
            wrap()
    assert pipeline(always) is not None


async def test_our_own_predicates_may_be_awaited() -> None:
    """`on`, `on_result` and `retry_after` may be coroutine functions if the call is awaited."""
    clock, outcomes = ManualClock(), iter([OSError(), None, KeyError(), "fine"])

    async def act() -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def wait_for(outcome: Any) -> int | None:
        await asyncio.sleep(0)
        return 3 if outcome is None else None

    async def seven(error: Exception) -> float:
        await asyncio.sleep(0)
        return 7.0 if isinstance(error, KeyError) else False

    retry = Retry(5, (OSError, seven), on_result=_is_bad, retry_after=wait_for, wait_jitter=0, clock=clock)
    assert await Pipeline("p", retry, sleeper=clock).acall(act) == "fine"
    assert clock.slept == [0.1, 3, 7]


def test_an_answer_that_has_to_be_awaited_is_no_yes() -> None:
    """A plain predicate that hands back a coroutine is an error, not an endless retry."""
    budget = RetryBudget()
    pipeline = Pipeline("p", Retry(on=lambda error: always([error]), budget=budget))

    def fail() -> None:
        raise OSError

    with pytest.raises(ConfigurationError, match="returned an awaitable; write it as `async def`"):
        pipeline.call(fail)
    assert budget.calls == 0


@pytest.mark.parametrize(
    "strategy",
    [
        tenacity.retry_any(tenacity.retry_if_exception_type(), tenacity.asyncio.retry_if_result(_is_bad)),
        tenacity.retry_all(tenacity.retry_any(tenacity.asyncio.retry_if_result(_is_bad))),
        tenacity.retry_if_result(_is_bad),  # type: ignore[arg-type]  # wrong on purpose
        tenacity.retry_any(tenacity.retry_if_exception_type(), always),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_combinations_that_tenacity_gets_wrong_are_refused(strategy: Any) -> None:
    """tenacity takes a coroutine inside a plain combination for a yes; we refuse it at construction."""
    with pytest.raises(ConfigurationError, match=r"retry=.*combine coroutine functions with tenacity\.asyncio"):
        Retry(retry=strategy)


@pytest.mark.parametrize(
    ("strategy", "looks"),
    [
        (RETRIES["type"], False),
        (RETRIES["exception"], False),
        (RETRIES["message"], False),
        (RETRIES["any"], False),
        (RETRIES["and"], False),
        (tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_result(bool), False),
        (tenacity.asyncio.retry_if_exception(_is_os_error), False),
        (RETRIES["unless"], True),
        (RETRIES["result"], True),
        (RETRIES["or"], True),
        (RETRIES["always"], True),
        (RETRIES["function"], True),
        (AWAITED["any"], True),
    ],
)
def test_strategies_on_exceptions_cost_a_success_nothing(strategy: Any, looks: bool) -> None:  # noqa: FBT001 - a case
    """A `retry=` that cannot want another attempt after a result is not asked about results."""
    assert (Steps.of(Retry(retry=strategy)).on_success is not None) is looks


@pytest.mark.parametrize("strategy", [
    tenacity.retry_if_exception_type(),
    tenacity.retry_if_exception_type(Exception) | tenacity.retry_if_result(lambda value: value is None),
    tenacity.retry_if_not_exception_type((KeyError, RateLimitedError)),
    tenacity.retry_unless_exception_type(KeyError),
    tenacity.retry_always,
    tenacity.asyncio.retry_if_exception(always),
    lambda state: state.outcome.failed,
])  # fmt: skip
async def test_a_strategy_that_names_no_refusal_of_ours_retries_none(strategy: Any) -> None:
    """While the circuit inside is open a call is refused once, whatever tenacity's strategies make of errors (L4)."""
    clock = ManualClock()
    breaker = CircuitBreaker(fail_max=1, reset_timeout=30, clock=clock)
    pipeline = Pipeline("p", Retry(clock=clock, wait_jitter=0, retry=strategy), breaker, sleeper=clock)
    with pytest.raises(CircuitOpenError):
        await pipeline.acall(as_coroutine_function(_fail))
    assert clock.slept == [0.1]


@pytest.mark.parametrize("options", [
    {"retry": tenacity.retry_if_exception_type((OSError, CircuitOpenError))},
    {"retry": tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_exception_type(RejectedError)},
    {"retry": tenacity.retry_if_exception_type() & tenacity.retry_if_not_exception_type(BulkheadFullError),
     "on": CircuitOpenError},
    {"retry": lambda state: state.outcome.failed, "on": (OSError, ResilienceError)},
])  # fmt: skip
def test_a_strategy_decides_about_the_refusals_that_are_named(options: dict[str, Any]) -> None:
    """A refusal whose class is named, in the strategy or by `on` beside it, is retried after the open time."""
    clock, outcomes = ManualClock(), iter([OSError(), "fine"])
    breaker = CircuitBreaker(fail_max=1, reset_timeout=30, reset_timeout_jitter=0, success_threshold=1, clock=clock)
    pipeline = Pipeline("p", Retry(clock=clock, wait_jitter=0, **options), breaker, sleeper=clock)

    def act() -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert pipeline.call(act) == "fine"
    assert clock.slept == [0.1, pytest.approx(29.9)]


def test_one_predicate_for_results_is_enough() -> None:
    """`on_result` beside `retry=`, which decides about results too, is refused."""
    with pytest.raises(ConfigurationError, match=r"on_result=.*expected None beside retry="):
        Retry(on_result=bool, retry=tenacity.retry_never)


def test_the_last_word_follows_every_way_of_giving_up() -> None:
    """`retry_error_callback` answers for the call whenever an outcome worth a retry gets none."""
    given: list[tuple[dict[str, Any], str]] = [
        ({}, "attempts"),
        ({"timeout": 0.01}, "timeout"),
        ({"budget": RetryBudget(ratio=0, minimum=0)}, "budget"),
        ({"retry_after": lambda _: -1}, "pushback"),
        ({"retry_after": lambda _: 1e12}, "wait"),
        ({"stop": tenacity.stop_after_attempt(1)}, "stop"),
    ]
    for options, reason in given:
        clock, listener = ManualClock(), RecordingListener()
        retry = Retry(retry_error_callback=lambda state: state.attempt_number, wait_jitter=0, clock=clock, **options)
        pipeline = Pipeline("p", retry, sleeper=clock, listeners=[listener])
        assert pipeline.call(_fail) == (3 if reason == "attempts" else 1)
        assert listener.events[-1].facts["reason"] == reason
    with pytest.raises(OSError):
        Pipeline("p", Retry(on=KeyError, retry_error_callback=lambda _: 1)).call(_fail)


def _fail() -> None:
    raise OSError


@pytest.mark.parametrize("option", ["wait", "stop", "retry", "before_sleep", "after", "retry_error_callback"])
@pytest.mark.parametrize("awaited", [False, True])
async def test_whatever_raises_leaves_the_budget(option: str, awaited: bool) -> None:  # noqa: FBT001 - a case
    """An error of a strategy reaches the caller, with the call's own as context, and leaks nothing."""
    budget, clock = RetryBudget(), ManualClock()

    def broken(_: Any) -> None:
        raise RuntimeError("strategy bug")

    async def abroken(_: Any) -> None:
        raise RuntimeError("strategy bug")

    async def afail() -> None:
        raise OSError

    strategy: dict[str, Any] = {option: abroken if awaited else broken}
    retry = Retry(2, budget=budget, clock=clock, **strategy)
    with pytest.raises(RuntimeError, match="strategy bug") as caught:
        await Pipeline("p", retry, sleeper=clock).acall(afail)
    assert isinstance(caught.value.__context__, OSError)
    assert (budget.calls, budget.retries) == (0, 0)


@pytest.mark.parametrize("option", ["on", "on_result", "wait", "stop", "before_sleep", "after", "retry_error_callback"])
async def test_cancelled_while_it_is_asked(option: str) -> None:
    """A call cancelled while a predicate or callback is awaited leaves the budget, once (L2)."""
    budget, asked = RetryBudget(), asyncio.Event()

    async def hang(_: Any) -> Any:
        asked.set()
        await asyncio.sleep(60)

    async def act() -> None:
        if option != "on_result":
            raise OSError

    asking: dict[str, Any] = {option: hang}
    retry = Retry(1 if option == "retry_error_callback" else 2, budget=budget, **asking)
    task = asyncio.ensure_future(Pipeline("p", retry).acall(act))
    await asked.wait()
    assert budget.calls == 1
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
    assert (budget.calls, budget.retries) == (0, 0)
    assert retry.snapshot()["abandoned_with_retry"] == 0


def test_tenacity_log_callbacks_work(caplog: pytest.LogCaptureFixture) -> None:
    """tenacity's own logging callbacks work."""
    caplog.set_level(logging.INFO)
    log, clock = logging.getLogger("x"), ManualClock()
    asked: dict[str, Any] = {
        "before_sleep": tenacity.before_sleep_log(log, logging.INFO),
        "after": tenacity.after_log(log, logging.INFO),
    }
    outcomes = iter([OSError("down"), 3])

    def act() -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert Pipeline("p", Retry(wait_jitter=0, clock=clock, **asked), sleeper=clock).call(act) == 3
    assert "in 0.1 seconds as it raised OSError: down" in caplog.text
    assert "Finished call to" in caplog.text
