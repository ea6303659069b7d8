"""The retry and its budget against a model, step by step, with many calls under way at once."""

import math
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from resilience import Retry, RetryBudget
from resilience.policy import RetryAfter
from resilience.retry import no_waits, set_active
from resilience.testing import ManualClock, RecordingListener

ATTEMPTS, TIMEOUT, WAIT_MAX, RATIO, MINIMUM = 4, 20.0, 3.0, 0.3, 2


class Refused(Exception):  # noqa: N818 - what a server says
    def __init__(self, retry_after: float | None) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class Call:
    """One call as the model sees it."""

    def __init__(self, permit: Any, began: float) -> None:
        self.permit, self.began = permit, began
        self.attempts, self.is_retrying = 1, False


class RetryAsItShouldBe(RuleBasedStateMachine):
    """Calls begin, fail, succeed, are abandoned and wait, in any order, on one retry with a budget."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(50.0)
        self.budget = RetryBudget(ratio=RATIO, minimum=MINIMUM, clock=self.clock)
        self.retry = Retry(
            ATTEMPTS,
            (OSError, Refused),
            timeout=TIMEOUT,
            backoff="decorrelated",
            wait_initial=0.5,
            wait_max=WAIT_MAX,
            on_result=lambda result: result == "bad",
            budget=self.budget,
            clock=self.clock,
        )
        self.listener = RecordingListener()
        self.retry.events.subscribe(self.listener)
        self.live: list[Call] = []
        self.scheduled = self.retried = self.failed = self.plainly = self.abandoned = 0

    def teardown(self) -> None:
        for call in self.live:
            self.retry.on_abandon(call.permit)
        assert (self.budget.calls, self.budget.retries) == (0, 0)

    @rule(target=calls)
    def begin(self) -> Call:
        call = Call(self.retry.admit(), self.clock.now)
        self.live.append(call)
        return call

    @rule(target=calls, call=consumes(calls), asked=st.none() | st.floats(-5, 30))
    def fail(self, call: Call, asked: float | None) -> Any:
        return self._settle(call, self.retry.on_failure(call.permit, Refused(asked)), asked)

    @rule(target=calls, call=consumes(calls))
    def fail_for_good(self, call: Call) -> Any:
        assert self.retry.on_failure(call.permit, KeyError("final")) is None
        return self._end(call)

    @rule(target=calls, call=consumes(calls))
    def return_something_bad(self, call: Call) -> Any:
        return self._settle(call, self.retry.on_success(call.permit, "bad"), None)

    @rule(call=consumes(calls))
    def succeed(self, call: Call) -> None:
        assert self.retry.on_success(call.permit, "good") is None
        self.live.remove(call)

    @rule(call=consumes(calls))
    def abandon(self, call: Call) -> None:
        self.retry.on_abandon(call.permit)
        self.abandoned += call.attempts > 1
        self.live.remove(call)

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(call=consumes(calls))
    def fail_while_switched_off(self, call: Call) -> None:
        set_active(False)
        try:
            assert self.retry.on_failure(call.permit, OSError()) is None
        finally:
            set_active(True)
        self._end(call)

    @rule(target=calls, call=consumes(calls))
    def fail_without_waits(self, call: Call) -> Any:
        with no_waits(1):
            assert self.retry.on_failure(call.permit, OSError()) is None
        return self._end(call)

    def _settle(self, call: Call, verdict: Any, asked: float | None) -> Any:
        elapsed = self.clock.now - call.began
        has_room = call.is_retrying or self._has_room()
        if verdict is None:
            needed = max(asked or 0.0, 0.0)
            could_not = asked is not None and asked < 0
            could_not |= call.attempts >= ATTEMPTS or not has_room
            # The wait chance chose is not known here: it was somewhere up to the longest, or a tenth above the floor.
            assert could_not or elapsed + max(WAIT_MAX, needed + min(needed / 10, WAIT_MAX)) >= TIMEOUT
            return self._end(call)
        assert isinstance(verdict, RetryAfter)
        assert has_room
        assert call.attempts < ATTEMPTS
        assert max(asked or 0.0, 0.5) <= verdict.after <= max(WAIT_MAX, (asked or 0.0) * 1.1)
        assert elapsed + verdict.after < TIMEOUT
        self.scheduled += 1
        self.retried += call.attempts == 1
        call.attempts, call.is_retrying, call.permit = call.attempts + 1, True, verdict.permit
        return call

    def _has_room(self) -> bool:
        """Whether the budget had room before the call in question spent: it is not counted as retrying in the model."""
        retrying = sum(call.is_retrying for call in self.live)
        return retrying + 1 <= max(MINIMUM, RATIO * (len(self.live) - retrying))

    def _end(self, call: Call) -> Any:
        self.live.remove(call)
        self.failed += call.attempts > 1
        self.plainly += call.attempts == 1
        return multiple()

    @invariant()
    def the_budget_counts_the_calls_under_way(self) -> None:
        """Count each call while it lasts, as a retry from its second attempt on."""
        assert self.budget.calls == len(self.live)
        assert self.budget.retries == sum(call.is_retrying for call in self.live)

    @invariant()
    def the_tally_is_right(self) -> None:
        """Count how every call that failed at least once has ended."""
        assert self.retry.snapshot() | {"budget": None} == {
            "retries": self.scheduled,
            "retried_calls": self.retried,
            "succeeded_with_retry": self.retried - self.failed - self.abandoned,
            "failed_with_retry": self.failed,
            "failed_without_retry": self.plainly,
            "abandoned_with_retry": self.abandoned,
            "budget": None,
        }

    @invariant()
    def every_retry_was_told(self) -> None:
        """Tell of each retry, once, with a wait that is a number."""
        waits = [event.facts["wait"] for event in self.listener.events if event.kind == "retry.scheduled"]
        assert len(waits) == self.scheduled
        assert all(map(math.isfinite, waits))


TestRetryAsItShouldBe = RetryAsItShouldBe.TestCase
