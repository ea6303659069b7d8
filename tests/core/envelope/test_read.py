import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.envelope import ErrorCatalog, envelope_of, http_envelope, read_envelope
from resilience.errors import AppError, RateLimitedError


@pytest.mark.parametrize("problem", [False, True])
def test_an_error_crosses_the_wire(problem: bool) -> None:  # noqa: FBT001 - a table's column
    """What one service raises, its client gets: the same code, message, details and facts, from either shape."""
    catalog = ErrorCatalog("orders")
    sold_out = catalog.define(
        "ORDERS_C001", "Sold out.", http_status=409, grpc_status="ALREADY_EXISTS", category="stock", retryable=True
    )
    sent = envelope_of(sold_out(details={"sku": 7}, retry_after=3.5), request_id="r")
    got = read_envelope(409, sent.render(problem)[0], {}, catalog=catalog)
    assert isinstance(got, AppError)
    assert (got.code, got.message, got.details, got.retry_after) == ("ORDERS_C001", "Sold out.", {"sku": 7}, 3.5)
    assert (got.http_status, got.grpc_status, got.category, got.retryable) == (409, "ALREADY_EXISTS", "stock", True)
    assert got.headers == {}


def test_without_the_catalogue_the_status_decides() -> None:
    """A client that does not know the code still knows what its status means."""
    got = read_envelope(503, {"code": "OTHER_U001", "message": "later"}, {})
    assert got is not None
    assert (got.grpc_status, got.category, got.retryable) == ("UNAVAILABLE", "unavailable", True)


def test_toolkit_errors_arrive_as_they_left() -> None:
    """Our own codes are in every catalogue, so breakers and retries can classify them."""
    sent = envelope_of(RateLimitedError("x", retry_after=2.5))
    got = read_envelope(429, sent.render()[0], sent.response_headers())
    assert got is not None
    assert (got.code, got.retryable, got.retry_after) == ("RATE_LIMITED", True, 2.5)
    assert str(got) == "Too many requests."


def test_a_code_under_another_status_is_read_by_its_status() -> None:
    """The status on the wire is believed, not the one our catalogue has for the code."""
    got = read_envelope(500, {"code": "RATE_LIMITED", "message": ""}, {})
    assert got is not None
    assert (got.http_status, got.grpc_status, got.retryable) == (500, "INTERNAL", False)
    assert str(got) == "RATE_LIMITED"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "7.5"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 -0000", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 99999999 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_the_header_says_when(headers: dict[str, str], expected: float | None) -> None:
    """Retry-After is read as seconds or as a date, and a date only against the server's own clock."""
    got = read_envelope(503, {"code": "X_1", "message": "m"}, headers)
    assert got is not None
    assert got.retry_after == expected


def test_the_body_is_more_precise_than_the_header() -> None:
    """The body's wait wins: the header is rounded up."""
    got = read_envelope(503, {"code": "X_1", "message": "m", "retry_after": 0.5}, {"Retry-After": "1"})
    assert got is not None
    assert got.retry_after == 0.5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"X"',
        b"[" * 100_000,
        b'{"code": "X_1"}',
        b'{"code": "x 1", "message": "m"}',
        b'{"code": 5, "message": "m"}',
        b'{"code": "X_1", "message": 5}',
        b'{"error": "m"}',
        b'{"code": "X_1", "message": "' + b"m" * 1_100_000 + b'"}',
        None,
        5,
        {"detail": "Not Found"},
    ],
)
def test_other_bodies_are_not_ours(body: Any) -> None:
    """A body that is not an envelope is None, whatever it is."""
    assert read_envelope(502, body, {}) is None


def test_a_success_is_no_error() -> None:
    """A 200 is no error, even if its body looks like one."""
    assert read_envelope(200, http_envelope(404).render()[0], {}) is None


DIGITS = "1" + "0" * 400
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(int(DIGITS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
DATES = st.builds(
    "Mon, {} Jan {} {}:00:00 {}".format,
    st.integers(-1, 99),
    st.sampled_from(["2024", "0", "9999", "99999999999999999999", "-1"]),
    st.sampled_from(["00", "24", "99999999999999999999"]),
    st.sampled_from(["GMT", "+0000", "+2400", "+99999999999999999999", "-99999999999999999999", ""]),
)
WAITS = st.one_of(DATES, st.text(max_size=30), st.sampled_from([DIGITS, "-1", "1e400", "nan", "٣"]))


@settings(max_examples=300, deadline=None)
@given(
    status=st.integers(),
    members=st.fixed_dictionaries(
        {"code": st.just("DB_TIMEOUT") | JSON, "message": st.text(max_size=20) | JSON},
        optional={"details": JSON, "request_id": JSON, "retry_after": JSON},
    ),
    headers=st.fixed_dictionaries({}, optional={"Retry-After": WAITS, "Date": WAITS, "X-Request-ID": WAITS}),
)
def test_never_raises(status: int, members: dict[str, object], headers: dict[str, str]) -> None:
    """Whatever the other side answers, it is an error that can be told, or none; a wait is one that can be waited."""
    for body in (members, json.dumps(members).encode()):
        error = read_envelope(status, body, headers)
        if error is not None:
            assert error.retry_after is None or 0 <= error.retry_after < 10**9
            assert isinstance(str(error), str)


@settings(max_examples=200, deadline=None)
@given(status=st.integers(400, 599), body=st.binary(max_size=200))
def test_no_bytes_raise(status: int, body: bytes) -> None:
    """Bytes that are no envelope are none."""
    assert read_envelope(status, body, {"Retry-After": "1"}) is None


def test_waits_of_absurd_length_are_none() -> None:
    """Numbers and dates that no clock can hold are not waited for, and hide nothing else of the error."""
    body = b'{"code":"DB_TIMEOUT","message":"m","retry_after":%s}' % DIGITS.encode()
    error = read_envelope(503, body, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"})
    assert error is not None
    assert (error.code, error.retry_after) == ("DB_TIMEOUT", None)
