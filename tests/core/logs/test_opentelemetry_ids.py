"""With OpenTelemetry, a line has the ids of the open span."""

from __future__ import annotations

import json
import logging

import pytest

from resilience.logs import ContextFilter, JsonFormatter
from resilience.server import RequestContext

otel_context = pytest.importorskip("opentelemetry.context")  # not among the oldest dependencies
trace = pytest.importorskip("opentelemetry.trace")
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


def line() -> dict[str, object]:
    record = logging.makeLogRecord({"msg": "x", "levelname": "INFO"})
    ContextFilter().filter(record)
    found: dict[str, object] = json.loads(JsonFormatter().format(record))
    return found


@pytest.mark.parametrize(("flags", "is_sampled"), [(0, False), (1, True), (2, False), (3, True)])
def test_the_span_in_force_is_named(flags: int, *, is_sampled: bool) -> None:
    """Trace and span have 32 and 16 digits, with leading zeros; bit 0 of the flags says whether it is recorded."""
    span = trace.NonRecordingSpan(trace.SpanContext(TRACE, 0x1, False, trace.TraceFlags(flags)))
    token = otel_context.attach(trace.set_span_in_context(span))
    with RequestContext("r-1", "f" * 32):
        found = line()
    otel_context.detach(token)
    assert [found[name] for name in ("request_id", "trace_id", "span_id", "trace_sampled")] == [
        "r-1",
        f"{TRACE:032x}",
        "0000000000000001",
        is_sampled,
    ]


def test_without_a_span_the_request_is_named() -> None:
    """OpenTelemetry that is imported, but has no open span, leaves the trace of the request in place."""
    headers = {"traceparent": f"00-{TRACE:032x}-{SPAN:016x}-01"}
    with RequestContext("r-1", f"{TRACE:032x}", headers=headers):
        found = line()
    assert (found["trace_id"], found["span_id"]) == (f"{TRACE:032x}", f"{SPAN:016x}")
    assert line()["trace_id"] is None
