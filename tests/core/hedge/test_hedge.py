"""Blocking functions, options, and the description of a hedge."""

import asyncio
import contextvars
import gc
import itertools
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    ConfigurationError,
    Deadline,
    Fallback,
    Hedge,
    Pipeline,
    Resilience,
    Retry,
    RetryBudget,
    Timeout,
    idempotent,
)
from resilience.hedge import HedgeOptions
from resilience.testing import RecordingListener


class Upstream:
    """Each attempt takes the next line of the script: an event to wait for (or None), and the outcome."""

    def __init__(self, *script: tuple[threading.Event | None, Any]) -> None:
        self.script = script
        self.threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.ask = idempotent(self.answer)

    def answer(self) -> Any:
        with self._lock:
            number = len(self.threads)
            self.threads.append(threading.current_thread())
        event, outcome = self.script[min(number, len(self.script) - 1)]
        assert event is None or event.wait(10)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def until(condition: Callable[[], bool]) -> bool:
    """Wait a little for another thread."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def hedge(delay: float | None = 0.01, **options: Any) -> tuple[Hedge, RecordingListener]:
    policy, listener = Hedge(delay, name="h", **options), RecordingListener()
    policy.events.subscribe(listener)
    return policy, listener


def test_hedge_answers_and_the_loser_keeps_its_thread_until_it_ends() -> None:
    """The caller returns with the first answer; a blocking function that lost occupies its thread until it ends."""
    release, budget = threading.Event(), RetryBudget()
    policy, listener = hedge(budget=budget)
    upstream = Upstream((release, "first"), (None, "second"))
    assert Pipeline("p", policy)(upstream.ask)() == "second"
    assert until(lambda: policy.busy_threads == 1)
    assert listener.kinds == ["hedge.started", "hedge.won"]
    release.set()
    assert until(lambda: policy.busy_threads == 0)
    assert (budget.calls, budget.extras) == (0, 0)


def test_first_attempt_may_still_win() -> None:
    """When the first attempt answers after all, the hedge's thread goes on and stays in the budget until it ends."""
    release, started, budget = threading.Event(), threading.Event(), RetryBudget()
    policy, _ = hedge(budget=budget)
    policy.events.subscribe(lambda _event: started.set())
    assert Pipeline("p", policy)(Upstream((started, "first"), (release, "second")).ask)() == "first"
    assert (policy.busy_threads, budget.calls, budget.extras) == (1, 0, 1)
    release.set()
    assert until(lambda: budget.extras == 0)
    assert until(lambda: policy.busy_threads == 0)


def test_failure_starts_the_next_attempt_at_once() -> None:
    """A failed attempt is not waited for: the next one is made without the delay."""
    policy, listener = hedge(60)
    assert Pipeline("p", policy)(Upstream((None, OSError("down")), (None, "second")).ask)() == "second"
    assert listener.events[0].facts["after"] < 5


def test_results_that_will_not_do_and_errors() -> None:
    """An acceptable result wins over a rejected one, and that over an error; the last error lists the others."""
    policy, _ = hedge(60, acceptable=bool)
    guarded = Pipeline("p", policy)
    assert guarded(Upstream((None, 0), (None, 1)).ask)() == 1
    assert guarded(Upstream((None, 0), (None, OSError())).ask)() == 0
    with pytest.raises(OSError, match="two") as caught:
        guarded(Upstream((None, OSError("one")), (None, OSError("two"))).ask)()
    assert caught.value.__notes__ == ["h: no acceptable answer in 2 attempts; attempt 1: OSError('one')"]
    assert Pipeline("q", policy, Fallback("stand-in"))(Upstream((None, OSError())).ask)() == "stand-in"


def test_error_raised_again_and_again_tells_of_the_last_call_alone() -> None:
    """One error object that ends call after call has one note of ours, and keeps those of others."""
    policy, _ = hedge(60)
    error = OSError("shared")
    error.add_note("h: mine")
    for number in range(3):
        with pytest.raises(OSError, match="shared"):
            Pipeline("p", policy)(Upstream((None, KeyError(number)), (None, error)).ask)()
    told = "h: no acceptable answer in 2 attempts; attempt 1: KeyError(2)"
    assert error.__notes__ == ["h: mine", told]


def test_caller_makes_the_call_where_no_thread_is_free() -> None:
    """At the bound a call is not refused: it is made in the caller's own thread, without a hedge."""
    release = threading.Event()
    policy, listener = hedge(max_threads=2)
    losing = Upstream((release, "first"), (None, "second"))
    for busy in (1, 2):
        assert Pipeline("p", policy)(Upstream((None, "quick")).ask)() == "quick"
        if busy == 1:
            assert Pipeline("p", policy)(losing.ask)() == "second"
    assert until(lambda: policy.busy_threads == 1)
    started = threading.Event()
    late = Upstream((started, "late"))
    policy.events.subscribe(lambda event: started.set() if event.kind == "hedge.suppressed" else None)
    listener.events.clear()
    assert Pipeline("p", policy)(late.ask)() == "late"  # one thread for the first attempt, none for a hedge
    assert [event.facts for event in listener.events] == [{"reason": "threads"}]
    held = threading.Event()
    holding = threading.Thread(target=Pipeline("p", policy)(Upstream((held, "held")).ask))
    holding.start()
    assert until(lambda: policy.busy_threads == 2)
    own = Upstream((None, "own"))
    assert Pipeline("p", policy)(own.ask)() == "own"
    assert own.threads == [threading.current_thread()]
    with pytest.raises(OSError, match="down"):
        Pipeline("p", policy)(Upstream((None, OSError("down"))).ask)()
    release.set()
    held.set()
    holding.join(5)
    assert until(lambda: policy.busy_threads == 0)
    assert policy.snapshot()["suppressed"]["threads"] >= 3


def test_while_learning_the_caller_makes_the_call() -> None:
    """Until enough is known a blocking call stays in its caller's thread, and is learned from."""
    policy, _ = hedge(None, minimum_samples=3)
    upstream = Upstream((None, "first"))
    for _ in range(3):
        assert Pipeline("p", policy)(upstream.ask)() == "first"
    assert set(upstream.threads) == {threading.current_thread()}
    assert policy.delay is not None
    assert Pipeline("p", policy)(upstream.ask)() == "first"
    assert until(lambda: policy.busy_threads == 0)
    assert threading.current_thread() not in upstream.threads[3:]


def test_attempts_see_the_deadline_and_the_callers_context() -> None:
    """Each attempt runs in a copy of the caller's context: it sees the deadline, and changes nothing for anybody."""
    seen: list[tuple[str, Deadline | None]] = []
    variable = contextvars.ContextVar("variable", default="unset")

    @idempotent
    def act() -> str:
        seen.append((variable.get(), Deadline.current()))
        variable.set("attempt's")
        if len(seen) == 1:
            raise OSError
        return variable.get()

    variable.set("caller's")
    with Deadline.after(60) as deadline:
        assert Pipeline("p", hedge()[0])(act)() == "attempt's"
    assert seen == [("caller's", deadline), ("caller's", deadline)]
    assert variable.get() == "caller's"


def test_places_inside_are_held_until_the_thread_ends() -> None:
    """A bulkhead inside keeps the place of a loser until its thread ends, and gets it back then (L2)."""
    release, bulkhead = threading.Event(), Bulkhead(2)
    policy, _ = hedge()
    assert Pipeline("p", policy, bulkhead)(Upstream((release, "first"), (None, "second")).ask)() == "second"
    assert until(lambda: bulkhead.concurrent_calls == 1)
    release.set()
    assert until(lambda: bulkhead.concurrent_calls == 0)


def test_timeout_inside_ends_an_attempt() -> None:
    """A timeout inside ends one blocking attempt on time, and the next one is made."""
    release = threading.Event()
    guarded = Pipeline("p", hedge(60)[0], timeout := Timeout("20ms"))
    assert guarded(Upstream((release, "first"), (None, "second")).ask)() == "second"
    release.set()
    assert until(lambda: timeout.busy_threads == 0)


async def test_plain_function_that_returns_an_awaitable() -> None:
    """A plain function that returns a coroutine is hedged as a coroutine function from then on."""

    async def answer() -> str:
        return "answer"

    policy, _ = hedge(60, acceptable=lambda result: result == "answer")

    @idempotent
    def act() -> Any:
        return answer()

    guarded: Any = Pipeline("p", policy)(act)
    for _ in range(3):
        assert await guarded() == "answer"
    assert until(lambda: policy.busy_threads == 0)


def test_error_leaves_no_cycle() -> None:
    """An error that crossed threads is freed with its last user."""

    class Down(Exception):  # noqa: N818 - what the function raises
        def __init__(self) -> None:
            seen.append(weakref.ref(self))

    @idempotent
    def act(script: list[str | None]) -> str:
        answer = script.pop(0)
        if answer is None:
            raise Down
        return answer

    seen: list[weakref.ref[Down]] = []
    gc.disable()
    try:
        for delay in (60, None):
            for script in ([None, None], [None, "second"]):
                policy = hedge(delay)[0]
                try:
                    Pipeline("p", policy)(act)(list(script))
                except Down:
                    assert seen[-1]() is not None
                assert until(lambda policy=policy: policy.busy_threads == 0)  # type: ignore[misc]  # bound early
        assert until(lambda: not any(gone() for gone in seen))
    finally:
        gc.enable()


@pytest.mark.realtime
@pytest.mark.parametrize("attempts", [1, 2])
def test_an_interrupted_caller_leaves_the_place_to_its_threads(attempts: int) -> None:
    """After Ctrl-C the place of a bulkhead outside stays taken until the last attempt has really ended (L9)."""
    main, releases, numbers = threading.main_thread().ident, [threading.Event(), threading.Event()], itertools.count()
    assert main is not None

    @idempotent
    def act() -> None:
        number = next(numbers)
        if number == attempts - 1:
            time.sleep(0.03)  # what is interrupted is the wait, not the start of a thread
            signal.pthread_kill(main, signal.SIGINT)
        releases[number].wait(10)

    bulkhead, (policy, _) = Bulkhead(1), hedge(60 if attempts == 1 else 0)
    with pytest.raises(KeyboardInterrupt):
        Pipeline("p", bulkhead, policy).call(act)
    for left in range(attempts, 0, -1):
        assert until(lambda left=left: policy.busy_threads == left)  # type: ignore[misc]  # bound early
        assert bulkhead.concurrent_calls == 1
        releases[left - 1].set()
    assert until(lambda: bulkhead.is_idle)
    assert policy.busy_threads == 0


def test_an_attempt_that_cannot_be_shown_hides_no_error() -> None:
    """If the text of another attempt's error fails, the note names its type, and the last error stands."""

    class UnshownError(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    policy, _ = hedge(60)
    upstream = Upstream((None, UnshownError()), (None, OSError("down")))
    with pytest.raises(OSError, match="down") as caught:
        Pipeline("p", policy).call(upstream.ask)
    assert caught.value.__notes__ == ["h: no acceptable answer in 2 attempts; attempt 1: <UnshownError>"]


def test_a_loser_keeps_its_thread_and_no_place_outside() -> None:
    """A bulkhead outside counts calls, one inside attempts: only that one has a place for a loser (L9)."""
    outside, inside, release = Bulkhead(1, name="calls"), Bulkhead(2), threading.Event()
    upstream = Upstream((release, "late"), (None, "quick"))
    policy, _ = hedge(0.01)
    assert Pipeline("p", outside, policy, inside).call(upstream.ask) == "quick"
    assert (outside.concurrent_calls, policy.busy_threads) == (0, 1)
    assert inside.concurrent_calls == 1
    release.set()
    assert until(lambda: inside.is_idle and policy.busy_threads == 0)


def test_many_threads_at_once() -> None:
    """Under many callers every call gets its own answer, the counts add up, and everything taken is given back."""
    budget, bulkhead = RetryBudget(ratio=0.5), Bulkhead(200)
    policy, _ = hedge(0.001, max_threads=12, budget=budget)
    guarded = Pipeline("p", Retry(attempts=1, budget=budget), policy, bulkhead)
    wrong: list[Any] = []

    @idempotent
    def act(number: int) -> int:
        chance = random.random()
        time.sleep(0.003 if chance < 0.3 else 0)
        if chance > 0.9:
            raise OSError
        return number

    call = guarded(act)

    def caller(start: int) -> None:
        for number in range(start, start + 40):
            try:
                answer = call(number)
            except OSError:
                continue
            if answer != number:
                wrong.append((number, answer))

    threads = [threading.Thread(target=caller, args=(1000 * index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert until(lambda: policy.busy_threads == 0)
    counts = policy.snapshot()
    assert counts["calls"] == 640
    assert counts["hedges"] == counts["hedged"] > 0
    assert (budget.calls, budget.extras, bulkhead.concurrent_calls) == (0, 0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_starts_afresh() -> None:
    """A child forked while the parent has attempts under way hedges with threads and counts of its own."""
    release = threading.Event()
    policy, _ = hedge(max_threads=2)
    guarded = Pipeline("p", policy)(Upstream((release, "first"), (None, "second")).ask)
    assert guarded() == "second"
    child = os.fork()
    if not child:
        fresh = policy.snapshot()
        is_fresh = (fresh["calls"], fresh["samples"], fresh["busy_threads"]) == (0, 0, 0)
        answer = Pipeline("q", policy)(Upstream((threading.Event(), "first"), (None, "second")).ask)()
        os._exit(0 if is_fresh and answer == "second" else 1)
    _, status = os.waitpid(child, 0)
    release.set()
    assert os.waitstatus_to_exitcode(status) == 0
    assert until(lambda: policy.busy_threads == 0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"delay": -1}, "delay="),
        ({"delay": "soon"}, "delay="),
        ({"quantile": 1}, "quantile="),
        ({"max_hedges": 0}, "max_hedges="),
        ({"minimum_samples": 501}, "minimum_samples=501: expected at most sliding_window"),
        ({"cancel_timeout": 0}, "cancel_timeout="),
        ({"max_threads": 1}, "max_threads="),
        ({"budget": 5}, "budget="),
        ({"budget": ""}, "budget="),
        ({"on": BaseException}, "on="),
        ({"on": ()}, "on="),
        ({"acceptable": 1}, "acceptable="),
        ({"clock": 1}, "clock="),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], problem: str) -> None:
    """What makes no sense is refused at construction, by name."""
    with pytest.raises(ConfigurationError, match=problem):
        Hedge(**options)


def test_samples_matter_only_where_the_delay_is_learned() -> None:
    """With a fixed delay the number of samples need not fit into the window."""
    assert HedgeOptions(delay=0.1, minimum_samples=600).minimum_samples == 600


def test_says_what_it_is_and_how_it_is_doing() -> None:
    """describe() returns the options and snapshot() the present state, both as plain data."""
    policy = Hedge("50ms", budget=RetryBudget("search-hedges"), name="h")
    assert policy.describe()["options"] == {
        "delay": 0.05,
        "quantile": 0.95,
        "max_hedges": 1,
        "minimum_samples": 100,
        "sliding_window": 500,
        "cancel_timeout": 1.0,
        "max_threads": 64,
        "budget": "search-hedges",
    }
    assert policy.snapshot() == {
        "delay": 0.05,
        "calls": 0,
        "hedged": 0,
        "hedges": 0,
        "won": 0,
        "suppressed": {"budget": 0, "deadline": 0, "threads": 0},
        "samples": 0,
        "typical_latency": None,
        "busy_threads": 0,
        "lingering": 0,
    }
    assert repr(policy) == "<Hedge 'h' after 0.05 s>"


def test_configured_by_text_and_on_the_budget_of_its_name() -> None:
    """A hedge configured by text stands inside the retry, and the two share the budget they name."""
    environment = {
        "RESILIENCE_PIPELINE__SEARCH__HEDGE__DELAY": "50ms",
        "RESILIENCE_PIPELINE__SEARCH__HEDGE__BUDGET": "search",
        "RESILIENCE_PIPELINE__SEARCH__RETRY__BUDGET": "search",
        "RESILIENCE_PIPELINE__SEARCH__TIMEOUT__SECONDS": "1s",
    }
    with Resilience.from_env(environment) as resilience:
        policies: tuple[Any, ...] = resilience.pipeline("search").policies
        assert [policy.kind for policy in policies] == ["retry", "hedge", "timeout"]
        assert policies[1].options.delay == 0.05
        assert policies[1].budget is policies[0].budget is RetryBudget("search")


def test_generator_functions_are_not_hedged() -> None:
    """A generator cannot be hedged: a marked one is refused when it is wrapped, any other one goes without."""

    def items() -> Any:
        yield 1

    assert list(Pipeline("p", hedge()[0])(items)()) == [1]
    with pytest.raises(ConfigurationError, match="has to own the call"):
        Pipeline("p", hedge()[0])(idempotent(items))


@pytest.mark.parametrize("delay", [60, None])
def test_an_answer_that_has_to_be_awaited_is_no_yes(delay: float | None) -> None:
    """A plain `acceptable` that hands back a coroutine is an error: no result is accepted by its word."""

    async def never(_: Any) -> bool:
        await asyncio.sleep(0)
        return False

    policy, _ = hedge(delay, acceptable=lambda result: never(result))  # noqa: PLW0108 - a plain function is the point
    with pytest.raises(ConfigurationError, match="has to answer at once, but it returned an awaitable"):
        Pipeline("p", policy).call(idempotent(lambda: 1))
