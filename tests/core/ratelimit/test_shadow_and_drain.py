from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience.errors import ConfigurationError, RateLimitedError
from resilience.pipeline import Pipeline
from resilience.ratelimit import MemoryStore, RateLimit, TokenBucket
from resilience.ratelimit.on_redis._store import RedisStore
from resilience.redis import RedisConnection
from resilience.testing import ManualClock, RecordingListener


class TooManyError(Exception):
    """The other side's refusal."""

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__()
        self.retry_after = retry_after


def test_shadow_refuses_nothing_and_tells_what_it_would() -> None:
    """In shadow every call passes, at once; the events and the count are those of the limit in force."""
    clock, told = ManualClock(), RecordingListener()
    shadow, real = (RateLimit("10/second", burst=2, shadow=on, clock=clock) for on in (True, False))
    pipeline = Pipeline("orders", shadow, sleeper=clock)
    shadow.events.subscribe(told)
    refused = 0
    for _ in range(20):
        assert pipeline.call(len, "") == 0
        try:
            real.admit()
        except RateLimitedError:
            refused += 1
        clock.advance(0.05)
    assert 0 < refused == shadow.rejected == real.rejected == len(told.events)
    assert told.events[0].kind == "ratelimit.rejected"
    assert told.events[0].facts == {"retry_after": pytest.approx(0.05), "rate": real.options.rate, "shadow": True}
    assert not clock.slept


def test_shadow_lets_no_call_wait() -> None:
    """In shadow no call waits for its turn; a call whose turn is too far off is reported."""
    clock, told = ManualClock(), RecordingListener()
    limit = RateLimit("10/second", burst=1, max_wait=0.2, shadow=True, clock=clock)
    limit.events.subscribe(told)
    pipeline = Pipeline("orders", limit, sleeper=clock)
    for _ in range(4):
        pipeline.call(len, "")
    assert asyncio.run(pipeline.acall(len, "")) == 0
    assert not clock.slept
    assert told.kinds == ["ratelimit.rejected"] * 2


def test_shadow_on_a_store_that_waits() -> None:
    """In shadow a shared limit refuses and delays no call either, in both colours."""
    connection = RedisConnection.from_url("redis://127.0.0.1:1/0", timeout="10ms", outage="deny")
    limit = RateLimit("10/second", shadow=True, store=RedisStore(connection))
    pipeline = Pipeline("orders", limit)
    assert pipeline.call(len, "") == 0
    assert asyncio.run(pipeline.acall(len, "")) == 0
    assert limit.rejected == 2


def test_bucket_in_shadow_says_yes_to_all() -> None:
    """A bucket in shadow answers yes, and emits an event for each call that it would have refused, in both colours."""
    clock, told = ManualClock(), RecordingListener()
    bucket = TokenBucket("1/second", name="uploads", shadow=True, clock=clock)
    bucket.events.subscribe(told)
    answers = [bucket.acquire("a"), bucket.acquire("a"), asyncio.run(bucket.aacquire("a")), bucket.acquire("b")]
    assert all(answers)
    assert [(event.kind, event.policy) for event in told.events] == [("ratelimit.rejected", "uploads")] * 2
    assert told.events[0].facts == {"retry_after": pytest.approx(1), "rate": "1/second", "shadow": True}
    assert answers[1].remaining == 0


def test_shadow_is_an_option_like_any_other() -> None:
    """A value that is not a boolean is refused by name."""
    with pytest.raises(ConfigurationError, match=r"^shadow="):
        RateLimit("1/second", shadow=1)  # type: ignore[arg-type]  # what the test is about
    with pytest.raises(ConfigurationError, match=r"^shadow="):
        TokenBucket("1/second", shadow="yes")  # type: ignore[arg-type]  # what the test is about
    assert repr(RateLimit("1/second", shadow=True)) == "<RateLimit 'ratelimit' 1/second shadow>"


def test_looking_takes_nothing() -> None:
    """A snapshot has the rate, the burst, the refusals and the remaining tokens, and takes no token."""
    clock = ManualClock()
    limit = RateLimit("10/second", burst=3, clock=clock)
    Pipeline("orders", limit)
    assert limit.snapshot() == {"rate": "10/second", "burst": 3, "remaining": 3, "rejected": 0}
    for _ in range(3):
        limit.admit()
        limit.snapshot()
    with pytest.raises(RateLimitedError):
        limit.admit()
    assert limit.snapshot() == {"rate": "10/second", "burst": 3, "remaining": 0, "rejected": 1}
    clock.advance(0.2)
    assert limit.snapshot()["remaining"] == 2
    bucket = TokenBucket("10/second", burst=3, clock=clock)
    bucket.acquire("a", 2)
    assert bucket.snapshot("a") == {"rate": "10/second", "burst": 3, "remaining": 1}
    assert bucket.snapshot("b")["remaining"] == 3


def test_a_bucket_elsewhere_is_not_asked() -> None:
    """A snapshot never goes to Redis: the number of remaining tokens is unknown."""
    store = RedisStore(RedisConnection.from_url("redis://127.0.0.1:1/0"))
    assert RateLimit("1/second", store=store).snapshot()["remaining"] is None
    assert TokenBucket("1/second", store=store).snapshot()["remaining"] is None


def test_a_policy_says_what_it_was_told() -> None:
    """The description holds every option by name, as plain data."""
    described = RateLimit("10/second", burst=3, shadow=True, name="search").describe()
    assert described["kind"] == "ratelimit"
    assert described["name"] == "search"
    assert described["options"] == {
        "rate": "10/second",
        "burst": 3,
        "max_wait": 0.0,
        "retry_after_max": 300.0,
        "shadow": True,
        "strategy": "token-bucket",
        "lease": None,
    }


def refusing(error: Exception) -> None:
    raise error


def test_too_many_there_means_too_many_here() -> None:
    """If the other side answers "too many", all tokens are taken and its `retry_after` is kept."""
    clock, told = ManualClock(), RecordingListener()
    limit = RateLimit("10/second", burst=5, drain_on=TooManyError, clock=clock)
    limit.events.subscribe(told)
    pipeline = Pipeline("orders", limit)
    with pytest.raises(TooManyError):
        pipeline.call(refusing, TooManyError(2.5))
    assert told.kinds == ["ratelimit.drained"]
    assert told.events[0].facts == {"retry_after": 2.5}
    with pytest.raises(RateLimitedError) as caught:
        pipeline.call(len, "")
    assert caught.value.retry_after == pytest.approx(2.5)
    clock.advance(2.5)
    assert pipeline.call(len, "") == 0


def test_draining_by_a_result_and_without_a_time() -> None:
    """A predicate gets results as well; without a `retry_after` the next token comes at its usual time."""
    clock = ManualClock()
    limit = RateLimit("10/second", burst=5, drain_on=lambda outcome: outcome == 429, clock=clock)
    pipeline = Pipeline("orders", limit)
    assert pipeline.call(int, "200") == 200
    assert limit.snapshot()["remaining"] == 4
    assert asyncio.run(pipeline.acall(int, "429")) == 429
    assert limit.snapshot()["remaining"] == 0
    clock.advance(0.1)
    assert pipeline.call(int, "200") == 200


def test_draining_by_an_error_whose_attributes_raise() -> None:
    """An error that cannot be asked for a time drains all the same, and reaches the caller."""

    class ApiError(Exception):
        def __getattr__(self, name: str) -> Any:
            return self.args[0][name]

    limit = RateLimit("10/second", burst=5, drain_on=ApiError, clock=ManualClock())
    with pytest.raises(ApiError):
        Pipeline("orders", limit).call(refusing, ApiError({}))
    assert limit.snapshot()["remaining"] == 0


def test_an_answer_that_has_to_be_awaited_drains_nothing() -> None:
    """A plain `drain_on` that hands back a coroutine is an error: no bucket is emptied by its word."""

    async def never(_: Any) -> bool:
        await asyncio.sleep(0)
        return False

    limit = RateLimit("10/second", burst=5, drain_on=lambda outcome: never(outcome), clock=ManualClock())  # type: ignore[arg-type]  # noqa: PLW0108 - wrong on purpose
    with pytest.raises(ConfigurationError, match="has to answer at once, but it returned an awaitable"):
        Pipeline("orders", limit).call(int)
    assert limit.snapshot()["remaining"] == 4


def test_refusals_of_ours_drain_nothing() -> None:
    """A refusal by an inner policy does not count as an answer of the other side (L4)."""
    limit = RateLimit("10/second", burst=5, drain_on=Exception, clock=ManualClock())
    with pytest.raises(RateLimitedError):
        Pipeline("orders", limit).call(refusing, RateLimitedError("no", retry_after=9.0))
    assert limit.snapshot()["remaining"] == 4


def test_an_empty_bucket_with_callers_in_line_stays_as_it_is() -> None:
    """Draining never brings a token nearer: callers that wait for their turn keep it."""
    clock, store = ManualClock(), MemoryStore()
    buckets = RateLimit("10/second", burst=1, drain_on=TooManyError, store=store, name="line", clock=clock)._buckets
    buckets.take("", 1, 5.0)
    for _ in range(3):
        buckets.take("", 1, 5.0)
    before = buckets.take().retry_after
    RateLimit("10/second", burst=1, drain_on=TooManyError, store=store, name="line", clock=clock).on_failure(
        None, TooManyError()
    )
    assert buckets.take().retry_after == before


@pytest.mark.parametrize("drain_on", [3, "429", asyncio.sleep])
def test_drain_on_that_is_no_predicate_is_refused(drain_on: object) -> None:
    """`drain_on` is an exception class or a plain function."""
    with pytest.raises(ConfigurationError, match=r"^drain_on="):
        RateLimit("1/second", drain_on=drain_on)  # type: ignore[arg-type]  # what the test is about


def test_buckets_elsewhere_cannot_be_drained() -> None:
    """A call that ends never waits for Redis: `drain_on` is refused there, at construction."""
    store = RedisStore(RedisConnection.from_url("redis://127.0.0.1:1/0"))
    with pytest.raises(ConfigurationError, match=r"drain_on=.*buckets in this process"):
        RateLimit("1/second", drain_on=TooManyError, store=store)
