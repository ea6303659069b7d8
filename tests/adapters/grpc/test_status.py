"""Errors as `google.rpc.Status`, and back."""

from __future__ import annotations

import datetime as dt
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import BadRequest, DebugInfo, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from resilience.envelope import Envelope, ErrorCatalog, envelope_of, validation_envelope
from resilience.errors import AppError, BulkheadFullError, DeadlineExceededError, RateLimitedError, ResilienceError
from resilience_grpc._status import DETAILS, error_from, error_of_call, number_of, short_message, status_of

catalog = ErrorCatalog("shop")
SOLD_OUT = catalog.define("SHOP_C001", "This is sold out.", http_status=409, retryable=True)


def there_and_back(error: Exception, **options: Any) -> AppError:
    status = Status.FromString(status_of(envelope_of(error), "shop").SerializeToString())
    back = error_from(status, **options)
    assert back is not None
    return back


def unpacked(status: Status, kind: Any) -> Any:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None


def test_an_error_crosses_grpc() -> None:
    """Code, message, details, wait, both statuses and the facts of the catalog arrive as they were raised."""
    details = {"order": 7, "price": 1.5, "lines": [{"sku": "a"}, None, True], "when": dt.date(2026, 1, 2)}
    error = SOLD_OUT(details=details, retry_after=1.5)
    back = there_and_back(error, catalog=catalog)
    assert (back.code, back.message, back.retry_after) == ("SHOP_C001", "This is sold out.", 1.5)
    assert (back.http_status, back.grpc_status, back.category) == (409, "ABORTED", "conflict")
    assert back.retryable
    assert back.details == {**details, "when": "2026-01-02"}


@pytest.mark.parametrize(
    "error",
    [
        AppError("SHOP_V001", "no", http_status=422, grpc_status="INVALID_ARGUMENT"),
        AppError("SHOP_N001", "no", http_status=404, grpc_status="NOT_FOUND"),
        RateLimitedError("internal", policy="server", retry_after=2),
        BulkheadFullError("internal"),
        DeadlineExceededError("internal"),
    ],
    ids=lambda error: str(error.code),
)
def test_statuses_of_both_worlds_survive(error: Any) -> None:
    """HTTP and gRPC status arrive unchanged, even if the mapping between them is not one to one."""
    back = there_and_back(error)
    assert (back.code, back.http_status, back.grpc_status) == (error.code, error.http_status, error.grpc_status)
    assert "internal" not in back.message


def test_what_a_status_holds() -> None:
    """A status has ErrorInfo with code and service, RetryInfo, RequestInfo, and BadRequest for wrong fields."""
    envelope = Envelope(
        code="SHOP_V001",
        message="no",
        details={"fields": [{"field": "items.0", "message": "missing", "type": "value_missing"}]},
        request_id="r1",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        retry_after=0.25,
        http_status=422,
        grpc_status="INVALID_ARGUMENT",
    )
    status = status_of(envelope, "shop")
    info = unpacked(status, ErrorInfo)
    assert (status.code, status.message, info.reason, info.domain) == (3, "no", "SHOP_V001", "shop")
    assert dict(info.metadata) == {"http_status": "422", "trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert unpacked(status, RetryInfo).retry_delay.ToMilliseconds() == 250
    assert unpacked(status, RequestInfo).request_id == "r1"
    (violation,) = unpacked(status, BadRequest).field_violations
    assert (violation.field, violation.description, violation.reason) == ("items.0", "missing", "VALUE_MISSING")
    back = error_from(status)
    assert back is not None
    assert back.details == dict(envelope.details)
    assert back.remote_request_id == "r1"


def test_a_status_stays_under_four_kibibytes() -> None:
    """Violations that do not fit are left out from the end and counted. The code, the wait and the id stay."""
    fields = [{"field": f"items.{n}", "message": "m" * 200, "type": "missing"} for n in range(100)]
    status = status_of(validation_envelope(fields, request_id="r1"), "shop")
    back = error_from(status)
    assert back is not None
    assert 3000 < status.ByteSize() <= 4096
    kept = back.details["fields"]
    assert kept == fields[: len(kept)]
    assert back.details["omitted"] == 100 - len(kept)
    assert unpacked(status, RequestInfo).request_id == "r1"


def test_free_details_go_first() -> None:
    """Details that are too large are left out whole, before any other part."""
    error = AppError("SHOP_I001", details={"dump": "x" * 5000}, retry_after=1)
    back = there_and_back(error)
    assert (back.details, back.retry_after) == ({}, 1)


def test_details_nested_too_deep_are_left_out() -> None:
    """Any details give a status."""
    nest: Any = "end"
    for _ in range(200):
        nest = {"in": nest}
    assert there_and_back(AppError("SHOP_I001", details={"nest": nest})).code == "SHOP_I001"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(details=st.dictionaries(st.text() | st.just("fields"), JSON, max_size=4), message=st.text(max_size=3000))
def test_every_error_has_a_small_status(details: dict[str, Any], message: str) -> None:
    """No message and no details make encoding or decoding fail, or a status too large."""
    status = status_of(envelope_of(AppError("SHOP_I001", message, details=details)), "shop")
    assert status.ByteSize() <= 4096
    back = error_from(status)
    assert back is not None
    assert back.code == "SHOP_I001"


@given(st.binary(max_size=300))
def test_foreign_bytes_are_no_error(data: bytes) -> None:
    """Trailing metadata of another author are an error of ours or none, and never an exception."""
    error = error_of_call(Failed(grpc.StatusCode.INTERNAL, data))
    assert error is None or isinstance(error, ResilienceError)


class Failed:
    def __init__(self, code: grpc.StatusCode, data: bytes | None) -> None:
        self._code = code
        self._trailers = None if data is None else (("other", "x"), (DETAILS, data))

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> Any:
        return self._trailers


def test_a_failed_call_is_read() -> None:
    """The error of a failed call is that in its trailing metadata. A status that contradicts the call's is ignored."""
    data = status_of(envelope_of(SOLD_OUT()), "shop").SerializeToString()
    error = error_of_call(Failed(grpc.StatusCode.ABORTED, data))
    assert error is not None
    assert error.code == "SHOP_C001"
    assert error_of_call(Failed(grpc.StatusCode.INTERNAL, data)) is None
    assert error_of_call(Failed(grpc.StatusCode.INTERNAL, b"\xff\xff")) is None
    assert error_of_call(Failed(grpc.StatusCode.INTERNAL, None)) is None


def test_foreign_statuses_are_none() -> None:
    """A status without a code, with a broken detail, or of success gives no error."""
    assert error_from(Status(code=13, message="x")) is None
    broken = Packed(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    assert error_from(Status(code=13, details=[broken])) is None
    packed = Packed()
    packed.Pack(ErrorInfo(reason="not a code", domain="d"))
    assert error_from(Status(code=13, details=[packed])) is None
    packed.Pack(ErrorInfo(reason="GOOD_CODE", domain="d"))
    assert error_from(Status(code=0, details=[packed])) is None
    assert error_from(Status(code=99, details=[packed])) is None
    other = Packed()
    other.Pack(DebugInfo(detail="stack"))
    back = error_from(Status(code=5, details=[other, packed]))
    assert back is not None
    assert (back.code, back.http_status) == ("GOOD_CODE", 404)


def test_a_stated_http_status_must_be_one() -> None:
    """A sender's HTTP status outside 400 to 599 makes the whole status no error of ours."""
    packed = Packed()
    packed.Pack(ErrorInfo(reason="GOOD_CODE", metadata={"http_status": "200"}))
    assert error_from(Status(code=5, details=[packed])) is None


def test_messages_are_cut_between_characters() -> None:
    """A message longer than 1 KiB is cut, and never inside a character."""
    assert short_message("short") == "short"
    assert short_message("é" * 600) == "é" * 512
    assert short_message("x" * 5000) == "x" * 1024


def test_unknown_status_names() -> None:
    """An unknown gRPC status is UNKNOWN."""
    assert (number_of("NOT_FOUND"), number_of("NOPE")) == (5, 2)
