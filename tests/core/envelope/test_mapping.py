"""HTTP status, gRPC status and category: every way from one to another."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from resilience import errors
from resilience.envelope import (
    ErrorCatalog,
    category_for,
    category_for_grpc,
    changes_since,
    envelope_of,
    grpc_status_for,
    http_status_for,
    is_retryable_grpc,
    lock_of,
    statuses_for,
)
from resilience.envelope._machine import CATEGORIES, GRPC_TO_HTTP, MEANINGS
from resilience.errors import AppError, ConfigurationError

RECOMMENDED = [
    ("validation", 422, "INVALID_ARGUMENT"),
    ("authentication", 401, "UNAUTHENTICATED"),
    ("permission", 403, "PERMISSION_DENIED"),
    ("not_found", 404, "NOT_FOUND"),
    ("conflict", 409, "ABORTED"),
    ("precondition", 412, "FAILED_PRECONDITION"),
    ("rate_limit", 429, "RESOURCE_EXHAUSTED"),
    ("cancelled", 499, "CANCELLED"),
    ("internal", 500, "INTERNAL"),
    ("dependency", 502, "UNAVAILABLE"),
    ("unavailable", 503, "UNAVAILABLE"),
    ("timeout", 504, "DEADLINE_EXCEEDED"),
]


@pytest.mark.parametrize(("category", "http", "grpc"), RECOMMENDED)
def test_category_and_statuses_agree(category: str, http: int, grpc: str) -> None:
    """A category leads to its two statuses, and the HTTP one leads back to it and to the gRPC one."""
    assert statuses_for(category) == (http, grpc)
    assert (category_for(http), grpc_status_for(http)) == (category, grpc)


def test_the_tables_are_complete() -> None:
    """Every HTTP status and every gRPC status has a category with statuses of its own, and there is no other."""
    used = {meaning.category for meaning in MEANINGS.values()} | {category_for_grpc(status) for status in GRPC_TO_HTTP}
    assert used == set(CATEGORIES)


@pytest.mark.parametrize(
    ("grpc", "http", "category", "retryable"),
    [
        ("CANCELLED", 499, "cancelled", False),
        ("UNKNOWN", 500, "internal", False),
        ("INVALID_ARGUMENT", 400, "validation", False),
        ("DEADLINE_EXCEEDED", 504, "timeout", True),
        ("NOT_FOUND", 404, "not_found", False),
        ("ALREADY_EXISTS", 409, "conflict", False),
        ("PERMISSION_DENIED", 403, "permission", False),
        ("RESOURCE_EXHAUSTED", 429, "rate_limit", True),
        ("FAILED_PRECONDITION", 400, "precondition", False),
        ("ABORTED", 409, "conflict", False),
        ("OUT_OF_RANGE", 400, "validation", False),
        ("UNIMPLEMENTED", 501, "internal", False),
        ("INTERNAL", 500, "internal", False),
        ("UNAVAILABLE", 503, "unavailable", True),
        ("DATA_LOSS", 500, "internal", False),
        ("UNAUTHENTICATED", 401, "authentication", False),
        ("NO_SUCH", 500, "internal", False),
    ],
)
def test_every_grpc_status_leads_on(grpc: str, http: int, category: str, retryable: bool) -> None:  # noqa: FBT001 - a table's column
    """google.rpc's sixteen statuses have an HTTP status, a category, and a word on trying again."""
    assert (http_status_for(grpc), category_for_grpc(grpc), is_retryable_grpc(grpc)) == (http, category, retryable)


@pytest.mark.parametrize(
    ("kind", "http", "grpc", "category"),
    [
        (errors.RateLimitedError, 429, "RESOURCE_EXHAUSTED", "rate_limit"),
        (errors.BulkheadFullError, 503, "RESOURCE_EXHAUSTED", "unavailable"),
        (errors.DrainingError, 503, "UNAVAILABLE", "unavailable"),
        (errors.DeadlineExceededError, 504, "DEADLINE_EXCEEDED", "timeout"),
        (errors.PoolTimeoutError, 503, "UNAVAILABLE", "unavailable"),
        (errors.StartupError, 500, "INTERNAL", "internal"),
    ],
)
def test_our_errors_mean_what_the_table_says(kind: Any, http: int, grpc: str, category: str) -> None:
    """A refusal, a missed deadline and a full pool have the statuses clients and proxies expect of them."""
    assert (kind.http_status, kind.grpc_status, kind.category) == (http, grpc, category)


@pytest.mark.parametrize(
    ("given", "http", "grpc", "category"),
    [
        ({"category": "not_found"}, 404, "NOT_FOUND", "not_found"),
        ({"grpc_status": "ALREADY_EXISTS"}, 409, "ALREADY_EXISTS", "conflict"),
        ({"grpc_status": "FAILED_PRECONDITION"}, 400, "FAILED_PRECONDITION", "precondition"),
        ({"http_status": 402}, 402, "FAILED_PRECONDITION", "precondition"),
        ({"http_status": 503, "category": "dependency"}, 503, "UNAVAILABLE", "dependency"),
        ({"grpc_status": "UNAVAILABLE", "category": "dependency"}, 503, "UNAVAILABLE", "dependency"),
        ({"category": "of_our_own"}, 500, "INTERNAL", "of_our_own"),
        ({}, 500, "INTERNAL", "internal"),
    ],
)
def test_one_of_three_is_enough(given: dict[str, Any], http: int, grpc: str, category: str) -> None:
    """A definition says one of HTTP status, gRPC status and category; the others follow, unless they are given too."""
    one = ErrorCatalog().define("X_1", "x", **given)
    assert (one.http_status, one.grpc_status, one.category) == (http, grpc, category)


@pytest.mark.parametrize("code", ["", "lower", "X Y", "X" * 64, None, 7, "X\r\n"])
def test_a_code_that_is_none_is_answered_as_internal(code: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An error whose code no client could rely on is a 500 with our fixed words, and the log says why."""
    with caplog.at_level(logging.ERROR, "resilience"):
        envelope = envelope_of(AppError(code, "hunter2", http_status=404), request_id="r")
    assert (envelope.http_status, envelope.code, envelope.request_id) == (500, "INTERNAL", "r")
    assert "hunter2" not in str(envelope.body())
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("http", "grpc", "expected"),
    [(200, "OK", (500, "INTERNAL")), ("404", "NOT_FOUND", (500, "INTERNAL")), (404, "OK", (404, "NOT_FOUND"))],
)
def test_a_status_that_is_none_is_logged(
    http: Any, grpc: str, expected: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    """An error with a status that is no error's is a 500 and keeps its code; the log says what was wrong."""
    with caplog.at_level(logging.ERROR, "resilience"):
        envelope = envelope_of(AppError("X_1", "m", http_status=http, grpc_status=grpc))
    assert (envelope.http_status, envelope.grpc_status) == expected
    assert envelope.code == "X_1"
    assert len(caplog.records) == 1
    assert "X_1" in caplog.records[0].getMessage()


def shop() -> ErrorCatalog:
    catalog = ErrorCatalog("shop")
    catalog.define("SHOP_V001", "Out of stock.", http_status=409)
    catalog.define("SHOP_V002", "Too many.", http_status=422, retryable=True)
    return catalog


def test_a_lock_holds_what_clients_rely_on() -> None:
    """A catalogue agrees with its own lock, which does not change with words, order or languages."""
    catalog = shop()
    lock = lock_of(catalog)
    assert changes_since(lock, catalog) == ([], [])
    other = ErrorCatalog("shop")
    other.define("SHOP_V002", "Less, please.", http_status=422, retryable=True, description="x")
    other.define("SHOP_V001", "Gone.", http_status=409, translations={"de": "Weg."})
    assert lock_of(other) == lock


def test_a_lock_tells_what_breaks_clients() -> None:
    """A code that is gone or means something else breaks clients, each fact told; a new one does not."""
    lock = lock_of(shop())
    changed = ErrorCatalog("shop")
    changed.define("SHOP_V002", "Too many.", http_status=429)
    changed.define("SHOP_V003", "New.", http_status=404)
    broken, added = changes_since(lock, changed)
    assert broken == [
        "SHOP_V001 is gone",
        "SHOP_V002: http_status was 422, is 429",
        "SHOP_V002: grpc_status was INVALID_ARGUMENT, is RESOURCE_EXHAUSTED",
        "SHOP_V002: category was validation, is rate_limit",
        "SHOP_V002: retryable was true, is false",
    ]
    assert added == ["SHOP_V003"]


@pytest.mark.parametrize(
    "lock",
    [
        "",
        "[]",
        "{",
        '{"version": 2, "codes": {}}',
        '{"version": 1, "codes": {"X_1": 3}}',
        lock_of(shop()).replace("422", '"422"'),
        lock_of(shop()).replace("true", "1"),
        lock_of(shop()).replace('"category"', '"kind"'),
    ],
)
def test_what_is_no_lock_is_refused(lock: str) -> None:
    """A file that is no lock is refused, and never taken for one without codes, or for one where a code means more."""
    with pytest.raises(ConfigurationError, match="lock file"):
        changes_since(lock, shop())
