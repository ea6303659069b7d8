import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import timedelta
from typing import Any

import pytest

from resilience import Bulkhead, ConfigurationError, Hedge, Pipeline, Resilience, Retry, RetryBudget, idempotent
from resilience.idempotency import is_idempotent
from resilience.plugins import Steps
from resilience.testing import ManualClock, RecordingListener


def guarded(clock: ManualClock | None = None, **options: Any) -> Pipeline:
    clock = clock or ManualClock()
    return Pipeline("p", Retry(clock=clock, **{"wait_jitter": 0, **options}), sleeper=clock)


@pytest.mark.parametrize(
    ("answer", "waited"), [(True, 0.1), (7, 7), (timedelta(seconds=7), 7), ("yes", 0.1), (0, None)]
)
def test_a_bad_result_is_retried(answer: Any, waited: float | None) -> None:
    """`on_result` says which results are worth another attempt, and may name the wait."""
    clock, results = ManualClock(), iter([None, "fine"])
    pipeline = guarded(clock, on_result=lambda result: answer if result is None else False)
    assert pipeline.call(lambda: next(results)) == "fine"
    assert clock.slept == ([] if waited is None else [waited])


@pytest.mark.parametrize("answer", [False, None, "", [], -1])
def test_a_good_result_is_returned(answer: Any) -> None:
    """What the predicate does not call bad is the caller's at once."""
    assert guarded(on_result=lambda _: answer).call(lambda: 3) == 3


def test_the_last_result_is_returned_as_it_is() -> None:
    """When attempts run out on a bad result the caller gets it, and `retry.exhausted` says so."""
    listener, results = RecordingListener(), iter(["one", "two", "three"])
    pipeline = guarded(on_result=lambda _: True)
    pipeline.subscribe(listener)
    assert pipeline.call(lambda: next(results)) == "three"
    assert listener.kinds == ["retry.scheduled", "retry.scheduled", "retry.exhausted"]
    facts = {"attempts": 3, "reason": "attempts", "elapsed": pytest.approx(0.3), "error": None}
    assert listener.events[-1].facts == facts


def test_results_and_errors_count_together() -> None:
    """A call may fail by either; the attempts are those of both."""
    outcomes: list[Any] = [OSError("a"), None, OSError("b"), "never"]
    following = iter(outcomes)

    def act() -> Any:
        outcome = next(following)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.raises(OSError, match="b") as caught:
        guarded(on_result=lambda result: result is None).call(act)
    assert caught.value.__notes__[0].splitlines()[2] == "  2 returned NoneType, then waited 0.200 s"


def test_a_predicate_of_results_that_raises_leaves_the_budget() -> None:
    """The predicate's own error reaches the caller and nothing leaks."""
    budget = RetryBudget()

    def broken(_: Any) -> bool:
        raise RuntimeError("predicate bug")

    with pytest.raises(RuntimeError, match="predicate bug"):
        guarded(on_result=broken, budget=budget).call(int)
    assert (budget.calls, budget.retries) == (0, 0)


def test_an_answer_about_a_result_that_has_to_be_awaited_is_no_yes() -> None:
    """A plain predicate over results that hands back a coroutine is an error, not another attempt; nothing leaks."""
    budget, calls = RetryBudget(), list[int]()

    async def never(_: Any) -> bool:
        await asyncio.sleep(0)
        return False

    with pytest.raises(ConfigurationError, match="returned an awaitable; write it as `async def`"):
        guarded(on_result=lambda result: never(result), budget=budget).call(calls.append, 1)  # noqa: PLW0108 - the point
    assert calls == [1]
    assert (budget.calls, budget.retries) == (0, 0)


def test_only_idempotent_functions_are_retried_where_told_so() -> None:
    """With `idempotent_only` a function that is not marked is called once, in every way there is to call it."""
    calls: list[str] = []

    def charge() -> None:
        calls.append("charge")
        raise OSError

    @idempotent
    def read() -> None:
        calls.append("read")
        raise OSError

    pipeline = guarded(idempotent_only=True)
    for call in (pipeline(charge), lambda: pipeline.call(charge), pipeline(read), lambda: pipeline.call(read)):
        with pytest.raises(OSError):
            call()
    assert calls == ["charge"] * 2 + ["read"] * 6


def test_a_proxy_that_has_every_attribute_is_not_marked() -> None:
    """An object with every attribute, such as a remote proxy, does not count as marked: it is called once."""
    calls: list[str] = []

    class Remote:
        def __getattr__(self, name: str) -> "Remote":
            return self

        def __call__(self) -> None:
            calls.append("transfer")
            raise OSError

    transfer = Remote()
    assert not is_idempotent(transfer)
    assert not is_idempotent(functools.partial(transfer))
    for policy in (Retry(idempotent_only=True), Hedge(0)):
        with pytest.raises(OSError):
            Pipeline("p", policy).call(transfer)
    assert calls == ["transfer"] * 2
    assert is_idempotent(idempotent(transfer))


def test_without_the_gate_no_function_is_asked() -> None:
    """A retry that applies to everything has no such step, so that `pipeline.call` stays as cheap as it is."""
    assert Steps.of(Retry()).applies_to is None
    assert Steps.of(Retry(idempotent_only=True)).applies_to is is_idempotent


def test_a_generator_restarts_until_its_first_item() -> None:
    """A generator is begun again while nothing of it was handed over, and never after."""
    begun: list[int] = []

    def items(failures: int, after: int) -> Generator[int, None, None]:
        begun.append(1)
        yield from range(after)
        if len(begun) <= failures:
            raise OSError
        yield 7

    pipeline = guarded(budget=(budget := RetryBudget()))
    assert list(pipeline(items)(2, 0)) == [7]
    assert len(begun) == 3
    begun.clear()
    with pytest.raises(OSError):
        list(pipeline(items)(2, 1))
    assert len(begun) == 1
    assert (budget.calls, budget.retries) == (0, 0)


async def test_an_async_generator_restarts_until_its_first_item() -> None:
    """The same for async generators, with predicates that are awaited."""
    begun: list[int] = []

    async def items(after: int) -> AsyncGenerator[int, None]:
        begun.append(1)
        for item in range(after):
            yield item
        if len(begun) <= 2:
            raise OSError
        yield 7

    async def is_bad(error: Exception) -> bool:
        await asyncio.sleep(0)
        return isinstance(error, OSError)

    pipeline = guarded(on=is_bad, budget=(budget := RetryBudget()))
    assert [item async for item in pipeline(items)(0)] == [7]
    assert len(begun) == 3
    begun.clear()
    with pytest.raises(OSError):
        _ = [item async for item in pipeline(items)(1)]
    assert len(begun) == 1
    assert (budget.calls, budget.retries) == (0, 0)


def test_a_budget_is_found_by_its_name() -> None:
    """Retries that name a budget share it with all others that do, configured or in code."""
    toolkit = Resilience.from_env(
        {
            "RESILIENCE_BUDGET__BY_NAME__MINIMUM": "1",
            "RESILIENCE_PIPELINE__X__RETRY__BUDGET": "by-name",
            "RESILIENCE_PIPELINE__Y__HEDGE__BUDGET": "by_name",
        }
    )
    (configured,) = toolkit.pipeline("x").policies
    (hedge,) = toolkit.pipeline("y").policies
    assert isinstance(configured, Retry)
    assert isinstance(hedge, Hedge)
    assert configured.budget is hedge.budget is Retry(budget="By.Name").budget is toolkit.budget("by-name")
    assert configured.options.budget == "by_name"
    assert toolkit.budget("by-name").options.minimum == 1


async def test_a_call_with_retry_and_hedge_counts_once() -> None:
    """A retry and a hedge of one pipeline on one budget count a call once."""
    budget, counts = RetryBudget(minimum=3), []

    @idempotent
    async def act() -> None:
        counts.append((budget.calls, budget.retries))
        await asyncio.sleep(0)

    await Pipeline("p", Retry(budget=budget), Hedge(delay=5, budget=budget))(act)()
    assert counts == [(1, 0)]
    assert (budget.calls, budget.retries, budget.extras) == (0, 0, 0)


def test_exhaustion_of_a_budget_is_heard_by_the_pipeline() -> None:
    """The pipeline whose retry was refused hears of the budget's exhaustion, once; the budget is asked before sleep."""
    clock, listener = ManualClock(), RecordingListener()
    pipeline = guarded(clock, budget=RetryBudget(ratio=0, minimum=0, clock=clock))
    pipeline.subscribe(listener)
    for _ in range(3):
        with pytest.raises(OSError):
            pipeline.call(_fail)
    assert listener.kinds == ["budget.exhausted", "retry.exhausted", "retry.exhausted", "retry.exhausted"]
    assert {event.facts["reason"] for event in listener.events[1:]} == {"budget"}
    assert clock.slept == []


def test_a_budget_in_shadow_lets_retries_through() -> None:
    """A shadow budget only reports its refusals."""
    clock, listener = ManualClock(), RecordingListener()
    pipeline = guarded(clock, budget=RetryBudget(ratio=0, minimum=0, shadow=True, clock=clock))
    pipeline.subscribe(listener)
    with pytest.raises(OSError):
        pipeline.call(_fail)
    assert listener.kinds == ["budget.exhausted", "retry.scheduled", "retry.scheduled", "retry.exhausted"]
    assert listener.events[0].facts["shadow"] is True


def _fail() -> None:
    raise OSError


def test_snapshot_counts_the_calls_that_failed() -> None:
    """Calls are counted by how they ended; those that never failed are not, because that would cost each of them."""
    retry = Retry(3, on=OSError, wait_jitter=0)
    clock = ManualClock()
    pipeline = Pipeline("p", retry, sleeper=clock)

    def ending(*outcomes: BaseException | None) -> None:
        following = iter(outcomes)

        def act() -> None:
            if (outcome := next(following)) is not None:
                raise outcome

        with pytest.raises((OSError, KeyError, KeyboardInterrupt)) if outcomes[-1] else _nothing():
            pipeline.call(act)

    ending(None)
    ending(OSError(), None)
    ending(OSError(), OSError(), None)
    ending(OSError(), OSError(), OSError())
    ending(OSError(), KeyError())
    ending(KeyError())
    ending(OSError(), KeyboardInterrupt())
    ending(KeyboardInterrupt())
    assert retry.snapshot() == {
        "retries": 7,
        "retried_calls": 5,
        "succeeded_with_retry": 2,
        "failed_with_retry": 2,
        "failed_without_retry": 1,
        "abandoned_with_retry": 1,
        "budget": None,
    }


def _nothing() -> Any:
    import contextlib  # noqa: PLC0415 - only here

    return contextlib.nullcontext()


def test_counts_are_exact_under_threads() -> None:
    """Threads that fail at once are all counted."""
    retry = Retry(2, wait_initial=0)
    pipeline = Pipeline("p", retry)

    def work() -> None:
        for _ in range(300):
            with pytest.raises(OSError):
                pipeline.call(_fail)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (retry.snapshot()["retries"], retry.snapshot()["failed_with_retry"]) == (1200, 1200)


def test_it_says_what_it_was_told() -> None:
    """describe() returns plain data: options, `on`, strategies by name, the budget."""
    budget = RetryBudget("told", ratio=0.5)
    retry = Retry(2, (OSError, _is_bad), budget="told", wait=lambda _: 1.0, after=lambda _: None)
    described = Pipeline("p", retry).describe()["policies"][0]
    assert described["kind"] == "retry"
    assert described["on"] == ["OSError", "_is_bad"]
    assert described["strategies"] == ["after", "wait"]
    assert described["budget"] == budget.describe()
    assert described["options"]["attempts"] == 2
    assert described["options"]["budget"] == "told"
    assert Pipeline("q", retry).snapshot()["policies"][0]["budget"] == budget.snapshot()


def _is_bad(_: Exception) -> bool:
    return True


async def test_a_call_cancelled_in_its_wait_is_given_back() -> None:
    """Cancelled at any await of its way, a call leaves budget and tally as they should be (L2)."""
    for steps in range(12):
        budget, clock = RetryBudget(), ManualClock()
        retry = Retry(3, budget=budget, clock=clock, on_result=_awaited)
        pipeline = Pipeline("p", retry, Bulkhead(1), sleeper=clock)

        async def act() -> None:
            await asyncio.sleep(0)
            raise OSError

        task = asyncio.ensure_future(pipeline.acall(act))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        ended = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError | OSError)
        assert (budget.calls, budget.retries) == (0, 0)
        counts = retry.snapshot()
        assert counts["retried_calls"] == counts["failed_with_retry"] + counts["abandoned_with_retry"]


async def _awaited(_: Any) -> bool:
    await asyncio.sleep(0)
    return False


def test_features_not_used_have_no_step() -> None:
    """A call that succeeds at once passes only the steps its options need."""
    steps: dict[str, Callable[[], Retry]] = {
        "": lambda: Retry(5, OSError, backoff="linear", wait_jitter="equal", retry_after=lambda _: None),
        "admit": lambda: Retry(timeout=5, before_sleep=lambda _: None, retry_error_callback=lambda _: None),
        "on_success": lambda: Retry(on_result=bool),
        "admit on_success": lambda: Retry(budget=RetryBudget()),
        "applies_to": lambda: Retry(idempotent_only=True),
    }
    for names, make in steps.items():
        found = Steps.of(make())
        has = {"admit": found.admit, "on_success": found.on_success, "applies_to": found.applies_to}
        assert {name for name, step in has.items() if step is not None} == set(names.split())
