from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pytest

from resilience import Bulkhead, CircuitBreaker, RateLimit, RejectedError, Retry, RetryBudget
from resilience.policy import PolicyBase
from resilience.testing import PolicyConformance

P = ParamSpec("P")
R = TypeVar("R")


class TestBase(PolicyConformance):
    def make_policy(self) -> PolicyBase:
        return PolicyBase("base")


class TestBreaker(PolicyConformance):
    def make_policy(self) -> CircuitBreaker:
        return CircuitBreaker()


class TestBreakerByRate(PolicyConformance):
    def make_policy(self) -> CircuitBreaker:
        return CircuitBreaker(failure_rate_threshold=0.5)


class TestRetryOfOtherErrors(PolicyConformance):
    def make_policy(self) -> Retry:
        return Retry(on=OSError)


class TestRetryWithBudget(PolicyConformance):
    def make_policy(self) -> Retry:
        return Retry(on=OSError, timeout=5, budget=RetryBudget())


class TestRetryOnResults(PolicyConformance):
    def make_policy(self) -> Retry:
        return Retry(on=OSError, on_result=lambda _: False, budget=RetryBudget())


class TestRetryByTenacity(PolicyConformance):
    def make_policy(self) -> Retry:
        return Retry(retry=lambda _state: False)


class TestBulkhead(PolicyConformance):
    def make_policy(self) -> Bulkhead:
        return Bulkhead(1)


class TestWaitingBulkhead(PolicyConformance):
    def make_policy(self) -> Bulkhead:
        return Bulkhead(1, max_wait=1)


class TestShadowBulkhead(PolicyConformance):
    def make_policy(self) -> Bulkhead:
        return Bulkhead(1, max_wait=1, shadow=True)


class TestResizedBulkhead(PolicyConformance):
    def make_policy(self) -> Bulkhead:
        bulkhead = Bulkhead(9)
        bulkhead.resize(1)
        return bulkhead


class TestRateLimit(PolicyConformance):
    def make_policy(self) -> RateLimit:
        return RateLimit("1000/second")


class TestWaitingRateLimit(PolicyConformance):
    def make_policy(self) -> RateLimit:
        return RateLimit("1000/second", max_wait=1)


class TestThirdParty(PolicyConformance):
    """A policy written from the documentation alone, with nothing of ours in it."""

    class Plain:
        name = "plain"

        def admit(self) -> None:
            return None

        def on_success(self, permit: Any, result: Any, /) -> None:
            return None

        def on_failure(self, permit: Any, error: Exception, /) -> None:
            return None

        def on_abandon(self, permit: Any, /) -> None:
            return None

    def make_policy(self) -> Any:
        return self.Plain()


class Keeping(PolicyBase):
    """Has one place and forgets to give it back where the call did not return."""

    def __init__(self, kept: str) -> None:
        super().__init__("keeping")
        self.is_free, self.kept = True, kept

    def admit(self) -> None:
        if not self.is_free:
            raise RejectedError("no", policy=self.name)
        self.is_free = False

    def on_success(self, _permit: Any, _result: Any, /) -> None:
        self.is_free = True

    def on_failure(self, _permit: Any, _error: Exception, /) -> None:
        self.is_free = self.kept != "failure"

    def on_abandon(self, _permit: Any, /) -> None:
        self.is_free = self.kept != "abandon"


@pytest.mark.parametrize("kept", ["failure", "abandon"])
def test_the_suite_fails_a_policy_that_keeps_what_it_took(kept: str) -> None:
    """The suite finds a policy that does not give back what admission took."""

    class Suite(PolicyConformance):
        def make_policy(self) -> PolicyBase:
            return Keeping(kept)

    with pytest.raises(AssertionError):
        Suite().test_admits_again_however_a_call_ended()


class Around:
    """An around policy written by a third party."""

    name = "around"

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        return call

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
        async def inner(*args: P.args, **kwargs: P.kwargs) -> R:
            return await call(*args, **kwargs)

        return inner
