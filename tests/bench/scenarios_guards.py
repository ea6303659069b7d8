"""Who takes part in the scenarios, each told this world's time in the way it offers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import harness
from scenarios_world import Call, Guard, UpstreamDownError, World

from resilience import CircuitBreaker, CircuitOpenError, Pipeline, Retry, RetryBudget, Timeout

__all__ = ("BUDGETED", "CONSECUTIVE", "NAIVE", "OTHERS", "PEERS", "bare", "breaker", "retry", "with_timeout")

RESET = 5.0


class Never(Exception):  # noqa: N818 - stands for a refusal where nothing refuses
    """What is never raised."""


def bare() -> Guard:
    """Guard nothing."""
    return Guard("no breaker", lambda _world, call: call, lambda: Never)


def _breaker(world: World, **options: Any) -> CircuitBreaker:
    told: dict[str, Any] = {"reset_timeout": RESET, "clock": world.clock, "randomness": world.chance.random}
    return CircuitBreaker(**told, **options)


def breaker(name: str, how: str, **options: Any) -> Guard:
    """Guard by our breaker."""

    def build(world: World, call: Call) -> Call:
        return Pipeline("scenario", _breaker(world, **options))(call)

    return Guard(f"resilience, {name}", build, lambda: CircuitOpenError, how)


def with_timeout(name: str, how: str, seconds: float, **options: Any) -> Guard:
    """Guard by our breaker with a timeout inside."""

    def build(world: World, call: Call) -> Call:
        return Pipeline("scenario", _breaker(world, **options), Timeout(seconds, clock=world.clock))(call)

    return Guard(f"resilience, {name}", build, lambda: CircuitOpenError, how)


CONSECUTIVE = breaker("5 in a row", "`CircuitBreaker(fail_max=5)`", fail_max=5)


def _pybreaker(world: World, call: Call) -> Call:
    module = harness.peer("pybreaker")
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    class Now(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Now:
            return start + dt.timedelta(seconds=world.clock.now)  # type: ignore[return-value]  # a datetime will do

    world.patch(module, "datetime", Now)
    guard = module.CircuitBreaker(fail_max=5, reset_timeout=RESET, throw_new_error_on_trip=False)

    async def guarded() -> object:
        with guard.calling():  # its decorator and `call` do not count the failures of a coroutine
            return await call()

    return guarded


def _circuitbreaker(world: World, call: Call) -> Call:
    module = harness.peer("circuitbreaker")
    world.patch(module, "monotonic", world.clock)
    guarded: Call = module.CircuitBreaker(failure_threshold=5, recovery_timeout=RESET, name="scenario")(call)
    return guarded


def _pyresilience(world: World, call: Call) -> Call:
    module = harness.peer("pyresilience")
    harness.peer("pyresilience._circuit_breaker", "pyresilience")
    world.patch(module._circuit_breaker, "_monotonic", world.clock)
    config = module.CircuitBreakerConfig(
        recovery_timeout=RESET, sliding_window_size=100, failure_rate_threshold=0.5, minimum_calls=20
    )
    guarded: Call = module.resilient(circuit_breaker=config)(call)
    return guarded


class _InterlockClock:
    def __init__(self, world: World) -> None:
        self._clock = world.clock

    def monotonic(self) -> float:
        return self._clock.now


def _interlock(world: World, call: Call) -> Call:
    module = harness.peer("interlock", "interlock-cb")
    config = module.Config(
        window_size=100, failure_rate_threshold=0.5, minimum_number_of_calls=20, wait_duration_in_open=RESET
    )
    guarded: Call = module.CircuitBreaker(name="scenario", config=config, clock=_InterlockClock(world))(call)
    return guarded


PEERS = (
    Guard(
        "interlock-cb",
        _interlock,
        lambda: harness.peer("interlock", "interlock-cb").CircuitOpenError,
        "50 % of the last 100 calls, from 20 on; its own clock argument",
    ),
    Guard(
        "pyresilience",
        _pyresilience,
        lambda: harness.peer("pyresilience").CircuitOpenError,
        "50 % of the last 100 calls, from 20 on; its module's clock replaced",
    ),
    Guard(
        "pybreaker",
        _pybreaker,
        lambda: harness.peer("pybreaker").CircuitBreakerError,
        "5 failures in a row; in a coroutine through `with breaker.calling()`; its module's `datetime` replaced",
    ),
    Guard(
        "circuitbreaker",
        _circuitbreaker,
        lambda: harness.peer("circuitbreaker").CircuitBreakerError,
        "5 failures in a row; its module's `monotonic` replaced",
    ),
)


def retry(name: str, how: str, *, budget: bool, breaking: bool = False, **options: Any) -> Guard:
    """Guard by our retry."""

    def build(world: World, call: Call) -> Call:
        policy = Retry(
            on=UpstreamDownError,
            budget=RetryBudget(ratio=0.2, minimum=3) if budget else None,
            clock=world.clock,
            randomness=world.chance.random,
            **{"attempts": 3, **options},
        )
        inner = [_breaker(world, failure_rate_threshold=0.5)] if breaking else []
        return Pipeline("scenario", policy, *inner)(call)

    return Guard(f"resilience, {name}", build, lambda: CircuitOpenError, how)


NAIVE = retry("no budget", "`Retry(attempts=3)`", budget=False)
BUDGETED = (
    retry("budget", "`Retry(attempts=3, budget=RetryBudget(ratio=0.2, minimum=3))`", budget=True),
    retry("budget, 10 attempts", "the same with `attempts=10`", budget=True, attempts=10),
    retry("budget and breaker", "the first one with a `CircuitBreaker(failure_rate_threshold=0.5)` inside",
          budget=True, breaking=True),
)  # fmt: skip


def _tenacity(_world: World, call: Call) -> Call:
    tenacity = harness.peer("tenacity")
    wrap = tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5) + tenacity.wait_random(0, 1),
        retry=tenacity.retry_if_exception_type(UpstreamDownError),
        reraise=True,
    )
    guarded: Call = wrap(call)
    return guarded


def _stamina(_world: World, call: Call) -> Call:
    stamina = harness.peer("stamina")
    stamina.instrumentation.set_on_retry_hooks(())  # it would log every retry
    guarded: Call = stamina.retry(on=UpstreamDownError, attempts=3, timeout=None)(call)
    return guarded


def _pyresilience_retry(world: World, call: Call) -> Call:
    module = harness.peer("pyresilience")
    budgets = harness.peer("pyresilience._retry_budget", "pyresilience")
    world.patch(budgets, "_monotonic", world.clock)
    config = module.RetryConfig(max_attempts=3, delay=0.1, max_delay=5, retry_on=(UpstreamDownError,))
    guarded: Call = module.resilient(retry=config, retry_budget=module.RetryBudgetConfig())(call)
    return guarded


OTHERS = (
    Guard("tenacity", _tenacity, lambda: Never, "3 attempts, exponential waits from 0.1 s with up to 1 s of jitter"),
    Guard("stamina", _stamina, lambda: Never, "3 attempts, its own waits"),
    Guard(
        "pyresilience, budget",
        _pyresilience_retry,
        lambda: Never,
        "3 attempts; its default budget: 100 retries, 10 more a second, for any traffic",
    ),
)
