import json
from typing import Any

import pytest
from hypothesis import given
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


@given(
    st.integers(),
    st.binary()
    | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(
        lambda value: json.dumps({"code": "X_1", "message": "m", "details": value, "retry_after": value}).encode()
    ),
)
def test_garbage_is_survived(status: int, body: bytes) -> None:
    """Whatever a remote service sends, reading it never raises and never yields an impossible wait."""
    got = read_envelope(status, body, {})
    assert got is None or got.retry_after is None or got.retry_after >= 0
