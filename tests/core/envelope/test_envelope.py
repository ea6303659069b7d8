import copy
import dataclasses
import datetime as dt
import decimal
import enum
import json
import logging
import pickle
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker import CircuitOpenError
from resilience.envelope import (
    ENVELOPE_SCHEMA,
    PROBLEM_SCHEMA,
    Envelope,
    envelope_of,
    explicit_quality,
    http_envelope,
    validation_envelope,
    wants_problem,
)
from resilience.errors import (
    AppError,
    BulkheadFullError,
    ConfigurationError,
    DeadlineExceededError,
    DrainingError,
    PoolTimeoutError,
    RateLimitedError,
    ResilienceError,
)

SECRET = "dsn=postgres://root:hunter2@db"  # noqa: S105 - the point of the test is that it is nowhere


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        KeyboardInterrupt(SECRET),
        TimeoutError(SECRET),
        ExceptionGroup(SECRET, [AppError("X_1", SECRET), RuntimeError(SECRET)]),
    ],
)
def test_strangers_become_internal(error: BaseException) -> None:
    """Of an error that is not ours a client learns only that it happened, and the request's id (L16)."""
    envelope = envelope_of(error, request_id="r-1", trace_id="t-1")
    for problem in (False, True):
        body, _ = envelope.render(problem)
        assert SECRET.encode() not in body
    assert envelope.body() == {
        "code": "INTERNAL",
        "message": "The service could not handle the request.",
        "details": {},
        "request_id": "r-1",
        "trace_id": "t-1",
        "retry_after": None,
    }
    assert (envelope.http_status, envelope.grpc_status, envelope.response_headers()) == (500, "INTERNAL", {})


@pytest.mark.parametrize(
    ("error", "code", "status", "grpc"),
    [
        (RateLimitedError(SECRET, policy="p", retry_after=1.5), "RATE_LIMITED", 429, "RESOURCE_EXHAUSTED"),
        (BulkheadFullError(SECRET), "BULKHEAD_FULL", 503, "RESOURCE_EXHAUSTED"),
        (DrainingError(SECRET), "DRAINING", 503, "UNAVAILABLE"),
        (CircuitOpenError(SECRET), "CIRCUIT_OPEN", 503, "UNAVAILABLE"),
        (DeadlineExceededError(SECRET), "DEADLINE_EXCEEDED", 504, "DEADLINE_EXCEEDED"),
        (PoolTimeoutError(SECRET), "POOL_TIMEOUT", 503, "UNAVAILABLE"),
        (ConfigurationError(SECRET), "CONFIGURATION", 500, "INTERNAL"),
        (ResilienceError(SECRET), "RESILIENCE_ERROR", 500, "INTERNAL"),
    ],
)
def test_our_errors_say_their_fixed_sentence(error: ResilienceError, code: str, status: int, grpc: str) -> None:
    """Of our own errors the class's sentence leaves the process, never str(error) (L16)."""
    envelope = envelope_of(error)
    assert (envelope.code, envelope.http_status, envelope.grpc_status) == (code, status, grpc)
    assert envelope.message == error.public_message
    assert envelope.retry_after == error.retry_after
    assert SECRET.encode() not in envelope.render()[0]


def test_an_app_error_speaks_for_itself() -> None:
    """Message, details and headers of an AppError reach the client as they are."""
    error = AppError(
        "ORDERS_A001",
        "Log in.",
        details={"realm": "shop"},
        http_status=401,
        grpc_status="UNAUTHENTICATED",
        headers={"WWW-Authenticate": "Bearer"},
    )
    envelope = envelope_of(error)
    assert (envelope.code, envelope.message, envelope.details) == ("ORDERS_A001", "Log in.", {"realm": "shop"})
    assert envelope.response_headers() == {"WWW-Authenticate": "Bearer"}
    assert dataclasses.is_dataclass(envelope)
    with pytest.raises(dataclasses.FrozenInstanceError):
        envelope.code = "OTHER"  # type: ignore[misc]  # that it is refused is the law


@pytest.mark.parametrize(("status", "grpc"), [(200, "x"), ("404", "x"), (True, "INTERNAL"), (1000, "OK"), (None, "")])
def test_a_bad_status_becomes_internal(status: Any, grpc: str) -> None:
    """An error with an impossible status is still answered: as a 500."""
    envelope = envelope_of(AppError("X_1", "m", http_status=status, grpc_status=grpc))
    assert (envelope.http_status, envelope.grpc_status) == (500, "INTERNAL")


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf"), -float("inf"), 1e300, True, "5"])
def test_an_impossible_wait_is_unknown(wait: Any) -> None:
    """Nobody is told to come back at a time that does not exist."""
    envelope = envelope_of(AppError("X_1", "m", http_status=503, retry_after=wait))
    assert envelope.retry_after is None
    assert "Retry-After" not in envelope.response_headers()


@pytest.mark.parametrize(
    ("status", "wait", "line"),
    [(429, 0.001, "1"), (503, 1.0, "1"), (503, 1.2, "2"), (429, 0.0, "0"), (504, 2.0, None), (429, None, None)],
)
def test_retry_after_is_rounded_up(status: int, wait: float | None, line: str | None) -> None:
    """Retry-After is whole seconds, never earlier than known, on 429 and 503 only."""
    envelope = Envelope(http_status=status, retry_after=wait)
    assert envelope.response_headers().get("Retry-After") == line


@given(st.floats(0, 1e6))
def test_retry_after_is_never_early(wait: float) -> None:
    """Who obeys the header is never refused again for being early."""
    line = int(Envelope(http_status=429, retry_after=wait).response_headers()["Retry-After"])
    assert wait <= line
    assert line == 0 or line - 1 < wait


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nSet-Cookie: x"),
        ("X-A", "a\nb"),
        ("X-A\r\nX-B", "a"),
        ("X A", "a"),
        ("", "a"),
        ("X-A", "snow\u2603"),
        ("X-A", "nul\0"),
        ("X-A", 3),
        (3, "a"),
    ],
)
def test_no_header_starts_a_new_line(name: Any, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A header that is not one line of HTTP is dropped and logged, and the error is still answered."""
    with caplog.at_level(logging.WARNING, "resilience"):
        headers = envelope_of(AppError("X_1", "m", headers={name: value, "Allow": "GET"})).response_headers()
    assert headers == {"Allow": "GET"}
    assert "dropped" in caplog.text


def test_the_body_describes_itself() -> None:
    """An error cannot contradict the length and type of the body we render, nor the wait we state."""
    own = {"Content-Length": "3", "content-type": "text/html", "Transfer-Encoding": "x", "retry-after": "9"}
    envelope = envelope_of(AppError("X_1", "m", http_status=503, headers=own, retry_after=2))
    assert envelope.response_headers() == {"Retry-After": "2"}


class Colour(enum.Enum):
    RED = "red"


class Order:
    def __repr__(self) -> str:
        return SECRET


class Hostile(dict[str, Any]):
    """Whatever one asks it for, it raises."""

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)

    __iter__ = keys = items = __len__ = __str__ = __hash__ = __repr__  # type: ignore[assignment]  # that it raises is the point


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.time(1, 2), "01:02:00"),
        (dt.timedelta(seconds=1.5), 1.5),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        ({3, 1}, [1, 3]),
        ((1, 2), [1, 2]),
        (b"x", "<bytes>"),
        (Order(), "<Order>"),
        (ValueError(SECRET), "<ValueError>"),
        ("\ud800", "\ud800"),
        (float("nan"), None),
        ([float("inf"), Order(), Colour.RED, dt.date(2026, 1, 2)], [None, "<Order>", "red", "2026-01-02"]),
        ({(1, 2): 1, Colour.RED: 2}, {"<tuple>": 1, "red": 2}),
        ({"x": float("nan"), "s": {1}}, {"x": None, "s": [1]}),
        ([10**5000], ["<int>"]),
        ([Hostile(a=1), 1], ["<Hostile>", 1]),
    ],
)
def test_odd_details_are_rendered(value: object, expected: object) -> None:
    """Every value in details has a JSON form; of a type we do not know only the name is shown (L16)."""
    body, content_type = Envelope(details={"v": value}).render()
    assert content_type == "application/json"
    assert json.loads(body, parse_constant=pytest.fail)["details"] == {"v": expected}


def test_a_cycle_ends() -> None:
    """Details that contain themselves are cut, not an exception while answering an exception."""
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    assert b"..." in Envelope(details=cycle).render()[0]


@pytest.mark.parametrize("details", [None, 7, "text", [1, 2], Hostile(a=1)])
def test_details_that_are_no_mapping_are_left_out(details: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An error whose details or headers somebody set to what is no mapping keeps its code; the log says why."""
    error = AppError("SHOP_C001", "Sold out.", http_status=409, retry_after=2)
    error.details = error.headers = details
    envelope = envelope_of(error)
    assert (envelope.code, envelope.http_status, envelope.retry_after) == ("SHOP_C001", 409, 2)
    assert (envelope.details, envelope.headers) == ({}, {})
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["details", "headers"]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_like), st.text(st.characters(codec=None)))
def test_render_never_raises(details: dict[str, Any], message: str) -> None:
    """Whatever an error holds, both bodies are strict JSON."""
    envelope = Envelope(details=details, message=message, request_id="x")
    for problem in (False, True):
        json.loads(envelope.render(problem)[0], parse_constant=pytest.fail)


def test_problem_document() -> None:
    """A problem has RFC 9457's members, and ours as extensions; the wait only when known."""
    envelope = Envelope(code="X_1", message="m", http_status=404, request_id="r/1", trace_id="t", details={"a": 1})
    assert envelope.problem() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "m",
        "instance": "#r%2F1",
        "code": "X_1",
        "details": {"a": 1},
        "request_id": "r/1",
        "trace_id": "t",
    }
    assert envelope.render(problem=True)[1] == "application/problem+json"
    waiting = dataclasses.replace(envelope, retry_after=2.0, request_id="")
    assert waiting.problem()["retry_after"] == 2.0
    assert "instance" not in waiting.problem()
    unique = "0" * 31 + "1"
    assert dataclasses.replace(envelope, request_id=unique).problem()["instance"].startswith("urn:uuid:0000")


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://e.example/errors", "https://e.example/errors/X_1"),
        ("https://e.example/errors/", "https://e.example/errors/X_1"),
        ("https://e.example/errors#", "https://e.example/errors#X_1"),
        ("urn:errors:", "urn:errors:X_1"),
        ("about:blank", "about:blank"),
    ],
)
def test_problem_type(base: str, expected: str) -> None:
    """The problem's type is the base followed by the code."""
    assert Envelope(code="X_1").problem(base)["type"] == expected


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "BAD_REQUEST"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (405, "METHOD_NOT_ALLOWED"),
        (409, "CONFLICT"),
        (413, "PAYLOAD_TOO_LARGE"),
        (415, "UNSUPPORTED_MEDIA_TYPE"),
        (418, "HTTP_418"),
        (422, "VALIDATION_FAILED"),
        (429, "RATE_LIMITED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
        (555, "HTTP_555"),
        (302, "INTERNAL"),
    ],
)
def test_framework_errors_have_codes(status: int, code: str) -> None:
    """Every HTTP error has a code, by its status."""
    envelope = http_envelope(status)
    assert envelope.code == code
    assert envelope.message


@pytest.mark.parametrize("status", [404, 500, 503])
def test_framework_errors_keep_the_text_of_the_application(status: int) -> None:
    """The application has chosen message and details of an HTTP error for its client, on every status."""
    said = http_envelope(status, message="No order 7.", details={"order": 7}, request_id="r", trace_id="t")
    assert (said.message, said.details, said.request_id, said.trace_id) == ("No order 7.", {"order": 7}, "r", "t")
    assert http_envelope(status, message="").message == http_envelope(status).message


@pytest.mark.parametrize(("value", "expected"), [("30", 30.0), ("soon", None), ("²", None), ("9" * 40, None)])
def test_a_framework_errors_wait_is_read(value: str, expected: float | None) -> None:
    """A Retry-After the application set is in the body too."""
    assert http_envelope(503, headers={"retry-after": value}).retry_after == expected


def test_validation_lists_fields_and_never_inputs() -> None:
    """A 422 names each field and what is wrong with it; the input stays out, and the list is bounded."""
    one = {"field": "body.age", "message": "too small", "type": "greater_than", "input": SECRET, "ctx": {"e": SECRET}}
    envelope = validation_envelope([one], request_id="r", trace_id="t")
    assert (envelope.http_status, envelope.code, envelope.request_id) == (422, "VALIDATION_FAILED", "r")
    assert envelope.details == {"fields": [{"field": "body.age", "message": "too small", "type": "greater_than"}]}
    many = validation_envelope([{"field": str(n), "message": "m" * 1000} for n in range(150)])
    assert len(many.details["fields"]) == 100
    assert many.details["omitted"] == 50
    assert len(many.details["fields"][0]["message"]) == 300


def test_an_app_error_survives_copies() -> None:
    """Pickling and copying keep every fact, as a process pool or a task queue needs."""
    error = AppError(
        "X_1", "m", details={"a": [1]}, http_status=404, grpc_status="NOT_FOUND", category="c", retryable=True,
        retry_after=1.0, headers={"Allow": "GET"},
    )  # fmt: skip
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), copy.copy(error)):
        assert (type(twin), twin.args, vars(twin)) == (AppError, error.args, vars(error))
        assert envelope_of(twin) == envelope_of(error)
    assert copy.deepcopy(error).details is not error.details


@pytest.mark.parametrize(
    ("accept", "default", "expected"),
    [
        (None, False, False),
        (None, True, True),
        ("", True, True),
        ("*/*", True, True),
        ("*/*", False, False),
        ("application/*", True, True),
        ("application/problem+json", False, True),
        ("Application/Problem+JSON;q=0.5", False, True),
        ("application/json", True, False),
        ("application/problem+json;q=0.9, application/json", True, False),
        ("application/json;q=0.5,application/problem+json;q=0.9", False, True),
        ("application/json, application/problem+json", True, True),
        ("application/json, application/problem+json", False, False),
        ("application/problem+json;q=0", True, False),
        ("application/json;q=0", False, True),
        ("application/problem+json;q=abc", True, False),
        ("application/problem+json;q=7", True, False),
        ("application/problem+json; charset=utf-8; q=1", False, True),
        ("text/html,,;q=1", True, True),
        ("application/problem+jsonx", False, False),
        ("application/json;q=nan", False, True),
    ],
)
def test_wants_problem(accept: str | None, default: bool, expected: bool) -> None:  # noqa: FBT001 - a table's columns
    """The client's weights decide between the two shapes; where it does not say, the default does."""
    assert wants_problem(accept, default) is expected


@given(st.text(max_size=200))
def test_any_accept_header_is_survived(accept: str) -> None:
    """A header is the client's to choose; parsing it never raises."""
    assert wants_problem(accept, default=True) in {True, False}
    quality = explicit_quality(accept, "application/json")
    assert quality is None or 0 <= quality <= 1


def test_schemas_describe_the_bodies() -> None:
    """The schemas name exactly the members that are rendered."""
    envelope = Envelope(retry_after=1.0, request_id="r")
    assert set(envelope.body()) == set(ENVELOPE_SCHEMA["required"]) == set(ENVELOPE_SCHEMA["properties"])
    assert set(envelope.problem()) == set(PROBLEM_SCHEMA["properties"])
    assert set(PROBLEM_SCHEMA["required"]) <= set(Envelope().problem())
