"""Coroutines. Time is a manual clock's: the loop of `scenarios_world` jumps to the next thing due."""

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from scenarios_world import World

from resilience import (
    AppError,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    idempotent,
)
from resilience.testing import RecordingListener


class Upstream:
    """Answers each attempt by its script, the last line of it for ever: after so long, with a value or an error."""

    def __init__(self, *script: tuple[float, Any]) -> None:
        self.script = script
        self.asked_at: list[float] = []
        self.cancelled: list[int] = []
        self.ended: list[int] = []
        self.ask = idempotent(self.answer)

    async def answer(self) -> Any:
        number = len(self.asked_at)
        self.asked_at.append(asyncio.get_running_loop().time())
        seconds, outcome = self.script[min(number, len(self.script) - 1)]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(number + 1)
            await asyncio.sleep(0)  # cleaning up takes a turn
            raise
        finally:
            self.ended.append(number + 1)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def play(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Let the story happen; nothing may be left running, and nothing may be complained about."""
    world, complaints = World(), []

    async def told() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        await story(world)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    world.play(told())
    gc.collect()
    assert complaints == []


def hedge(world: World, delay: float | None = 1.0, **options: Any) -> tuple[Hedge, RecordingListener]:
    policy, listener = Hedge(delay, name="h", clock=world.clock, **options), RecordingListener()
    policy.events.subscribe(listener)
    return policy, listener


def test_answer_in_time_is_not_hedged() -> None:
    """A call that is answered within the delay is made once."""

    async def story(world: World) -> None:
        policy, listener = hedge(world)
        upstream = Upstream((0.9, "first"))
        assert await Pipeline("p", policy)(upstream.ask)() == "first"
        assert (len(upstream.asked_at), listener.kinds) == (1, [])

    play(story)


def test_late_answer_is_hedged_and_the_loser_has_ended_before_the_caller_goes_on() -> None:
    """After the delay a second attempt is made; when it wins, the first has been cancelled and has cleaned up."""

    async def story(world: World) -> None:
        policy, listener = hedge(world)
        upstream = Upstream((9, "first"), (0.5, "second"))
        assert await Pipeline("p", policy)(upstream.ask)() == "second"
        assert (upstream.asked_at, upstream.cancelled, world.clock.now) == ([0, 1], [1], 1.5)
        assert upstream.ended == [2, 1]
        await asyncio.sleep(5)  # nothing is left that would go off
        assert listener.kinds == ["hedge.started", "hedge.won"]
        assert [event.facts for event in listener.events] == [
            {"attempt": 2, "after": 1.0},
            {"attempt": 2, "latency": 1.5},
        ]
        counts = policy.snapshot()
        assert (counts["calls"], counts["hedged"], counts["hedges"], counts["won"]) == (1, 1, 1, 1)

    play(story)


def test_first_attempt_may_still_win() -> None:
    """When the first attempt answers after all, the hedge is cancelled."""

    async def story(world: World) -> None:
        policy, listener = hedge(world)
        upstream = Upstream((1.2, "first"), (0.5, "second"))
        assert await Pipeline("p", policy)(upstream.ask)() == "first"
        assert (upstream.cancelled, listener.kinds, policy.snapshot()["won"]) == ([2], ["hedge.started"], 0)

    play(story)


def test_failure_starts_the_next_attempt_at_once() -> None:
    """A failed attempt is not waited for: the next one is made without the delay, and may answer."""

    async def story(world: World) -> None:
        policy, _ = hedge(world)
        upstream = Upstream((0.1, OSError("down")), (0.2, "second"))
        assert await Pipeline("p", policy)(upstream.ask)() == "second"
        assert upstream.asked_at == [0, 0.1]

    play(story)


def test_first_acceptable_result_wins_not_the_first_result() -> None:
    """A rejected result starts the next attempt; the caller gets it if no attempt does better."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, max_hedges=2, acceptable=lambda result: result == "good")
        upstream = Upstream((0.1, "stale"), (0.1, "good"))
        assert await Pipeline("p", policy)(upstream.ask)() == "good"
        poor = Upstream((0.1, "stale"), (0.1, OSError()), (0.1, "also stale"))
        assert await Pipeline("p", policy)(poor.ask)() == "also stale"
        worse = Upstream((0.1, "stale"), (0.1, OSError()))
        assert await Pipeline("p", policy)(worse.ask)() == "stale"

    play(story)


def test_error_outside_on_is_the_answer() -> None:
    """An error that another attempt would not change ends the call at once, whatever else is under way."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, on=OSError)
        upstream = Upstream((9, "first"), (0.5, KeyError("no such user")))
        with pytest.raises(KeyError, match="no such user") as caught:
            await Pipeline("p", policy)(upstream.ask)()
        assert (world.clock.now, upstream.cancelled) == (1.5, [1])
        assert not hasattr(caught.value, "__notes__")
        gone = Upstream((0.1, AppError("USER_001", "gone")))  # says itself that it is not to be tried again
        with pytest.raises(AppError):
            await Pipeline("p", hedge(world)[0])(gone.ask)()
        assert len(gone.asked_at) == 1

    play(story)


def test_when_all_fail_the_last_error_tells_of_the_others() -> None:
    """If every attempt fails the caller gets the last error, with the others as a note."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, max_hedges=2)
        upstream = Upstream((0.1, OSError("one")), (0.1, OSError("two")), (0.1, OSError("three")))
        with pytest.raises(OSError, match="three") as caught:
            await Pipeline("p", policy)(upstream.ask)()
        told = "h: no acceptable answer in 3 attempts; attempt 1: OSError('one'); attempt 2: OSError('two')"
        assert caught.value.__notes__ == [told]

    play(story)


def test_our_own_refusal_starts_no_other_attempt_and_hides_no_error() -> None:
    """What a policy of ours refused is not asked again (L4), and the caller hears of the dependency's error first."""

    async def story(world: World) -> None:
        policy, listener = hedge(world)
        full = Upstream((0, BulkheadFullError("full", policy="b")))
        with pytest.raises(BulkheadFullError):
            await Pipeline("p", policy)(full.ask)()
        assert (len(full.asked_at), listener.kinds) == (1, [])
        refused = Upstream((1.5, OSError("down")), (0, BulkheadFullError("full", policy="b")))
        with pytest.raises(OSError, match="down") as caught:
            await Pipeline("p", policy)(refused.ask)()
        assert "BulkheadFullError" in caught.value.__notes__[0]
        asked_for, _ = hedge(world, on=BulkheadFullError)
        again = Upstream((0, BulkheadFullError("full", policy="b")), (0, "second"))
        assert await Pipeline("p", asked_for)(again.ask)() == "second"

    play(story)


def test_fallback_of_an_attempt_is_no_answer() -> None:
    """A value that a fallback inside stands in with does not win; it is better than an error if nothing else comes."""

    async def story(world: World) -> None:
        policy, _ = hedge(world)
        guarded = Pipeline("p", policy, Fallback("stand-in"))
        assert await guarded(Upstream((0.1, OSError()), (0.1, "second")).ask)() == "second"
        assert await guarded(Upstream((0.1, OSError())).ask)() == "stand-in"

    play(story)


def test_every_hedge_waits_for_the_delay() -> None:
    """With several hedges each follows the one before after the delay."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, max_hedges=3)
        upstream = Upstream((9, "first"), (9, "second"), (9, "third"), (0.5, "fourth"))
        assert await Pipeline("p", policy)(upstream.ask)() == "fourth"
        assert upstream.asked_at == [0, 1, 2, 3]
        assert sorted(upstream.cancelled) == [1, 2, 3]

    play(story)


def test_delay_begins_anew_with_an_attempt_that_follows_a_failure() -> None:
    """A hedge after a failure gets the whole delay before the next one is made."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, max_hedges=2)
        upstream = Upstream((0.5, OSError()), (9, "second"), (0.1, "third"))
        assert await Pipeline("p", policy)(upstream.ask)() == "third"
        assert upstream.asked_at == [0, 0.5, 1.5]

    play(story)


def test_no_delay_asks_all_at_once() -> None:
    """With a delay of 0 every attempt is made at once."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, 0, max_hedges=2)
        upstream = Upstream((3, "first"), (1, "second"), (2, "third"))
        assert await Pipeline("p", policy)(upstream.ask)() == "second"
        assert (upstream.asked_at, world.clock.now) == ([0, 0, 0], 1)

    play(story)


def test_unmarked_functions_are_called_as_without_a_hedge() -> None:
    """Only a function marked as idempotent is called twice."""

    async def story(world: World) -> None:
        policy, _ = hedge(world)
        upstream = Upstream((5, "first"))
        assert await Pipeline("p", policy)(upstream.answer)() == "first"
        assert await Pipeline("p", policy).acall(upstream.answer) == "first"
        assert (len(upstream.asked_at), policy.snapshot()["calls"]) == (2, 0)

    play(story)


def test_delay_is_learned() -> None:
    """Without a delay no call is hedged until enough answers are known, and then the slow calls are."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, None, minimum_samples=20, sliding_window=100)
        quick, slow = Upstream((0.1, "quick")), Upstream((9, "slow"), (0.1, "second"))
        assert repr(policy) == "<Hedge 'h' still learning>"
        for _ in range(19):
            await Pipeline("p", policy)(quick.ask)()
        assert (policy.delay, policy.snapshot()["samples"]) == (None, 19)
        await Pipeline("p", policy)(quick.ask)()
        assert policy.delay == pytest.approx(0.1, rel=0.05)
        begun = world.clock.now
        assert await Pipeline("p", policy)(slow.ask)() == "second"
        assert world.clock.now - begun == pytest.approx(0.2, rel=0.05)
        assert policy.snapshot()["samples"] == 21
        assert "after 0.1" in repr(policy)

    play(story)


def test_while_learning_errors_are_the_callers_and_teach_nothing() -> None:
    """Before anything is hedged a failing call is made once, and its latency is not learned."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, None, on=OSError)
        down = Upstream((0.1, OSError("down")))
        with pytest.raises(OSError, match="down"):
            await Pipeline("p", policy)(down.ask)()
        assert (len(down.asked_at), policy.snapshot()["samples"], policy.snapshot()["calls"]) == (1, 0, 1)

    play(story)


def test_exhausted_budget_means_no_hedge() -> None:
    """Without budget there is no hedge, and the first attempt goes on; a hedge gives its place back at its end."""

    async def story(world: World) -> None:
        budget = RetryBudget(ratio=0, minimum=1)
        policy, listener = hedge(world, budget=budget)
        guarded = Pipeline("p", policy)
        both = [Upstream((3, "first"), (9, "second")) for _ in range(2)]
        answers = asyncio.gather(*(guarded(each.ask)() for each in both))
        await asyncio.sleep(1.5)
        assert (budget.calls, budget.extras) == (2, 1)
        assert await answers == ["first", "first"]
        assert sorted(len(each.asked_at) for each in both) == [1, 2]
        assert (budget.calls, budget.extras) == (0, 0)
        assert listener.kinds == ["hedge.started", "budget.exhausted", "hedge.suppressed"]
        assert listener.events[-1].facts == {"reason": "budget"}
        assert policy.snapshot()["suppressed"] == {"budget": 1, "deadline": 0, "threads": 0}

    play(story)


def test_a_failure_asks_the_budget_again() -> None:
    """A hedge suppressed for want of budget may be made when the first attempt fails later."""

    async def story(world: World) -> None:
        budget = RetryBudget(ratio=0, minimum=1)
        policy, _ = hedge(world, budget=budget)
        assert budget.spend_extra()
        call = asyncio.ensure_future(Pipeline("p", policy)(Upstream((3, OSError()), (0.5, "second")).ask)())
        await asyncio.sleep(2)
        budget.release_extra()
        assert await call == "second"
        assert (budget.calls, budget.extras) == (0, 0)

    play(story)


@pytest.mark.parametrize("order", ["outside", "inside", "elsewhere"])
def test_retry_on_the_same_budget_counts_the_call(order: str) -> None:
    """With a retry on the same budget in the pipeline a call counts once, and in any other case the hedge counts it."""

    async def story(world: World) -> None:
        budget = RetryBudget()
        policy, _ = hedge(world, budget=budget)
        retry = Retry(budget=budget if order != "elsewhere" else RetryBudget())
        policies = (policy, retry) if order == "inside" else (retry, policy)
        pipeline = Pipeline("p", *policies)
        calls = [asyncio.ensure_future(pipeline(Upstream((seconds, "first")).ask)()) for seconds in (0.5, 0.8)]
        await asyncio.sleep(0.2)
        assert budget.calls == 2
        await calls[0]
        assert budget.calls == 1
        await calls[1]
        assert budget.calls == 0

    play(story)


def test_hedge_that_meets_a_retry_in_mid_traffic() -> None:
    """A call counted before a retry took over the counting is taken out of the budget again."""

    async def story(world: World) -> None:
        budget = RetryBudget()
        policy, _ = hedge(world, budget=budget)
        call = asyncio.ensure_future(Pipeline("p", policy)(Upstream((0.5, "first")).ask)())
        await asyncio.sleep(0.2)
        later = Pipeline("q", Retry(budget=budget), policy)(Upstream((0.5, "first")).ask)()
        assert (await call, await later) == ("first", "first")
        assert budget.calls == 0

    play(story)


def test_no_hedge_when_the_deadline_is_near() -> None:
    """No hedge starts when the time until the deadline is shorter than the median latency."""

    async def story(world: World) -> None:
        policy, listener = hedge(world, minimum_samples=3)
        upstream = Upstream((0.4, "quick"), (0.4, "quick"), (0.4, "quick"), (1.2, "late"))
        guarded = Pipeline("p", policy)(upstream.ask)
        for _ in range(3):
            await guarded()
        with Deadline.after(1.3, clock=world.clock):
            assert await guarded() == "late"
        assert [event.facts for event in listener.events] == [{"reason": "deadline"}]
        with Deadline.after(1.5, clock=world.clock):
            assert await guarded() == "late"
        assert listener.kinds[1:] == ["hedge.started"]

    play(story)


def test_attempts_see_the_deadline_and_the_callers_context() -> None:
    """Each attempt runs in a copy of the caller's context: it sees the deadline, and changes nothing for anybody."""
    seen: list[tuple[str, Deadline | None]] = []
    variable = contextvars.ContextVar("variable", default="unset")

    @idempotent
    async def act() -> str:
        seen.append((variable.get(), Deadline.current()))
        variable.set(f"attempt {len(seen)}")
        await asyncio.sleep(9 if len(seen) == 1 else 0)
        return variable.get()

    async def story(world: World) -> None:
        variable.set("caller's")
        with Deadline.after(60, clock=world.clock) as deadline:
            assert await Pipeline("p", hedge(world)[0])(act)() == "attempt 2"
        assert seen == [("caller's", deadline), ("caller's", deadline)]
        assert variable.get() == "caller's"

    play(story)


def test_timeout_around_a_hedge_ends_every_attempt() -> None:
    """A timeout outside cancels all attempts, and the caller gets its error."""

    async def story(world: World) -> None:
        policy, _ = hedge(world)
        upstream = Upstream((9, "first"))
        with pytest.raises(DeadlineExceededError):
            await Pipeline("p", Timeout(2, clock=world.clock), policy)(upstream.ask)()
        assert (sorted(upstream.cancelled), world.clock.now) == ([1, 2], 2)

    play(story)


def test_timeout_of_an_attempt_is_a_failure() -> None:
    """A timeout inside ends one attempt, and the next one is made at once."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, 5)
        upstream = Upstream((9, "first"), (0.5, "second"))
        assert await Pipeline("p", policy, Timeout(2, clock=world.clock))(upstream.ask)() == "second"
        assert upstream.asked_at == [0, 2]

    play(story)


def test_loser_that_ignores_cancellation_does_not_hold_the_caller() -> None:
    """A cancelled attempt that goes on is waited for as long as agreed, then left to itself; its end is harmless."""

    @idempotent
    async def act() -> str:
        if asyncio.get_running_loop().time() > 0:
            return "second"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(30)
        raise OSError("nobody listens any more")

    async def story(world: World) -> None:
        budget = RetryBudget()
        policy, listener = hedge(world, cancel_timeout=0.5, budget=budget)
        assert await Pipeline("p", policy)(act)() == "second"
        assert world.clock.now == 1.5
        assert (policy.snapshot()["lingering"], budget.calls, budget.extras) == (1, 0, 0)
        assert not policy.is_idle
        assert listener.kinds == ["hedge.started", "hedge.lingering", "hedge.won"]
        gc.collect()
        await asyncio.sleep(60)
        assert policy.snapshot()["lingering"] == 0
        assert policy.is_idle

    play(story)


def test_hedge_that_ignores_cancellation_stays_in_the_budget() -> None:
    """What a hedge took from the budget is given back when it really ends."""

    async def story(world: World) -> None:
        budget = RetryBudget()
        policy, _ = hedge(world, cancel_timeout=0.5, budget=budget)

        @idempotent
        async def act() -> str:
            try:
                await asyncio.sleep(2 if world.clock.now == 0 else 60)
            except asyncio.CancelledError:
                await asyncio.sleep(30)
            return "first"

        assert await Pipeline("p", policy)(act)() == "first"
        assert (budget.calls, budget.extras) == (0, 1)
        await asyncio.sleep(60)
        assert budget.extras == 0

    play(story)


def test_loser_that_answers_nevertheless_is_dropped() -> None:
    """A loser that returns or raises on being cancelled changes nothing: the winner's answer stands."""
    for parting in ("too late", OSError("too late")):

        @idempotent
        async def act(parting: Any = parting) -> Any:
            if asyncio.get_running_loop().time() > 0:
                return "second"
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if isinstance(parting, OSError):
                    raise parting from None
            return parting

        async def story(world: World, act: Any = act) -> None:
            assert await Pipeline("p", hedge(world)[0])(act)() == "second"

        play(story)


def test_cancelled_again_while_the_losers_end() -> None:
    """A caller cancelled while losers clean up is cancelled when they have, and not before."""

    async def story(world: World) -> None:
        policy, _ = hedge(world)
        cleaned: list[float] = []

        @idempotent
        async def act() -> str:
            if world.clock.now:
                return "second"
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.5)
                cleaned.append(world.clock.now)
            return "never"

        call = asyncio.ensure_future(Pipeline("p", policy)(act)())
        await asyncio.sleep(1.1)
        for _ in range(3):
            call.cancel()
            await asyncio.sleep(0.1)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (cleaned, world.clock.now) == ([1.5], 1.5)

    play(story)


def test_attempt_that_cancels_itself() -> None:
    """A cancellation that comes out of an attempt reaches the caller, as it would without a hedge."""

    async def story(world: World) -> None:
        with pytest.raises(asyncio.CancelledError):
            await Pipeline("p", hedge(world)[0])(Upstream((0.1, asyncio.CancelledError())).ask)()

    play(story)


def test_attempt_cancelled_before_it_began() -> None:
    """Somebody who cancels every task of the loop does not leave the caller waiting."""

    async def story(world: World) -> None:
        call = asyncio.ensure_future(Pipeline("p", hedge(world)[0])(Upstream((9, "first")).ask)())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {call, asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    play(story)


def test_failing_predicate_ends_the_call() -> None:
    """What `acceptable` raises reaches the caller, and no attempt is left behind."""

    def acceptable(_result: Any) -> bool:
        raise LookupError("a bug")

    async def story(world: World) -> None:
        policy, _ = hedge(world, acceptable=acceptable)
        upstream = Upstream((9, "first"), (0.1, "second"))
        with pytest.raises(LookupError, match="a bug"):
            await Pipeline("p", policy)(upstream.ask)()
        assert upstream.cancelled == [1]

    play(story)


def test_loop_that_makes_no_task() -> None:
    """If the loop refuses to make a task, the caller gets the error, and the budget gets its place back."""

    async def story(world: World) -> None:
        budget, loop = RetryBudget(), asyncio.get_running_loop()
        policy, _ = hedge(world, budget=budget)
        upstream = Upstream((9, "first"))
        call = asyncio.ensure_future(Pipeline("p", policy)(upstream.ask)())
        await asyncio.sleep(0.5)
        loop.set_task_factory(_refuse)
        with pytest.raises(RuntimeError, match="no more tasks"):
            await call
        loop.set_task_factory(None)
        assert (budget.calls, budget.extras, upstream.cancelled) == (0, 0, [1])

    play(story)


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no more tasks")


def test_call_that_is_closed_without_a_loop() -> None:
    """A hedged call abandoned with its loop is closed without a complaint, and is out of the budget."""
    budget = RetryBudget()

    async def story(world: World) -> None:
        calls.append(Pipeline("p", hedge(world, budget=budget)[0])(Upstream((9, "first")).ask)())
        calls[0].send(None)
        await asyncio.sleep(0)
        assert budget.calls == 1
        calls[0].close()
        assert budget.calls == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    calls: list[Coroutine[Any, Any, Any]] = []
    play(story)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_call_that_outlives_its_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A hedged call that is closed when its loop is gone already raises nothing."""
    call = Pipeline("p", Hedge(9))(Upstream((9, "first")).ask)()

    async def begin() -> None:
        call.send(None)
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    call.close()
    gc.collect()
    assert all("Task was destroyed" in record.message for record in caplog.records)  # asyncio's word on such loops


def test_error_leaves_no_cycle() -> None:
    """An error that crossed tasks is freed with its last user."""

    class Down(Exception):  # noqa: N818 - what the function raises
        def __init__(self) -> None:
            seen.append(weakref.ref(self))

    @idempotent
    async def act(script: list[float | None]) -> str:
        seconds = script.pop(0)
        await asyncio.sleep(0.1 if seconds is None else seconds)
        if seconds is None:
            raise Down
        return "answer"

    @idempotent
    async def stubborn(attempts: list[None]) -> str:
        attempts.append(None)
        if len(attempts) == 2:
            return "answer"
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(9)
        await asyncio.sleep(1)
        raise Down

    async def story(world: World) -> None:
        for script in ([None, None], [None, 0.1], [0.5, None, 0.5], [None, 60, 60]):
            for delay in (0.1, 1, None):
                policy = hedge(world, delay, max_hedges=2)[0]
                call = asyncio.ensure_future(Pipeline("p", policy)(act)([*script, None, None]))
                await asyncio.sleep(2)
                call.cancel()
                with contextlib.suppress(Down, asyncio.CancelledError):
                    await call
                del call
        lingering = Pipeline("p", hedge(world, 1, cancel_timeout=0.1)[0])(stubborn)
        assert await lingering([]) == "answer"
        await asyncio.sleep(9)
        assert len(seen) > 12
        assert [gone() for gone in seen] == [None] * len(seen)

    seen: list[weakref.ref[Down]] = []
    gc.disable()
    try:
        play(story)
    finally:
        gc.enable()


async def stepped(steps: int, make: Callable[[], Awaitable[Any]]) -> bool:
    """Cancel a call after so many turns of the loop; return whether it had ended by itself before."""
    task = asyncio.ensure_future(make())
    for _ in range(steps):
        await asyncio.sleep(0)
    ended = task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or ended or task.exception() is None or isinstance(task.exception(), OSError)
    return ended


@pytest.mark.parametrize(
    "script",
    [
        ((0, "first"), (0, "second")),
        ((9, "first"), (0, "second")),
        ((0, OSError()), (0, "second")),
        ((0, OSError()), (0, OSError()), (0, "third")),
        ((9, "first"), (0, OSError()), (0, "third")),
        ((9, "first"), (9, "second"), (9, "third")),
    ],
)
def test_cancelled_at_any_point_leaves_nothing_behind(script: tuple[Any, ...]) -> None:
    """Wherever a hedged call is cancelled, every task has ended and every permit and budget is back (L2)."""

    async def story(world: World) -> None:
        budget, bulkhead = RetryBudget(), Bulkhead(3)
        for delay in (0, 1e-9, 5):
            policy, _ = hedge(world, delay, max_hedges=2, budget=budget)
            for steps in range(60):
                pipeline = Pipeline("p", Retry(attempts=1, budget=budget), policy, bulkhead)
                await stepped(steps, pipeline(Upstream(*script).ask))
                assert asyncio.all_tasks() == {asyncio.current_task()}
                assert bulkhead.concurrent_calls == 0
                await asyncio.sleep(0)
                assert (budget.calls, budget.extras) == (0, 0)
                bulkhead.name, policy.name = "bulkhead", "h"

    play(story)


def test_cancelled_trial_gives_its_permit_back() -> None:
    """A half-open breaker inside gets the trial of a cancelled loser back: the next call is a trial again (L2, L5)."""

    async def story(world: World) -> None:
        policy, _ = hedge(world, 0)
        breaker = CircuitBreaker(1, reset_timeout=10, success_threshold=1, clock=world.clock)
        guarded = Pipeline("p", policy, breaker)
        with pytest.raises(Exception, match="down"):
            await guarded(Upstream((0, OSError("down"))).ask)()
        with pytest.raises(CircuitOpenError):
            await guarded(Upstream((0, "never")).ask)()
        await asyncio.sleep(11)
        call = asyncio.ensure_future(guarded(Upstream((9, "first")).ask)())
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.wait([call])
        assert await guarded(Upstream((0.1, "first")).ask)() == "first"
        assert breaker.current_state == "closed"

    play(story)


def test_plain_function_that_returns_an_awaitable() -> None:
    """A plain function that returns a coroutine, wrapped by wrap_async, is hedged like a coroutine function."""

    async def story(world: World) -> None:
        upstream = Upstream((9, "first"), (0.1, "second"))

        @idempotent
        def act() -> Any:
            return upstream.answer()

        assert await Pipeline("p", hedge(world)[0]).wrap_async(act)() == "second"

    play(story)
