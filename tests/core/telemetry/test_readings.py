import gc
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilience import (
    AsyncPool,
    Bulkhead,
    BulkheadFullError,
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    Hedge,
    Keyed,
    Lifecycle,
    Pipeline,
    Pool,
    PoolTimeoutError,
    RateLimit,
    RateLimitedError,
    Retry,
    RetryBudget,
    SingleFlight,
    Timeout,
    TokenBucket,
)
from resilience._support.measured import ENDED, OTHER, count_of
from resilience.health import Health
from resilience.telemetry import METRICS, MetricKind, Readings
from resilience.testing import ManualClock, reset


@pytest.fixture
def readings() -> Iterator[Readings]:
    yield Readings()
    gc.collect()
    ENDED.after_test()


def values(readings: Readings, metric: str, *policies: str) -> dict[tuple[str, ...], float]:
    """Return the points of a metric by label values, without zeros; those of some policies alone if any is named."""
    points = [point for family in readings.collect() if family.metric.name == metric for point in family.points]
    wanted = [point for point in points if not policies or point.labels[0] in policies]
    return {labels[1:] if policies else labels: value for labels, value in wanted if value}


class DependencyError(Exception):
    """The dependency fails."""


def fail() -> None:
    raise DependencyError


def succeed() -> None:
    pass


def refuse(pipeline: Pipeline, kind: type[Exception], times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(kind):
            pipeline.call(fail)


def test_each_metric_has_one_row_with_a_unit_and_a_sentence() -> None:
    """Names are unique and dotted, descriptions are sentences, and labels are of the few words that stay bounded."""
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("resilience.")
        assert not metric.name.endswith("_total")
        assert metric.description.endswith(".")
        assert set(metric.labels) <= {"policy", "pipeline", "kind", "outcome", "reason", "state", "generation"}
        assert (metric.kind is MetricKind.HISTOGRAM) == bool(metric.buckets)
        assert metric.unit


def test_a_breaker_counts_each_outcome_and_each_change(readings: Readings) -> None:
    """Successes, failures, refusals, the states that began and the present state are read; trials count too."""
    clock = ManualClock()
    breaker = CircuitBreaker(fail_max=2, reset_timeout=10, clock=clock)
    pipeline = Pipeline("read-breaker", breaker)
    for _ in range(3):
        pipeline.call(int)
    refuse(pipeline, DependencyError, 2)
    refuse(pipeline, CircuitOpenError, 4)
    name = breaker.name
    assert values(readings, "resilience.breaker.circuits", name) == {("open",): 1}
    clock.advance(10)
    pipeline.call(int)
    pipeline.call(int)
    assert values(readings, "resilience.breaker.calls", name) == {("success",): 5, ("failure",): 2, ("refused",): 4}
    entered = values(readings, "resilience.breaker.transitions", name)
    assert entered == {("open",): 1, ("half_open",): 1, ("closed",): 1}
    assert values(readings, "resilience.breaker.circuits", name) == {("closed",): 1}


@pytest.mark.parametrize(
    "options",
    [
        {"failure_rate_threshold": 0.5, "minimum_calls": 4, "sliding_window": 10},
        {"failure_rate_threshold": 0.5, "minimum_calls": 4, "sliding_window": "60s"},
        {"slow_call_rate_threshold": 0.5, "slow_call_duration_threshold": 5, "minimum_calls": 4},
        {"fail_max": 3, "ramp": 20, "success_threshold": 2},
    ],
    ids=lambda options: "-".join(options)[:40],
)
def test_every_outcome_is_counted_once_over_many_epochs(
    readings: Readings, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """However often the circuit changes, successes, failures and refusals add up to the calls."""
    clock = ManualClock()
    breaker = CircuitBreaker(reset_timeout=10, clock=clock, **options)
    pipeline = Pipeline("read-epochs", breaker)
    caplog.set_level(logging.CRITICAL, "resilience")
    expected = {("success",): 0, ("failure",): 0, ("refused",): 0}
    for number in range(400):
        outcome = ("success",)
        try:
            pipeline.call(fail if number % 7 in {1, 2, 3} else succeed)
        except DependencyError:
            outcome = ("failure",)
        except CircuitOpenError:
            outcome = ("refused",)
        expected[outcome] += 1
        clock.advance(1.5)
    assert values(readings, "resilience.breaker.calls", breaker.name) == {k: v for k, v in expected.items() if v}
    entered = values(readings, "resilience.breaker.transitions", breaker.name)
    assert options.get("slow_call_rate_threshold") or entered[("open",)] > 2


def test_a_mode_is_shown_and_shadow_refusals_are_no_refusals(readings: Readings) -> None:
    """A breaker that only reports has its mode in the overrides, and its refusals under `shadow`."""
    breaker = CircuitBreaker(fail_max=1, shadow=True)
    pipeline = Pipeline("read-shadow", breaker)
    refuse(pipeline, DependencyError, 3)
    assert values(readings, "resilience.breaker.overrides", breaker.name) == {("metrics_only",): 1}
    assert values(readings, "resilience.breaker.calls", breaker.name) == {("failure",): 1, ("shadow",): 2}


def test_a_thousand_keys_are_one_series(readings: Readings) -> None:
    """The circuits of a keyed breaker are added up: the scrape has no more series than for one circuit, and no key."""
    keyed = Keyed(lambda _key: CircuitBreaker(fail_max=1), key=lambda key: key, max_keys=2000)
    pipeline = Pipeline("read-keyed", keyed)
    for key in range(1000):
        pipeline.call(str, f"user-{key}")
    calls = values(readings, "resilience.breaker.calls", keyed.name)
    assert calls == {("success",): 1000}
    assert values(readings, "resilience.keyed.keys", keyed.name) == {(): 1000}
    assert values(readings, "resilience.breaker.circuits", keyed.name) == {("closed",): 1000}
    assert not any(
        "user-" in label for family in readings.collect() for point in family.points for label in point.labels
    )


def test_counters_do_not_fall_when_a_key_is_dropped(readings: Readings) -> None:
    """The counts of a circuit that is gone stay in the sum."""
    keyed = Keyed(lambda _key: CircuitBreaker(), key=lambda key: key, max_keys=2)
    pipeline = Pipeline("read-dropped", keyed)
    for key in range(50):
        pipeline.call(str, key)
    gc.collect()
    assert len(keyed) == 2
    assert values(readings, "resilience.breaker.calls", keyed.name) == {("success",): 50}
    del pipeline, keyed
    gc.collect()
    assert values(readings, "resilience.breaker.calls", "read-dropped.breaker") == {("success",): 50}


def test_names_beyond_the_limit_are_one_series(readings: Readings) -> None:
    """A program that makes a policy for each user costs at most a thousand series, and loses no count."""
    policies = [Fallback(0, name=f"user-{number}") for number in range(1200)]
    for policy in policies:
        Pipeline("read-many", policy).call(fail)
    used = values(readings, "resilience.fallback.calls")
    assert sum(used.values()) >= 1200
    assert len(used) <= 1001
    assert used[OTHER, "used"] >= 200


def test_retries_budgets_and_fallbacks(readings: Readings) -> None:
    """Attempts, retried and failed calls, the use of the budget, and what the fallback answered are read."""
    budget = RetryBudget("read-budget", minimum=1)
    retry, fallback = Retry(3, on=DependencyError, wait_initial=0, budget=budget), Fallback(0, on=DependencyError)
    pipeline = Pipeline("read-retry", fallback, retry)
    answers = iter([DependencyError, None])

    def flaky() -> None:
        if (error := next(answers)) is not None:
            raise error

    pipeline.call(flaky)
    pipeline.call(fail)
    refuse(Pipeline("read-other", retry), DependencyError)
    assert values(readings, "resilience.retry.attempts", retry.name) == {(): 5}
    assert values(readings, "resilience.retry.retried_calls", retry.name) == {(): 3}
    assert values(readings, "resilience.retry.failed_calls", retry.name) == {("exhausted",): 2}
    assert values(readings, "resilience.fallback.calls", fallback.name) == {("used",): 1}
    assert values(readings, "resilience.budget.limit", budget.name)[()] >= 1


def test_limits_are_counted_by_decision(readings: Readings) -> None:
    """Rate limits and limiters count what they allow and refuse; in shadow the refusals have a word of their own."""
    limit, shadow = RateLimit("2/hour"), RateLimit("2/hour", shadow=True)
    limited = Pipeline("read-limit", limit)
    for _ in range(2):
        limited.call(int)
    refuse(limited, RateLimitedError, 3)
    for _ in range(5):
        Pipeline("read-limit-shadow", shadow).call(int)
    bucket = TokenBucket("2/hour", name="read-bucket")
    for key in ("a", "a", "a", "b"):
        bucket.acquire(key)
    bucket.acquire("c", cost=3)
    decisions = "resilience.ratelimit.decisions"
    assert values(readings, decisions, limit.name) == {("allowed",): 2, ("refused",): 3}
    assert values(readings, decisions, shadow.name) == {("allowed",): 2, ("shadow",): 3}
    assert values(readings, decisions, "read-bucket") == {("allowed",): 3, ("refused",): 2}


def test_places_and_time(readings: Readings) -> None:
    """A bulkhead shows running calls, its limit and its refusals; a timeout the calls that had no time."""
    bulkhead, timeout = Bulkhead(1), Timeout(5)
    pipeline = Pipeline("read-places", bulkhead, timeout)

    def inside() -> None:
        running = values(readings, "resilience.bulkhead.calls", bulkhead.name)
        assert running == {("bulkhead", "running"): 1}
        refuse(pipeline, BulkheadFullError)

    pipeline.call(inside)
    with Deadline.after(0), pytest.raises(DeadlineExceededError):
        pipeline.call(int)
    assert values(readings, "resilience.bulkhead.limit", bulkhead.name) == {("bulkhead",): 1}
    assert values(readings, "resilience.bulkhead.refused", bulkhead.name) == {("bulkhead", "full"): 1}
    assert values(readings, "resilience.timeout.refused", timeout.name) == {("deadline",): 1}


def test_shared_and_kept_results(readings: Readings) -> None:
    """A cache counts hits and misses, a single flight the calls made, a hedge its calls."""
    cache, flight, hedge = Cache("60s"), SingleFlight(), Hedge(delay=5)
    pipeline = Pipeline("read-cache", cache, flight, hedge)
    guarded = pipeline(int)
    for number in (1, 2, 1, 1):
        guarded(number)
    assert values(readings, "resilience.cache.lookups", cache.name) == {("hit",): 2, ("miss",): 2}
    assert values(readings, "resilience.cache.size", cache.name) == {(): 2}
    assert values(readings, "resilience.singleflight.calls", flight.name) == {("made",): 2}


def test_the_process_itself(readings: Readings) -> None:
    """The lifecycle shows its state and requests, a check its verdict."""
    lifecycle, health = Lifecycle(), Health()
    health.add("read-check", lambda: False)
    before = values(readings, "resilience.lifecycle.requests").get((), 0)
    lifecycle.enter()
    assert values(readings, "resilience.lifecycle.requests")[()] == before + 1
    lifecycle.leave()
    assert values(readings, "resilience.health.checks", "read-check") == {("unknown",): 1}
    assert values(readings, "resilience.lifecycle.state")


def test_a_pool(readings: Readings) -> None:
    """A pool shows its connections by state, its limits, and the counts and times of uses, waits and closed ones."""
    pool: Pool[object] = Pool(connect=object, name="read-pool", maximum_pool_size=1, max_lifetime=None)
    with pool.connection():
        assert values(readings, "resilience.pool.connections", "read-pool") == {("used",): 1}
        with pytest.raises(PoolTimeoutError):
            pool.acquire(timeout=0)
    assert values(readings, "resilience.pool.connections", "read-pool") == {("idle",): 1}
    assert values(readings, "resilience.pool.limit", "read-pool") == {(): 1}
    assert values(readings, "resilience.pool.uses", "read-pool") == {(): 1}
    assert values(readings, "resilience.pool.timeouts", "read-pool") == {(): 1}
    assert values(readings, "resilience.pool.use_time", "read-pool")[()] > 0
    pool.close()
    assert sum(values(readings, "resilience.pool.closed", "read-pool").values()) == 1


async def test_an_async_pool(readings: Readings) -> None:
    """A pool of tasks has the same metrics."""

    async def connect() -> object:
        return object()

    pool = AsyncPool(connect=connect, name="read-async-pool", maximum_pool_size=2)
    async with pool.connection():
        assert values(readings, "resilience.pool.connections", "read-async-pool") == {("used",): 1}
    assert values(readings, "resilience.pool.opened", "read-async-pool") == {(): 1}
    await pool.aclose()


def test_a_scrape_waits_for_no_lock_of_a_call(readings: Readings) -> None:
    """While other threads hold the locks of a breaker, a budget and a bulkhead, all metrics are read."""
    breaker, budget = CircuitBreaker(), RetryBudget()
    bulkhead = Bulkhead(1, max_wait=1)
    Pipeline("read-locked", Retry(budget=budget), breaker, bulkhead).call(int)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with breaker._circuit.lock, budget._lock, bulkhead._admission._lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        scrape = threading.Thread(target=readings.collect)
        scrape.start()
        scrape.join(5)
        assert not scrape.is_alive()
    finally:
        done.set()
        thread.join()


def test_counts_are_exact_under_threads(readings: Readings) -> None:
    """Eight threads count every call once, while another one scrapes; no counter ever falls."""
    breaker, limit = CircuitBreaker(fail_max=10**6), RateLimit("1000000/second", burst=1000)
    pipeline = Pipeline("read-threads", limit, breaker)
    outcomes = [itertools.count() for _ in range(3)]
    is_over = threading.Event()
    seen: list[float] = []

    def call() -> None:
        for number in range(2000):
            try:
                pipeline.call(fail if number % 10 == 0 else succeed)
                next(outcomes[0])
            except DependencyError:
                next(outcomes[1])
            except RateLimitedError:
                next(outcomes[2])

    def scrape() -> None:
        while not is_over.is_set():
            seen.append(values(readings, "resilience.breaker.calls", breaker.name).get(("success",), 0))

    threads = [threading.Thread(target=call) for _ in range(8)]
    scraper = threading.Thread(target=scrape)
    for thread in (*threads, scraper):
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    scraper.join()
    success, failure, refused = (count_of(each) for each in outcomes)
    counted = values(readings, "resilience.breaker.calls", breaker.name)
    assert (counted[("success",)], counted[("failure",)]) == (success, failure)
    decisions = values(readings, "resilience.ratelimit.decisions", limit.name)
    assert (decisions[("allowed",)], decisions.get(("refused",), 0)) == (success + failure, refused)
    assert seen == sorted(seen)


def test_a_template_is_no_series(readings: Readings) -> None:
    """The policy that a keyed policy was checked by has no name and no call, and is not read."""
    keyed = Keyed(lambda _key: Bulkhead(3), key=str)
    assert values(readings, "resilience.bulkhead.limit", "bulkhead") == {}
    assert len(keyed) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_counts_its_own_calls(readings: Readings) -> None:
    """The counters of a child begin at zero, and count the calls of the child alone."""
    breaker, limit = CircuitBreaker(), RateLimit("100/second")
    pipeline = Pipeline("read-fork", breaker, limit)
    for _ in range(5):
        pipeline.call(int)
    assert values(readings, "resilience.breaker.calls", breaker.name) == {("success",): 5}
    pid = os.fork()
    if pid == 0:
        before = values(readings, "resilience.breaker.calls", breaker.name)
        pipeline.call(int)
        pipeline.call(int)
        calls = values(readings, "resilience.breaker.calls", breaker.name)
        decisions = values(readings, "resilience.ratelimit.decisions", limit.name)
        is_right = (before, calls, decisions) == ({}, {("success",): 2}, {("allowed",): 2})
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert values(readings, "resilience.breaker.calls", breaker.name) == {("success",): 5}


def test_a_test_begins_at_zero(readings: Readings) -> None:
    """`resilience.testing.reset` sets all counts to zero."""
    breaker, limit = CircuitBreaker(fail_max=1), RateLimit("100/second")
    pipeline = Pipeline("read-reset", breaker, limit)
    pipeline.call(int)
    refuse(pipeline, DependencyError)
    refuse(pipeline, CircuitOpenError)
    reset()
    assert values(readings, "resilience.breaker.calls", breaker.name) == {}
    assert values(readings, "resilience.breaker.transitions", breaker.name) == {}
    assert values(readings, "resilience.ratelimit.decisions", limit.name) == {}
