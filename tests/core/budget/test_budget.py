import functools
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience import ConfigurationError, Resilience, RetryBudget
from resilience.budget import BudgetOptions, as_budget
from resilience.budget._machine import BudgetCounts
from resilience.events import Event
from resilience.testing import ManualClock, RecordingListener


def test_a_share_of_what_is_in_flight_may_be_repeated() -> None:
    """There may be `ratio` retries for each call at its first attempt."""
    budget = RetryBudget(ratio=0.2, minimum=0)
    for _ in range(11):
        budget.enter()
    assert [budget.spend(retrying=False) for _ in range(3)] == [True, True, False]
    budget.leave(retrying=True)
    budget.enter()
    assert budget.spend(retrying=False)


@pytest.mark.parametrize("calls", [0, 1, 20, 100, 12345])
def test_retries_make_no_room_for_retries(calls: int) -> None:
    """However many calls fail at once, the attempts in flight are at most 1 + `ratio` for each first one."""
    budget = RetryBudget(ratio=0.2, minimum=0)
    for _ in range(calls):
        budget.enter()
    while budget.spend(retrying=False):
        pass
    assert calls <= (calls - budget.retries) * 1.2 + 0.2
    assert budget.retries >= calls / 6 - 1


@pytest.mark.parametrize("percent", range(101))
def test_every_percentage_is_exact(percent: int) -> None:
    """Of a hundred calls as many may be hedged as the ratio says, though 0.29 * 100 is less than 29 in floats."""
    budget = RetryBudget(ratio=percent / 100, minimum=0)
    for _ in range(100):
        budget.enter()
    while budget.spend_extra():
        pass
    assert budget.extras == percent


def test_a_floor_holds_in_times_of_little_traffic() -> None:
    """The minimum is allowed however little is in flight."""
    budget = RetryBudget(ratio=0.2, minimum=3)
    assert [budget.spend(retrying=False) for _ in range(4)] == [True, True, True, False]


def test_retries_and_hedges_count_together() -> None:
    """One budget is spent by retries and hedged attempts alike."""
    budget = RetryBudget(ratio=0, minimum=2)
    assert budget.spend(retrying=False)
    assert budget.spend_extra()
    assert not budget.spend_extra()
    assert not budget.spend(retrying=False)
    budget.release_extra()
    assert budget.spend(retrying=False)
    assert (budget.retries, budget.extras) == (2, 0)


def test_a_call_that_retries_already_may_go_on() -> None:
    """A call spends its share once, however often it is made again."""
    budget = RetryBudget(ratio=0, minimum=1)
    assert budget.spend(retrying=False)
    assert budget.spend(retrying=True)
    assert budget.retries == 1


def test_exhaustion_is_told_once_an_episode() -> None:
    """A run of refusals is one event; another event follows after a quiet time."""
    clock, own, asking = ManualClock(), RecordingListener(), RecordingListener()
    budget, other = RetryBudget(ratio=0, minimum=1, clock=clock), RetryBudget()
    budget.events.subscribe(own)
    other.events.subscribe(asking)
    budget.enter()
    assert budget.spend(retrying=False)
    for _ in range(50):
        assert not budget.spend(retrying=False, events=other.events)
        clock.advance(1)
    assert own.kinds == asking.kinds == ["budget.exhausted"]
    facts = {"calls": 1, "retries": 1, "extras": 0, "shadow": False}
    assert (own.events[0].policy, own.events[0].severity, own.events[0].facts) == ("budget", "warning", facts)
    clock.advance(9)  # ten seconds since the last refusal
    assert not budget.spend_extra()
    assert own.kinds == ["budget.exhausted"] * 2
    assert budget.snapshot()["refused"] == 51


def test_room_that_comes_and_goes_ends_no_episode() -> None:
    """A budget at its limit, with calls ending and others refused all the time, is one episode."""
    clock, listener = ManualClock(), RecordingListener()
    budget = RetryBudget(ratio=0, minimum=1, clock=clock)
    budget.events.subscribe(listener)
    for _ in range(20):
        assert budget.spend(retrying=False)
        assert not budget.spend(retrying=False)
        budget.leave(retrying=True)
        clock.advance(2)
    assert listener.kinds == ["budget.exhausted"]


def test_in_shadow_it_reports_and_refuses_nothing() -> None:
    """With shadow=True the same event says shadow, and every retry is granted."""
    listener, budget = RecordingListener(), RetryBudget(ratio=0, minimum=0, shadow=True)
    budget.events.subscribe(listener)
    assert all(budget.spend(retrying=False) for _ in range(5))
    assert budget.spend_extra()
    assert [event.facts["shadow"] for event in listener.events] == [True]
    assert (budget.retries, budget.extras, budget.snapshot()["refused"]) == (5, 1, 6)


def test_a_name_means_one_budget() -> None:
    """Everybody who says a name shares one budget, whichever way it is spelled."""
    budget = RetryBudget("payments-api", ratio=0.5)
    assert RetryBudget("PAYMENTS.API") is budget
    assert as_budget("payments_api") is budget
    assert as_budget(budget) is budget
    assert as_budget(None) is None
    assert RetryBudget("orders") is not budget
    assert RetryBudget() is not RetryBudget()
    assert budget.options == BudgetOptions(ratio=0.5)


def test_what_is_said_of_a_name_adds_up() -> None:
    """Code may say different things of one budget in different places, but nothing that contradicts itself."""
    budget = RetryBudget("adding", ratio=0.5)
    RetryBudget("adding", minimum=7, ratio=0.5)
    assert (budget.options.ratio, budget.options.minimum) == (0.5, 7)
    with pytest.raises(ConfigurationError, match=r"ratio=0\.1: expected 0\.5, which budget 'adding' was given before"):
        RetryBudget("adding", ratio=0.1)
    assert budget.options.ratio == 0.5


def test_code_wins_over_configuration_in_either_order() -> None:
    """Options given in code win, before and after the budget is configured."""
    early = RetryBudget("early", ratio=0.5)
    early.configure(BudgetOptions(ratio=0.1, minimum=9))
    late = RetryBudget("late")
    late.configure(BudgetOptions(ratio=0.1, minimum=9))
    RetryBudget("late", ratio=0.5)
    assert early.options == late.options == BudgetOptions(ratio=0.5, minimum=9)


def test_what_code_said_of_a_name_is_kept() -> None:
    """A budget that code has said something about need not be held; one that was only used goes with its user."""
    RetryBudget("said-once", ratio=0.5)
    RetryBudget("only-used").configure(BudgetOptions(ratio=0.5))
    gc.collect()
    assert RetryBudget("said-once").options.ratio == 0.5
    assert RetryBudget("only-used").options.ratio == 0.2


def test_budgets_are_configured_by_text() -> None:
    """A variable configures the budget of that name for the whole process (L22)."""
    before = RetryBudget("set-by-text")
    toolkit = Resilience.from_env(
        {"RESILIENCE_BUDGET__SET_BY_TEXT__RATIO": "0.1", "RESILIENCE_BUDGET__ALSO__MINIMUM": "0"}
    )
    assert before.options == BudgetOptions(ratio=0.1)
    assert toolkit.budget("set-by-text") is before
    gc.collect()
    assert RetryBudget("also").options.minimum == 0
    assert toolkit.config.budget("nobody") is None


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RetryBudget(ratio=1.5), "ratio=1.5"),
        (lambda: RetryBudget("x", minimum=-1), "minimum=-1"),
        (lambda: RetryBudget(shadow=0), "shadow=0"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: RetryBudget(""), "name=''"),
        (lambda: RetryBudget(0.2), "name=0.2"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: RetryBudget(clock=3), "clock=3"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: as_budget(0.2), "budget=0.2"),
        (lambda: as_budget("no spaces"), "budget='no spaces'"),
    ],
)
def test_bad_options_are_named(make: Callable[[], object], named: str) -> None:
    """A bad option is refused at construction, by name."""
    with pytest.raises(ConfigurationError, match="expected") as caught:
        make()
    assert named in str(caught.value)


def test_it_says_what_it_is_and_how_it_is() -> None:
    """describe, snapshot and repr tell options and counts as plain data."""
    budget = RetryBudget("seen", ratio=0.5, minimum=1)
    budget.enter()
    budget.spend(retrying=False)
    assert budget.describe() == {
        "kind": "budget",
        "name": "seen",
        "options": {"ratio": 0.5, "minimum": 1, "shadow": False, "shared": False},
    }
    assert budget.snapshot() == {
        "name": "seen",
        "calls": 1,
        "retries": 1,
        "extras": 0,
        "limit": 1,
        "exhausted": True,
        "refused": 0,
    }
    assert repr(budget) == "<RetryBudget 'seen' 1 of 1 in flight are retries, 0 hedged>"


def test_threads_never_pass_the_limit() -> None:
    """However many threads spend at once, no more are granted than fit, and every count ends at zero."""
    budget, over = RetryBudget(ratio=0, minimum=5), []
    granted = []

    def work() -> None:
        for _ in range(300):
            budget.enter()
            may, extra = budget.spend(retrying=False), budget.spend_extra()
            granted.append(may)
            counts = budget.snapshot()
            if not 0 <= counts["retries"] + counts["extras"] <= 5 or counts["calls"] < 1:
                over.append(counts)
            if extra:
                budget.release_extra()
            budget.leave(retrying=may)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert over == []
    assert any(granted)
    assert (budget.calls, budget.retries, budget.extras) == (0, 0, 0)


def test_threads_that_ask_for_a_name_at_once_get_one_budget() -> None:
    """Two threads that use a name for the first time share one budget."""
    found: list[RetryBudget] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(RetryBudget("at-once"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_starts_with_nothing_in_flight() -> None:
    """A forked child counts its own calls only, even if a lock was held at the fork; no count goes below zero."""
    budget = RetryBudget("forked", ratio=0, minimum=1)
    budget.enter()
    assert budget.spend(retrying=False)
    with budget._lock:
        pid = os.fork()
        if pid == 0:
            is_fresh = budget.spend(retrying=False) and budget.calls == 0
            budget.leave(retrying=True)
            budget.leave(retrying=True)
            budget.release_extra()
            is_same = RetryBudget("forked") is budget
            ended = (budget.calls, budget.retries, budget.extras) == (0, 0, 0)
            os._exit(0 if is_fresh and is_same and ended else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (budget.calls, budget.retries) == (1, 1)


@pytest.mark.parametrize("kind", ["retry", "extra"])
def test_an_interrupted_answer_leaves_the_counts_as_they_were(kind: str) -> None:
    """If an interrupt keeps the answer from the caller, the budget takes back the attempt that it has just counted."""
    clock = ManualClock()
    budget = RetryBudget(ratio=0, minimum=0, shadow=True, clock=clock)
    spend = budget.spend_extra if kind == "extra" else functools.partial(budget.spend, retrying=False)
    assert [spend(), spend()] == [True, True]
    before = (budget.retries, budget.extras)
    clock.advance(10)  # the next refusal begins an episode, so the budget reports it

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    budget.events.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        spend()
    assert (budget.retries, budget.extras) == before


class SharesAsTheyShouldBe(RuleBasedStateMachine):
    """The counts against a list of the calls in flight; an element is True if the call retries."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.budget = RetryBudget(ratio=0.25, minimum=2, clock=self.clock)
        self.listener = RecordingListener()
        self.budget.events.subscribe(self.listener)
        self.calls: list[bool] = []
        self.extras = 0
        self.refusals: list[float] = []

    def _grants(self, may: bool) -> bool:  # noqa: FBT001 - the answer that was given
        fits = sum(self.calls) + self.extras + 1 <= max(2, 0.25 * self.calls.count(False))
        assert may is fits
        if not may:
            self.refusals.append(self.clock.now)
        return may

    @rule()
    def enter(self) -> None:
        self.budget.enter()
        self.calls.append(False)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        which = data.draw(st.integers(0, len(self.calls) - 1))
        if self.calls[which]:
            assert self.budget.spend(retrying=True)
        else:
            self.calls[which] = self._grants(self.budget.spend(retrying=False))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        self.budget.leave(retrying=self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))))

    @rule()
    def hedge(self) -> None:
        self.extras += self._grants(self.budget.spend_extra())

    @precondition(lambda self: self.extras)
    @rule()
    def end_hedge(self) -> None:
        self.budget.release_extra()
        self.extras -= 1

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def counts_are_exact(self) -> None:
        """Count the calls in flight, and no others."""
        budget = self.budget
        assert (budget.calls, budget.retries, budget.extras) == (len(self.calls), sum(self.calls), self.extras)
        assert budget.snapshot()["refused"] == len(self.refusals)

    @invariant()
    def episodes_are_told_once(self) -> None:
        """Tell one event for each run of refusals with less than ten seconds between them."""
        pauses = [now - before for before, now in zip(self.refusals, self.refusals[1:], strict=False)]
        assert len(self.listener.events) == sum(pause >= 10 for pause in pauses) + bool(self.refusals)


TestSharesAsTheyShouldBe = SharesAsTheyShouldBe.TestCase


def test_a_new_machine_has_refused_nothing() -> None:
    """The first refusal begins an episode, whatever the clock shows."""
    assert BudgetCounts().refuse(-1e9)
    assert BudgetCounts().refuse(0.0)
