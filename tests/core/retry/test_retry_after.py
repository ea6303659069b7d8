import email.message
import urllib.error
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from resilience import AppError, Pipeline, Retry
from resilience._support.retry_after import asked_by, in_seconds
from resilience.testing import ManualClock

NOON = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def wall() -> float:
    return NOON


def refused(*headers: tuple[str, str]) -> httpx2.HTTPStatusError:
    request = httpx2.Request("GET", "http://x")
    response = httpx2.Response(503, headers=list(headers), request=request)
    return httpx2.HTTPStatusError("busy", request=request, response=response)


def slept(outcome: Any, **options: Any) -> list[float]:
    """Return the wait of a retry after `outcome`, which is raised or returned."""
    clock, outcomes = ManualClock(), iter([outcome, None])

    def act() -> Any:
        following = next(outcomes)
        if isinstance(following, Exception):
            raise following
        return following

    told = {"wait_jitter": "none", "on_result": lambda result: result is not None, **options}
    retry = Retry(clock=clock, randomness=lambda: 0.5, **told)
    Pipeline("p", retry, sleeper=clock).call(act)
    return clock.slept


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("1.5", 1.5),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30),
        ("Tue Nov 14 22:13:50 2023", 30),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("1e9", None),
        ("inf", None),
        ("9" * 13, None),
        ("9" * 100, None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None),
        ("120, 240", None),
    ],
)
def test_retry_after_is_read_from_a_header(text: str, asked: float | None) -> None:
    """A Retry-After header is read as seconds or as a date (RFC 9110); anything else says nothing."""
    assert asked_by(refused(("Retry-After", text)), wall) == asked


def test_a_date_is_counted_from_the_servers_own() -> None:
    """If the response has a `Date`, a wrong clock of the client changes nothing."""
    error = refused(("Retry-After", "Tue, 14 Nov 2023 22:13:50 GMT"), ("Date", "Tue, 14 Nov 2023 22:13:40 GMT"))
    assert asked_by(error, lambda: 0.0) == 10
    error = refused(("Retry-After", "Tue, 14 Nov 2023 22:13:50 GMT"), ("Date", "today"))
    assert asked_by(error, wall) == 30


def headers_of_urllib() -> urllib.error.HTTPError:
    headers = email.message.Message()
    headers["retry-after"] = "7"
    return urllib.error.HTTPError("http://x", 503, "busy", headers, None)


@pytest.mark.parametrize(
    "outcome",
    [
        AppError("BUSY", retryable=True, retry_after=7),
        SimpleNamespace(retry_after=timedelta(seconds=7)),
        SimpleNamespace(retry_after="7"),
        refused(("retry-after", "7")),
        refused(("retry-after", "7")).response,
        SimpleNamespace(response=SimpleNamespace(headers={"retry-after": "7"})),
        SimpleNamespace(retry_after=None, headers={"Retry-After": "7"}),
        headers_of_urllib(),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_wherever_it_was_said(outcome: Any) -> None:
    """Our errors, httpx, requests, aiohttp and urllib are understood, as errors and as results."""
    assert asked_by(outcome) == 7
    assert slept(outcome) == [7]


class Hostile(Exception):  # noqa: N818 - what a user might have
    @property
    def retry_after(self) -> float:
        raise RuntimeError("not now")

    @property
    def response(self) -> Any:
        class Headers:
            def get(self, _name: str) -> str:
                raise KeyError("never")

        return SimpleNamespace(headers=Headers())


@pytest.mark.parametrize(
    "outcome",
    [
        Hostile(),
        OSError(),
        SimpleNamespace(retry_after=True),
        SimpleNamespace(retry_after=float("nan")),
        SimpleNamespace(retry_after=[7], response=3, headers=[7]),
        SimpleNamespace(headers={"Retry-After": b"7"}),
        SimpleNamespace(headers={"Retry-After": 7}),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_what_says_nothing_asks_for_nothing(outcome: Any) -> None:
    """Whatever merely looks like a response, or raises when it is looked at, is no Retry-After."""
    assert asked_by(outcome) is None
    assert slept(outcome) == [0.1]


def test_a_herd_is_spread_upwards() -> None:
    """Clients sent away until one instant come back at different ones, none of them earlier (L8)."""
    error = AppError("BUSY", retryable=True, retry_after=30)
    assert slept(error, wait_jitter="full") == [31.5]  # a tenth, of which chance took half
    assert slept(error, wait_jitter="equal") == [31.5]
    assert slept(error, wait_jitter=1) == [30.5]
    assert slept(error, wait_jitter="none") == [30]


@pytest.mark.parametrize("asked", [-1, -0.001, timedelta(seconds=-1), float("-inf"), -(10**400)])
def test_pushback_ends_the_retry(asked: Any) -> None:
    """A server that asks for less than nothing wants no other attempt (gRPC A6, resilience4j)."""
    error = OSError("never")
    error.retry_after = asked  # type: ignore[attr-defined]  # as clients of all kinds do
    with pytest.raises(OSError, match="never"):
        slept(error)
    with pytest.raises(OSError, match="never"):
        slept(OSError("never"), retry_after=lambda _: asked)


@pytest.mark.parametrize(
    ("answer", "waited"), [(7, 7), (timedelta(seconds=7), 7), ("7", 7), (0, 0.1), (0.01, 0.1), (None, 20), ([], 20)]
)
def test_a_function_may_find_it(answer: Any, waited: float) -> None:
    """`retry_after=` reads any error or result; if it returns None, the usual places are read."""
    seen = []

    def find(outcome: Any) -> Any:
        seen.append(outcome)
        return answer

    error, result = AppError("BUSY", retryable=True, retry_after=20), SimpleNamespace(retry_after=20)
    assert slept(error, retry_after=find) == slept(result, retry_after=find) == [waited]
    assert seen == [error, result]


def test_a_floor_holds_for_every_wait() -> None:
    """A wait from a predicate or a tenacity strategy is not below the wait that the server asked for (L8)."""
    error = AppError("BUSY", retryable=True, retry_after=20)
    assert slept(error, on=(AppError, lambda _: 1.0)) == [20]
    assert slept(OSError(), on=lambda _: 3.0, retry_after=lambda _: 20) == [20]
    assert slept(OSError(), on=lambda _: 30.0, retry_after=lambda _: 20) == [30]
    assert slept(OSError(), wait=lambda _: 3.0, retry_after=lambda _: 20) == [20]


def test_the_cap_is_for_our_own_waits() -> None:
    """`wait_max` limits the backoff, never a wait that a server or a predicate asked for."""
    assert slept(OSError(), wait_initial=9, wait_max=2) == [2]
    assert slept(OSError(), wait_max=2, retry_after=lambda _: 20) == [20]
    assert slept(OSError(), wait_max=2, on=lambda _: 20.0) == [20]


def test_an_error_that_was_sent_to_us_is_understood() -> None:
    """Seconds are seconds however they were said."""
    assert in_seconds("2.5") == in_seconds(2.5) == in_seconds(timedelta(seconds=2.5)) == 2.5
    assert in_seconds(None) is None
    assert in_seconds(10**400) == float("inf")
