"""A server's word has a bound: no `Retry-After`, however long, keeps a circuit, a bucket or a caller for a year."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from resilience import (
    AppError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Resilience,
    Retry,
)
from resilience._support.retry_after import RETRY_AFTER_MAX, asked_by
from resilience.envelope import envelope_of, http_envelope, read_envelope
from resilience.testing import ManualClock

EPOCH = 1_796_022_264
"""What one bad node sent as `Retry-After`: the moment in place of the seconds."""
FAR = "Fri, 31 Dec 9999 23:59:59 GMT"


class BusyError(Exception):
    def __init__(self, retry_after: Any = None, header: str | None = None) -> None:
        super().__init__("busy")
        self.retry_after = retry_after
        self.headers = {} if header is None else {"Retry-After": header}


LONG: list[Callable[[], Exception]] = [
    lambda: BusyError(EPOCH),
    lambda: BusyError(float(EPOCH)),
    lambda: BusyError(str(EPOCH)),
    lambda: BusyError(10**5000),
    lambda: BusyError(math.inf),
    lambda: BusyError(FAR),
]
NONSENSE: list[Callable[[], Exception]] = [
    lambda: BusyError(math.nan),
    lambda: BusyError("9" * 5000),
    lambda: BusyError("1e9"),
    lambda: BusyError(True),
]
HEADERS = [str(EPOCH), FAR]


def call(pipeline: Pipeline, error: Exception, colour: str) -> None:
    def fail() -> None:
        raise error

    async def afail() -> None:
        raise error

    if colour == "sync":
        pipeline.call(fail)
    else:
        asyncio.run(pipeline.acall(afail))


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("make", LONG)
@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ({}, RETRY_AFTER_MAX),
        ({"reset_timeout_max": "10m"}, 600.0),
        ({"retry_after_max": "2m"}, 120.0),
        ({"retry_after_max": "2m", "reset_timeout_max": "10m"}, 120.0),
        ({"reset_timeout": "30m"}, 1800.0),
    ],
)
def test_a_circuit_opens_for_minutes(
    make: Callable[[], Exception], options: dict[str, Any], longest: float, colour: str
) -> None:
    """The open time is at most `reset_timeout_max` if set, else `retry_after_max`, else five minutes."""
    clock, chance = ManualClock(), 0.5
    given = {"reset_timeout": 10, "reset_timeout_jitter": 0.2, **options}
    breaker = CircuitBreaker(1, clock=clock, randomness=lambda: chance, **given)
    with pytest.raises(BusyError):
        call(Pipeline("p", breaker), make(), colour)
    assert breaker.retry_after == pytest.approx(longest * 0.9)
    with pytest.raises(CircuitOpenError) as refused:
        call(Pipeline("p", breaker), make(), colour)
    assert envelope_of(refused.value).response_headers()["Retry-After"] == str(math.ceil(longest * 0.9))


@pytest.mark.parametrize("make", NONSENSE)
def test_nonsense_asks_for_nothing(make: Callable[[], Exception]) -> None:
    """What is no length of time leaves the open time, and the caller's error, as they are."""
    breaker = CircuitBreaker(1, 10, reset_timeout_jitter=0, clock=ManualClock())
    limit = RateLimit("1/second", drain_on=BusyError, clock=ManualClock())
    with pytest.raises(BusyError):
        call(Pipeline("p", breaker, limit), make(), "sync")
    assert breaker.retry_after == 10
    with pytest.raises(RateLimitedError) as refused:
        limit.admit()
    assert refused.value.retry_after == pytest.approx(1.0)


def test_a_bound_of_the_server_lies_within_that_of_growth() -> None:
    """`retry_after_max` above `reset_timeout_max` is refused: the longest open time would not be the longest."""
    with pytest.raises(
        ConfigurationError, match=r"retry_after_max=600.0: expected at most reset_timeout_max \(300 s\)"
    ):
        CircuitBreaker(retry_after_max="10m", reset_timeout_max="5m")


def test_a_word_within_the_bound_is_kept_to_the_second() -> None:
    """A time below the bound is never shortened, and jittered upward up to the bound."""
    for asked, longest in ((200, 220.0), (290, 300.0)):
        breaker = CircuitBreaker(1, 10, clock=ManualClock(), randomness=lambda: 0.999999)
        with pytest.raises(BusyError):
            call(Pipeline("p", breaker), BusyError(asked), "sync")
        assert asked <= (breaker.retry_after or 0) <= longest


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("make", LONG)
@pytest.mark.parametrize("options", [{}, {"retry_after_max": "2m"}, {"timeout": "1m"}])
def test_a_retry_gives_up_in_place_of_sleeping_for_years(
    make: Callable[[], Exception], options: dict[str, Any], colour: str
) -> None:
    """A wait beyond the bound is not begun: the caller gets its own error at once."""
    clock, reasons = ManualClock(), list[str]()
    retry = Retry(on=BusyError, clock=clock, **options)
    retry.events.subscribe(lambda event: reasons.append(event.facts["reason"]))
    with pytest.raises(BusyError):
        call(Pipeline("p", retry, sleeper=clock), make(), colour)
    assert clock.slept == []
    assert reasons == ["timeout" if "timeout" in options else "wait"]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_is_bounded_as_an_attribute_is(header: str) -> None:
    """The header of a result, or of an error, is bounded in the breaker, the retry and the drained bucket."""
    clock = ManualClock()
    breaker = CircuitBreaker(1, 10, retry_after=asked_by, reset_timeout_jitter=0, clock=clock)
    limit = RateLimit("100/second", drain_on=BusyError, retry_after_max="90s", clock=clock)
    pipeline = Pipeline("p", Retry(on=BusyError, clock=clock), breaker, limit, sleeper=clock)
    with pytest.raises(BusyError):
        call(pipeline, BusyError(header=header), "sync")
    assert clock.slept == []
    assert breaker.retry_after == 300.0
    with pytest.raises(RateLimitedError) as refused:
        limit.admit()
    assert refused.value.retry_after == pytest.approx(90.0)


@pytest.mark.parametrize("make", LONG)
def test_a_drained_bucket_fills_within_minutes(make: Callable[[], Exception]) -> None:
    """`drain_on` keeps a bucket empty for five minutes at most, and never replaces the caller's error."""
    clock = ManualClock()
    limit = RateLimit("10/second", drain_on=BusyError, clock=clock)
    with pytest.raises(BusyError):
        call(Pipeline("p", limit), make(), "sync")
    clock.advance(299)
    with pytest.raises(RateLimitedError):
        limit.admit()
    clock.advance(1.1)
    limit.admit()


def test_a_patient_retry_may_wait_longer() -> None:
    """`retry_after_max` in code, and a `timeout`, allow longer waits than five minutes."""
    for options in ({"retry_after_max": "1h"}, {"timeout": "2h"}):
        clock = ManualClock()
        retry = Retry(attempts=2, on=BusyError, wait_jitter="none", clock=clock, **options)  # type: ignore[arg-type]  # one of two options
        with pytest.raises(BusyError):
            call(Pipeline("p", retry, sleeper=clock), BusyError(1800), "sync")
        assert clock.slept == [1800]


def test_the_bounds_are_configured_by_variables() -> None:
    """Each bound has a variable of its own."""
    names = ("BREAKER", "RETRY", "RATE_LIMIT")
    variables = {f"RESILIENCE_PIPELINE__P__{name}__RETRY_AFTER_MAX": "2m" for name in names}
    rate = {"RESILIENCE_PIPELINE__P__RATE_LIMIT__RATE": "1/second", "RESILIENCE_SERVER__RETRY_AFTER_MAX": "3m"}
    toolkit = Resilience.from_env({**variables, **rate, "RESILIENCE_PIPELINE__P__RETRY__ATTEMPTS": "2"})
    described = toolkit.pipeline("p").describe()["policies"]
    bounds = {each["kind"]: each["options"]["retry_after_max"] for each in described}
    assert bounds == {"breaker": 120.0, "retry": 120.0, "ratelimit": 120.0}
    assert toolkit.config.server.retry_after_max == 180.0


@pytest.mark.parametrize("retry_after", [31_536_000, 301.5])
def test_the_wait_of_another_service_is_cut_where_it_is_handed_on(retry_after: float) -> None:
    """A remote error keeps what it was told, for policies; the answer made of it says at most the bound."""
    said, _ = envelope_of(AppError("BUSY_001", http_status=503, retry_after=retry_after)).render()
    error = read_envelope(503, said, {})
    assert error is not None
    assert error.retry_after == retry_after
    assert envelope_of(error).bounded(300.0).response_headers()["Retry-After"] == "300"
    group = ExceptionGroup("g", [error, RateLimitedError("own", retry_after=5.0)])
    assert envelope_of(group).bounded(300.0).retry_after == 300.0


def test_equal_waits_of_a_group_are_no_fault() -> None:
    """Errors that ask for the same wait may know, or not, whether another service said so."""

    class HintedAppError(AppError):
        is_remote = None  # type: ignore[assignment]  # what an error that says nothing about it answers

    errors = [RateLimitedError("own", retry_after=5.0), HintedAppError("X_1", http_status=429, retry_after=5.0)]
    assert envelope_of(ExceptionGroup("g", errors)).retry_after == 5.0


def test_the_wait_of_this_service_is_its_own() -> None:
    """A limit of its own per day, or an error of the application, says how long in full."""
    for error in (RateLimitedError("own", retry_after=80_000.0), AppError("X_1", http_status=503, retry_after=80_000)):
        assert envelope_of(error).bounded(300.0).retry_after == 80_000.0


@pytest.mark.parametrize("text", ["9" * 5000, "٣", "-1", "inf", "nan", ""])
def test_unreadable_headers_raise_nothing(text: str) -> None:
    """Digits without end, foreign digits and words are no time, on the way in and on the way out."""
    assert asked_by(BusyError(header=text)) is None
    assert asked_by(httpx2.Response(503, headers=[(b"Retry-After", text.encode())])) is None
    assert http_envelope(503, headers={"Retry-After": text}).retry_after is None
    body = b'{"code": "X_1", "message": "m"}'
    error = read_envelope(503, body, {"Retry-After": text})
    assert error is not None
    assert error.retry_after is None
