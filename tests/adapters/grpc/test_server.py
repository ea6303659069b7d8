"""Four kinds of methods on three ways to serve them: every end an RPC can have."""

from __future__ import annotations

import logging
import time
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status
from grpc_shop import KINDS

from resilience_grpc._status import DETAILS, error_of_call


def trailers(call: Any) -> dict[str, Any]:
    return dict(call.trailing_metadata())


def detail(call: Any, kind: Any) -> Any:
    status = Status.FromString(trailers(call)[DETAILS])
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def test_answers_pass(serve: Any, stack: str, kind: str) -> None:
    """A successful RPC is answered as without interceptors, with its request id in the trailing metadata."""
    shop = serve(stack)
    call = shop.start(kind, "ok", metadata=(("x-request-id", "r-1"),))
    answers = list(call) if kind.endswith("stream") else [call.result()]
    assert answers == (["first", "ok!"] if kind.endswith("stream") else ["ok!"])
    assert call.code() is grpc.StatusCode.OK
    assert trailers(call) == {"x-request-id": "r-1"}
    assert shop.settled()


def test_own_errors_are_answered(serve: Any, stack: str, kind: str) -> None:
    """An `AppError` arrives as a status with its code, service, details and request id."""
    shop = serve(stack)
    failed = shop.failure(kind, "app", metadata=(("x-request-id", "r-1"),))
    assert (failed.code(), failed.details()) == (grpc.StatusCode.ABORTED, "Sold out.")
    info = detail(failed, ErrorInfo)
    assert (info.reason, info.domain) == ("SHOP_C001", "shop")
    assert detail(failed, RequestInfo).request_id == "r-1"
    assert trailers(failed)["x-request-id"] == "r-1"
    error = error_of_call(failed)
    assert error is not None
    assert error.details == {"left": 0}
    assert shop.settled()


@pytest.mark.parametrize("text", ["crash", "code-crash", "exit", "group-crash", "group-exit"])
def test_nothing_internal_leaves(
    serve: Any, stack: str, kind: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any other exception is INTERNAL with a fixed message, a code and the id; the log has it once, with traceback."""
    shop = serve(stack)
    with caplog.at_level(logging.INFO):
        failed = shop.failure(kind, text)
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert failed.details() == "The service could not handle the request."
    assert detail(failed, ErrorInfo).reason == "INTERNAL"
    assert "secret" not in repr(failed.trailing_metadata())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info
    assert trailers(failed)["x-request-id"] in record.getMessage()
    assert shop.settled()


@pytest.mark.parametrize("text", ["abort", "abort-wrapped", "abort-group"])
def test_aborts_are_kept(serve: Any, stack: str, kind: str, text: str) -> None:
    """The client sees the handler's abort, also if another error was raised after it."""
    shop = serve(stack)
    failed = shop.failure(kind, text, metadata=(("x-request-id", "r-1"),))
    assert (failed.code(), failed.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet")
    assert trailers(failed) == {"x-request-id": "r-1"}
    assert shop.settled()


def test_codes_that_are_set_are_kept(serve: Any, stack: str, kind: str) -> None:
    """If a handler sets a code and returns, the client gets that code and its message."""
    shop = serve(stack)
    failed = shop.failure(kind, "code")
    assert (failed.code(), failed.details()) == (grpc.StatusCode.NOT_FOUND, "no such order")
    assert shop.settled()


def test_trailers_of_the_handler_are_kept(serve: Any, stack: str, kind: str) -> None:
    """Trailing metadata that a handler set is sent, and beside it the request id."""
    shop = serve(stack)
    call = shop.start(kind, "trailers", metadata=(("x-request-id", "r-1"),))
    _ = list(call) if kind.endswith("stream") else call.result()
    assert trailers(call) == {"mine": "1", "x-request-id": "r-1"}


def test_groups_are_answered_as_their_worst_error(
    serve: Any, stack: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A group of refusals is answered as the gravest of them, with the longest wait. Nothing is logged."""
    shop = serve(stack)
    failed = shop.failure(kind, "group")
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    error = error_of_call(failed)
    assert error is not None
    assert (error.code, error.retry_after) == ("CIRCUIT_OPEN", 4.0)
    assert "secret" not in str(failed)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert shop.settled()


@pytest.mark.parametrize(("settings", "wait"), [({}, 300.0), ({"SERVER__RETRY_AFTER_MAX": "10m"}, 600.0)])
def test_the_wait_of_another_service_is_handed_on_with_a_bound(
    serve: Any, stack: str, settings: dict[str, str], wait: float
) -> None:
    """The wait in an error of another service is at most `retry_after_max` for our own client."""
    error = error_of_call(serve(stack, settings).failure("unary_unary", "remote"))
    assert error is not None
    assert (error.code, error.retry_after) == ("THEIR_001", wait)


def test_clients_that_leave(serve: Any, stack: str, kind: str) -> None:
    """An RPC that its client cancels ends when its handler ends, and the server goes on."""
    shop = serve(stack)
    call = shop.start(kind, "wait")
    assert shop.shop.waits.wait(5)
    call.cancel()
    if stack != "aio":
        time.sleep(0.05)
        assert shop.toolkit.lifecycle.in_flight == 1  # its thread is still at work
        shop.shop.release.set()
    assert shop.settled()
    assert shop.call(kind, "ok")[-1] == "ok!"


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_streams_that_are_abandoned(serve: Any, stack: str, kind: str) -> None:
    """A stream that the client no longer reads ends, and its generator is closed."""
    shop = serve(stack)
    call = shop.start(kind, "forever")
    assert next(call) == "first"
    assert shop.toolkit.lifecycle.in_flight == 1
    call.cancel()
    assert shop.settled()


@pytest.mark.realtime
def test_deadline_of_the_caller(serve: Any, stack: str, kind: str) -> None:
    """The client's timeout is the deadline in the handler. When it has passed, nothing is left in flight."""
    shop = serve(stack)
    shop.call(kind, "ok", timeout=5)
    assert 4 < shop.shop.seen["remaining"] < 5.1  # grpcio rounds deadlines up to some milliseconds
    shop.call(kind, "ok", timeout=None)
    assert shop.shop.seen["remaining"] is None
    failed = shop.failure(kind, "wait", timeout=0.2)
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    shop.shop.release.set()
    assert shop.settled()


@pytest.mark.realtime
def test_deadline_of_the_server(serve: Any, stack: str, kind: str) -> None:
    """The server's own deadline caps the client's, and is in force if the client has none."""
    shop = serve(stack, {"SERVER__DEADLINE": "2s"})
    shop.call(kind, "ok", timeout=None)
    assert 1 < shop.shop.seen["remaining"] <= 2
    shop.call(kind, "ok", timeout=50)
    assert 1 < shop.shop.seen["remaining"] <= 2
    shop.call(kind, "ok", timeout=1)
    assert shop.shop.seen["remaining"] < 1.1
    shop.call(kind, "ok", metadata=(("x-request-timeout", "500ms"),))
    assert shop.shop.seen["remaining"] <= 0.5


@pytest.mark.realtime
@pytest.mark.parametrize("kind", KINDS)
def test_tasks_end_on_time(serve: Any, kind: str) -> None:
    """On grpc.aio, an RPC that exceeds the server's deadline ends at the deadline, with our envelope."""
    shop = serve("aio", {"SERVER__DEADLINE": "100ms"})
    begin = time.monotonic()
    failed = shop.failure(kind, "wait")
    assert time.monotonic() - begin < 2
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(failed, ErrorInfo).reason == "DEADLINE_EXCEEDED"
    assert shop.settled()


@pytest.mark.parametrize("stack", ["sync", "aio-plain"])
@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_streams_of_threads_end_at_their_next_message(serve: Any, stack: str, kind: str) -> None:
    """A thread cannot be stopped: a stream that exceeds the server's deadline ends at its next message."""
    shop = serve(stack, {"SERVER__DEADLINE": "100ms"})
    failed = shop.failure(kind, "forever")
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(failed, ErrorInfo).reason == "DEADLINE_EXCEEDED"
    assert shop.settled()


def test_what_a_handler_knows(serve: Any, stack: str, kind: str) -> None:
    """The handler's request has its id, its trace and its client's address. A bad id is replaced by a new one."""
    shop = serve(stack)
    trace = "0af7651916cd43dd8448eb211c80319c"
    shop.call(kind, "ok", metadata=(("x-request-id", "r-1"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01")))
    seen = shop.shop.seen
    assert (seen["request_id"], seen["trace_id"], seen["client"]) == ("r-1", trace, "127.0.0.1")
    shop.call(kind, "ok", metadata=(("x-request-id", "bad id"), ("traceparent", "nonsense")))
    assert len(shop.shop.seen["request_id"]) == 32
    assert shop.shop.seen["trace_id"] == ""


def test_nothing_reaches_the_next_request(serve: Any, stack: str, kind: str) -> None:
    """On a reused thread an RPC sees nothing of the RPC before it: no request, no deadline, no context value."""
    shop = serve(stack, threads=1)
    for _ in range(3):
        shop.call(kind, "ok", timeout=None, metadata=(("x-request-id", "r-1"),))
        shop.failure(kind, "crash", timeout=3)
    assert shop.settled()
    shop.call(kind, "last", timeout=None)
    assert shop.shop.seen["left"] == "nothing"
    assert shop.shop.seen["remaining"] is None
    assert shop.shop.seen["request_id"] != "r-1"


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_answers_that_cannot_be_sent(serve: Any, stack: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A response of the wrong type is a fault. The client does not see the text."""
    shop = serve(stack)
    if stack == "aio" or kind == "unary_unary":  # a None in a stream of threads is grpcio's own sign of its end
        failed = shop.failure(kind, "wrong-type")
        assert failed.code() is grpc.StatusCode.INTERNAL
        assert "NoneType" not in failed.details()
    assert shop.settled()


def test_requests_that_cannot_be_read(serve: Any, stack: str, kind: str) -> None:
    """Bytes that cannot be decoded are refused without a reason."""
    shop = serve(stack)
    failed = shop.failure(kind, b"\xff\xff")
    assert failed.code() is (grpc.StatusCode.INTERNAL if stack == "sync" else grpc.StatusCode.INVALID_ARGUMENT)
    assert "utf-8" not in failed.details()
    assert shop.settled()


def test_unknown_methods(serve: Any, stack: str) -> None:
    """An unknown method is UNIMPLEMENTED, as without interceptors."""
    shop = serve(stack)
    with pytest.raises(grpc.RpcError) as failed:
        shop.channel.unary_unary("/shop.Orders/nothing")(b"", timeout=5)
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
