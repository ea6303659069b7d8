"""An abort whose cleanup fails, and trailing metadata of the handler's own, on real servers of both stacks."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc_shop import Tasks, Threads

ID = "r-1"
OURS = ("x-request-id", ID)
THEIRS = (("mine", "1"), ("x-request-id", "theirs"), ("mine", "2"), ("x-request-id", ID))
DEADLINE = {"SERVER__DEADLINE": "9s", "SERVER__RATE_LIMIT": "9/second"}
LEAK = "secret of the cleanup"


class OwnStatus(grpc.Status):
    """A status with trailing metadata of its own."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    details = "not yet"
    trailing_metadata = THEIRS


def unlinked() -> ValueError:
    """Return an error that does not name the error it replaces, as one from another thread or task."""

    class UnlinkedError(ValueError):
        @property
        def __context__(self) -> None:  # type: ignore[override]  # what `raise` sets is hidden
            return None

    return UnlinkedError(LEAK)


class FailingThreads(Threads):
    """The request names the end of the RPC and the cleanup that follows, such as `abort-finally`."""

    def _do(self, text: str, servicer: Any) -> str:
        end, _, cleanup = text.partition("-")
        if cleanup == "manager":
            with self._locked():
                return self._finish(end, servicer)
        try:
            return self._finish(end, servicer)
        finally:
            if cleanup == "unlinked":
                raise unlinked()
            if cleanup == "finally":
                raise ValueError(LEAK)
            if cleanup == "group":
                raise ExceptionGroup(LEAK, [ValueError(LEAK), KeyError(LEAK)])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            yield
        finally:
            raise ValueError(LEAK)

    def _finish(self, end: str, servicer: Any) -> str:
        if end == "status":
            servicer.abort_with_status(OwnStatus())
        if end != "bare":
            servicer.set_trailing_metadata(THEIRS)
        if end in {"abort", "bare"}:
            servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
        return self.act(end, servicer)


class FailingTasks(Tasks):
    """The same methods as coroutines."""

    async def _do(self, text: str, servicer: Any) -> str:
        end, _, cleanup = text.partition("-")
        if cleanup == "manager":
            async with self._locked():
                return await self._finish(end, servicer)
        try:
            return await self._finish(end, servicer)
        finally:
            if cleanup == "unlinked":
                raise unlinked()
            if cleanup == "finally":
                raise ValueError(LEAK)
            if cleanup == "group":
                raise ExceptionGroup(LEAK, [ValueError(LEAK), KeyError(LEAK)])

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise ValueError(LEAK)

    async def _finish(self, end: str, servicer: Any) -> str:
        if end == "status":
            await servicer.abort_with_status(OwnStatus())
        if end == "metadata":
            await servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet", trailing_metadata=THEIRS)
        if end != "bare":
            servicer.set_trailing_metadata(THEIRS)
        if end in {"abort", "bare"}:
            await servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
        return self.act(end, servicer)


def failing(stack: str) -> Threads | Tasks:
    return FailingTasks() if stack == "aio" else FailingThreads()


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the errors in the log, each with its traceback."""
    formatter = logging.Formatter()
    return [formatter.format(record) for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("cleanup", "settings"),
    [("finally", {}), ("finally", DEADLINE), ("manager", {}), ("unlinked", {}), ("unlinked", DEADLINE), ("group", {})],
)
@pytest.mark.parametrize("end", ["bare", "abort", "status"])
def test_an_abort_outlives_its_cleanup(
    serve: Any, stack: str, kind: str, end: str, cleanup: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees the abort, and the log has the error of the cleanup once, with traceback and request id."""
    shop = serve(stack, settings, shop=failing(stack))
    with caplog.at_level(logging.INFO):
        failed = shop.failure(kind, f"{end}-{cleanup}", metadata=(OURS,))
        assert shop.settled()
    assert (failed.code(), failed.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet")
    assert LEAK not in repr(failed.trailing_metadata())
    (logged,) = tracebacks(caplog)
    assert ID in logged.partition("\n")[0]
    assert LEAK not in logged.partition("\n")[0]
    assert "Traceback" in logged
    assert LEAK in logged


@pytest.mark.parametrize("end", ["bare", "abort", "status"])
def test_an_abort_alone_is_no_fault(
    serve: Any, stack: str, kind: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An abort whose cleanup succeeds leaves nothing in the log."""
    shop = serve(stack, shop=failing(stack))
    with caplog.at_level(logging.INFO):
        failed = shop.failure(kind, end, metadata=(OURS,))
        assert shop.settled()
    assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert tracebacks(caplog) == []


@pytest.mark.parametrize("limits", ["false", "true"])
@pytest.mark.parametrize("end", ["abort", "status", "metadata", "app", "crash", "code", "ok"])
def test_one_id_beside_the_trailers_of_the_handler(serve: Any, stack: str, kind: str, end: str, limits: str) -> None:
    """However an RPC ends, its trailing metadata have our request id once, and all other metadata of the handler."""
    if end == "metadata" and stack != "aio":
        end = "abort"  # a context for threads takes no metadata with an abort
    settings = {"SERVER__RATE_LIMIT": "9/second", "SERVER__RATE_LIMIT_HEADERS": limits}
    shop = serve(stack, settings, shop=failing(stack))
    call = shop.start(kind, end, metadata=(OURS,))
    with contextlib.suppress(grpc.RpcError):
        _ = list(call) if kind.endswith("stream") else call.result()
    assert (call.code() is grpc.StatusCode.OK) == (end == "ok")
    ended = [(name, value) for name, value in call.trailing_metadata() if not name.endswith("-bin")]
    assert [value for name, value in ended if name == "x-request-id"] == [ID]
    assert [value for name, value in ended if name == "mine"] == ["1", "2"]
    assert ("ratelimit" in dict(ended)) == (limits == "true")
    assert shop.settled()


def test_an_authentication_that_aborts_keeps_the_id(serve: Any, stack: str, kind: str) -> None:
    """An abort by `authenticate` has our request id, and its own trailing metadata."""

    def refuse(servicer: Any) -> Any:
        return servicer.abort_with_status(OwnStatus())

    failed = serve(stack, authenticate=refuse).failure(kind, "ok", metadata=(OURS,))
    assert (failed.code(), failed.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet")
    assert sorted(failed.trailing_metadata()) == [("mine", "1"), ("mine", "2"), OURS]


class Closing:
    """An iterator of responses that is no generator, and whose `close` fails."""

    def __init__(self, shop: Threads, text: str, servicer: Any) -> None:
        self.answers = iter((lambda: "first", lambda: shop._do(text, servicer)))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self.answers)()

    def close(self) -> None:
        raise ValueError(LEAK)


@pytest.mark.parametrize("stack", ["sync", "aio-plain"])
def test_an_abort_outlives_the_close_of_its_stream(serve: Any, stack: str, caplog: pytest.LogCaptureFixture) -> None:
    """If the `close` of the responses fails, the abort stands, and the log has that error once."""
    threads = FailingThreads()
    threads.unary_stream = lambda text, servicer: Closing(threads, text, servicer)  # type: ignore[method-assign]
    shop = serve(stack, shop=threads)
    with caplog.at_level(logging.INFO):
        failed = shop.failure("unary_stream", "abort", metadata=(OURS,))
        assert shop.settled()
    assert (failed.code(), failed.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet")
    (logged,) = tracebacks(caplog)
    assert ID in logged
    assert LEAK in logged


def test_a_pushed_stream_keeps_the_id(serve: Any) -> None:
    """A stream that is sent from other threads ends with our id beside the trailing metadata of its handler."""
    threads = Threads()

    def push(message: str, servicer: Any, send: Any) -> None:
        def work() -> None:
            send("one")
            servicer.set_trailing_metadata(THEIRS)
            send(None)

        threading.Thread(target=work).start()

    push.experimental_non_blocking = True  # type: ignore[attr-defined]  # grpcio's own way of marking one
    threads.unary_stream = push  # type: ignore[assignment,method-assign]  # as above
    shop = serve("sync", shop=threads)
    call = shop.start("unary_stream", "ok", metadata=(OURS,))
    assert list(call) == ["one"]
    assert sorted(call.trailing_metadata()) == [("mine", "1"), ("mine", "2"), OURS]
    assert shop.settled()


class NoMetadata(Threads):
    def unary_unary(self, text: str, servicer: Any) -> str:
        servicer.set_trailing_metadata(("not pairs", LEAK, 7))
        servicer.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
        return text


def test_an_abort_with_what_is_no_metadata(serve: Any) -> None:
    """If the metadata cannot be sent, the client does not see the text of our error: the abort has only the id."""
    failed = serve("sync", shop=NoMetadata()).failure("unary_unary", "x", metadata=(OURS,))
    assert (failed.code(), failed.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet")
    assert tuple(failed.trailing_metadata()) == (OURS,)
