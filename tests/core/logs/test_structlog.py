"""The processor in real chains of structlog."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from resilience.logs import ContextFilter, JsonFormatter, StructlogProcessor
from resilience.server import RequestContext

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def own_configuration() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    """Configure structlog with our processor, and return what it writes."""
    stream = io.StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            StructlogProcessor(service_name="orders"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    return stream


def fail(error: Exception) -> None:
    raise error


def only_line(out: io.StringIO) -> dict[str, Any]:
    assert out.getvalue().count("\n") == 1
    found: dict[str, Any] = json.loads(out.getvalue(), parse_constant=pytest.fail)
    return found


def test_an_event_has_the_fields_of_a_record(out: io.StringIO) -> None:
    """The line of structlog begins with the same fields as that of the formatter, and has the bound values."""
    with RequestContext("r-1", TRACE, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}):
        structlog.get_logger().bind(order="o-1").warning("paid\nFORGED", api_key="k", n=float("nan"), it=object())
    line = only_line(out)
    record = logging.makeLogRecord({"msg": "x", "levelname": "INFO"})
    assert list(line)[:11] == list(json.loads(JsonFormatter().format(record)))[:8] + list(line)[8:11]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"])
    expected = {
        "level": "warning", "logger": None, "event": "paid\nFORGED", "service_name": "orders", "request_id": "r-1",
        "trace_id": TRACE, "span_id": SPAN, "trace_sampled": True, "order": "o-1", "api_key": "***", "n": "nan",
    }  # fmt: skip
    assert {name: line[name] for name in expected} == expected


def test_values_of_the_chain_come_first(out: io.StringIO) -> None:
    """What processors before ours, or the caller, have added is kept: ids, time, level."""
    structlog.contextvars.bind_contextvars(request_id="r-2")
    try:
        structlog.get_logger().info("x", timestamp="2026-01-01T00:00:00Z", level="notice", duration_ms=3)
    finally:
        structlog.contextvars.clear_contextvars()
    line = only_line(out)
    assert [line[name] for name in ("request_id", "timestamp", "level", "duration_ms")] == [
        "r-2",
        "2026-01-01T00:00:00Z",
        "notice",
        3,
    ]


@pytest.mark.parametrize("given", [True, "error", "tuple"])
def test_an_exception_is_in_fields_of_its_own(out: io.StringIO, given: object) -> None:
    """`exc_info` in each of its forms gives the type and the traceback."""
    try:
        fail(ValueError("password=s3cret"))
    except ValueError as error:
        form = {"error": error, "tuple": sys.exc_info()}.get(str(given), given)
        structlog.get_logger().error("failed", exc_info=form)
    line = only_line(out)
    assert line["exception_type"] == "ValueError"
    assert line["exception"].endswith("ValueError: password=***")
    assert "exc_info" not in line


def test_the_method_exception_and_a_stack(out: io.StringIO) -> None:
    """`exception()` has the level error; `stack_info` gives the stack."""
    try:
        fail(ValueError())
    except ValueError:
        structlog.get_logger().exception("failed", stack_info=True)
    line = only_line(out)
    assert line["level"] == "error"
    assert "test_the_method_exception_and_a_stack" in line["stack"]


def test_events_through_stdlib_handlers() -> None:
    """A service that sends structlog through stdlib handlers gets the same line from the formatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(ContextFilter("orders"))
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("shop.structlog")
    log.addHandler(handler)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    with RequestContext("r-1"):
        structlog.get_logger("shop.structlog").warning("paid", order="o-1")
    log.removeHandler(handler)
    line = only_line(stream)
    assert [line[name] for name in ("event", "logger", "level", "order", "request_id", "service_name")] == [
        "paid",
        "shop.structlog",
        "warning",
        "o-1",
        "r-1",
        "orders",
    ]
