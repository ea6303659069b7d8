"""One line for each RPC that a service has answered, if the setting asks for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from resilience.logs import ContextFilter

SETTINGS = {"LOG__REQUESTS": "true"}


@pytest.fixture
def records() -> Iterator[list[Any]]:
    found: list[Any] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    log, handler = logging.getLogger("resilience.requests"), Keeping()
    handler.addFilter(ContextFilter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def line_of(records: list[Any]) -> Any:
    patience = time.monotonic() + 5  # the server writes it after the client has the answer
    while not records and time.monotonic() < patience:
        time.sleep(0.005)
    (record,) = records
    return record


@pytest.mark.parametrize(
    ("text", "status"), [("ok", "OK"), ("app", "ABORTED"), ("crash", "INTERNAL"), ("abort", "FAILED_PRECONDITION")]
)
def test_each_end_has_a_line(serve: Any, stack: str, kind: str, records: list[Any], text: str, status: str) -> None:
    """A line has the method, the status that the client got, the duration, the client and the ids."""
    shop = serve(stack, SETTINGS)
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("x-request-id", "r-1"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    if status == "OK":
        shop.call(kind, text, metadata=metadata)
    else:
        assert shop.failure(kind, text, metadata=metadata).code().name == status
    record = line_of(records)
    assert (record.grpc_method, record.grpc_status) == (f"/shop.Orders/{kind}", status)
    assert (record.request_id, record.trace_id) == ("r-1", trace)
    assert record.client_address in {"127.0.0.1", "::1"}
    assert 0 < record.duration_ms < 5000
    assert record.getMessage().startswith(f"/shop.Orders/{kind} {status} in ")


def test_a_status_that_the_handler_sets(serve: Any, stack: str, records: list[Any]) -> None:
    """A status that the handler has set without an abort is that of the line."""
    shop = serve(stack, SETTINGS)
    assert shop.start("unary_unary", "code").code().name == "NOT_FOUND"
    assert line_of(records).grpc_status == "NOT_FOUND"


def test_a_client_that_leaves(serve: Any, stack: str, records: list[Any]) -> None:
    """An RPC whose client has gone ends as CANCELLED."""
    shop = serve(stack, SETTINGS)
    call = shop.start("unary_stream", "forever")
    next(call)
    call.cancel()
    assert line_of(records).grpc_status == "CANCELLED"


def test_no_line_without_the_setting(serve: Any, records: list[Any]) -> None:
    """By default no RPC has a line."""
    shop = serve("sync")
    shop.call("unary_unary", "ok")
    assert shop.settled()
    assert records == []
