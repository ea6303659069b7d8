"""The error of a failed call: an error of grpcio and, at the same time, an error of this library.

`except grpc.RpcError` works as before, with `code()`, `details()` and metadata. So does `except AppError`, with `code`
and `details` as text and mapping: on these errors both can also be called. `ErrorDecoder` reads an error of grpcio.
`as_call_error` makes the class that is both.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, Protocol, TypeGuard, cast

import grpc
from grpc import StatusCode
from grpc.aio import Metadata as AioMetadata

from resilience.envelope import ErrorCatalog
from resilience.errors import (
    AppError,
    DeadlineExceededError,
    ResilienceError,
    joined_with,
    one_line,
    packed,
    unpacked,
)
from resilience_grpc._status import error_of_call
from resilience_grpc._types import Metadata, Metadatum

__all__ = ("FAILURES", "CallError", "CallStatus", "ErrorDecoder", "as_call_error")

FAILURES = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.DATA_LOSS,
    }
)
"""The statuses of a dependency in trouble. Every other status is an answer: the request was wrong, or in conflict."""
_BUSY = frozenset({StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED})
_PUBLIC_MESSAGES = {
    502: "A service this one needs failed.",
    503: "The service is temporarily unable to handle the request.",
}
_PUSHBACK = "grpc-retry-pushback-ms"
_REQUEST_ID = "x-request-id"
_MAX_ID_LENGTH = 128


class CallStatus(NamedTuple):
    """How a call ended, as gRPC reports it."""

    status: StatusCode
    text: str
    initial: Metadata = ()
    trailing: Metadata = ()
    debug: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        both = tuple((isinstance(each, AioMetadata), _pairs(each)) for each in (self.initial, self.trailing))
        return _unpickled_status, (self.status.name, self.text, *both, self.debug)


class _MetadataItem(NamedTuple):
    """One item of metadata that has come from another process. It has the attributes of grpcio's own items."""

    key: str
    value: str | bytes


def _pairs(metadata: Metadata) -> tuple[Metadatum, ...]:
    return tuple((str(key), value if isinstance(value, bytes) else str(value)) for key, value in metadata)


_PickledMetadata = tuple[bool, tuple[Metadatum, ...]]


def _unpickled_status(
    status: str, text: str, initial: _PickledMetadata, trailing: _PickledMetadata, debug: str
) -> CallStatus:
    before, after = [
        AioMetadata(*pairs) if is_aio else tuple(_MetadataItem(key, value) for key, value in pairs)
        for is_aio, pairs in (initial, trailing)
    ]
    return CallStatus(StatusCode[status], text, before, after, debug)


class _CallableCode(str):
    """A code as text. Calling it returns the status, as in gRPC."""

    __slots__ = ("_status",)
    _status: StatusCode

    def __new__(cls, text: str, status: StatusCode) -> _CallableCode:  # noqa: PYI034 - never subclassed
        code = super().__new__(cls, text)
        code._status = status
        return code

    def __call__(self) -> StatusCode:
        return self._status

    def __getnewargs__(self) -> tuple[str, StatusCode]:  # type: ignore[override]  # text alone does not make one
        return str(self), self._status


class _CallableDetails(dict[str, Any]):
    """Details as a mapping. Calling it returns the status message, as in gRPC."""

    def __init__(self, details: Any, text: str) -> None:
        super().__init__(details)
        self._text = text

    def __call__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_details, (packed(dict(self)), self._text)


def _unpickled_details(details: Any, text: str) -> _CallableDetails:
    return _CallableDetails(unpacked(details), text)


class CallError(grpc.RpcError):
    """The part that all errors of guarded calls share. Each of them is a `ResilienceError` of some class as well."""

    call_status: CallStatus
    is_answer = False
    """Whether the dependency did its part. Breakers count such an error as a success."""
    seconds: float | None = None
    """The seconds that a call had which ran out of time."""
    allowed: float | None = None
    """The seconds that the service allows a call, if its caller's shorter deadline ended it. Otherwise None."""
    request_id = ""
    """The id under which the remote service has logged the request."""

    @property
    def is_callers(self) -> bool:
        """Whether the caller's deadline ended the call sooner than the service itself would have."""
        return self.allowed is not None

    @property
    def log_name(self) -> str:
        """The error in the log: its type, and the status of the call."""
        return f"{type(self).__name__} {self.call_status.status.name}"

    def details(self) -> str:
        """Return the status message."""
        return self.call_status.text

    def initial_metadata(self) -> Any:
        """Return the metadata that the server sent first: a tuple, or a `grpc.aio.Metadata`."""
        return self.call_status.initial

    def trailing_metadata(self) -> Any:
        """Return the metadata that the server sent with the status: a tuple, or a `grpc.aio.Metadata`."""
        return self.call_status.trailing

    def debug_error_string(self) -> str:
        """Return grpcio's own description."""
        return self.call_status.debug

    def __str__(self) -> str:
        return f"{self.call_status.status.name}: {self.call_status.text}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {one_line(self)}>"


class SyncCallError(CallError, grpc.Call, grpc.Future):  # type: ignore[type-arg]  # the stubs' Future is generic, grpcio's is not
    """On `grpc` a failed call is also the call object that its interceptors return. The call has ended."""

    def cancel(self) -> bool:
        """Do nothing."""
        return False

    def cancelled(self) -> bool:
        """Return False: the call ended by itself."""
        return False

    def is_active(self) -> bool:
        """Return False."""
        return False

    def running(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio has None here as well
        """Return None."""
        return None

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - the call has ended
        """Raise this error."""
        raise self

    def exception(self, timeout: float | None = None) -> Exception:  # noqa: ARG002 - the call has ended
        """Return this error."""
        return self

    def traceback(self, timeout: float | None = None) -> types.TracebackType | None:  # noqa: ARG002 - the call has ended
        """Return the traceback of this error."""
        return self.__traceback__

    def add_callback(self, callback: Callable[[], None]) -> bool:  # noqa: ARG002 - the call has ended
        """Return False: `callback` will not be called."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` at once."""
        fn(self)


class AioCallError(CallError, grpc.aio.AioRpcError):
    """On `grpc.aio`, call objects look for this class."""


def as_call_error(error: ResilienceError | CallError, status: CallStatus | None = None, *, is_aio: bool) -> CallError:
    """Return an error of this library as an error that grpcio could have raised.

    Args:
        error: The error. If it is a `CallError`, it is returned as it is.
        status: How the call ended. None if no call was made: the status is then the one that the error has for
            others, and the text is the error's.
        is_aio: Whether the caller uses `grpc.aio`.
    """
    if isinstance(error, CallError):
        return error
    if status is None:
        status = CallStatus(StatusCode.__members__.get(error.grpc_status, StatusCode.UNKNOWN), str(error))
    both: Any = joined_with(error, AioCallError if is_aio else SyncCallError, overrides=True)
    both.call_status = status
    both.code = _CallableCode(error.code, status.status)
    if isinstance(error, AppError):
        both.details = _CallableDetails(error.details, status.text)
    return cast("CallError", both)


class _FailedRpc(Protocol):
    """An `RpcError` that says how its call ended."""

    def code(self) -> StatusCode | None: ...
    def details(self) -> str | None: ...
    def initial_metadata(self) -> Metadata | None: ...
    def trailing_metadata(self) -> Metadata | None: ...


def _has_status(raised: Exception) -> TypeGuard[_FailedRpc]:
    """Return whether `raised` says how its call ended. An `RpcError` that user code has made may not."""
    return callable(getattr(raised, "code", None)) and callable(getattr(raised, "trailing_metadata", None))


class ErrorDecoder:
    """Makes the errors of this library from the errors of grpcio.

    Args:
        catalog: The errors that the service knows. They say themselves whether they are retryable.
        retryable: The statuses after which another attempt of a repeatable call may succeed.
        is_aio: Whether the caller uses `grpc.aio`.
    """

    def __init__(self, catalog: ErrorCatalog, retryable: Collection[StatusCode], *, is_aio: bool) -> None:
        self._catalog = catalog
        self._retryable = frozenset(retryable)
        self._is_aio = is_aio

    def __call__(self, raised: Exception) -> CallError:
        """Return the error that `raised` means: the one in its trailers, or one for its status."""
        if isinstance(raised, CallError):
            return raised
        remote = None
        if _has_status(raised):
            debug: Callable[[], str | None] = getattr(raised, "debug_error_string", str)
            initial, trailing = raised.initial_metadata() or (), raised.trailing_metadata() or ()
            code = raised.code() or StatusCode.UNKNOWN
            status = CallStatus(code, raised.details() or "", initial, trailing, debug() or "")
            remote = error_of_call(raised, catalog=self._catalog)
        else:
            status = CallStatus(StatusCode.UNKNOWN, str(raised))
        error: ResilienceError = _error_for(status) if remote is None else remote
        if remote is None or remote.code not in self._catalog:
            error.retryable = status.status in self._retryable
        error.is_remote = True
        _obey_pushback(error, status.trailing)
        both = as_call_error(error, status, is_aio=self._is_aio)
        both.is_answer = status.status not in FAILURES
        both.request_id = _text(status.trailing, _REQUEST_ID)[:_MAX_ID_LENGTH]
        return both


def _error_for(ended: CallStatus) -> ResilienceError:
    """Return the error of a call that brought no envelope, as our own clients should see it."""
    status, message = ended.status, f"{ended.status.name}: {ended.text}"
    if status is StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(message)
    error: ResilienceError
    if status in _BUSY:
        error = AppError("UNAVAILABLE", http_status=503, grpc_status="UNAVAILABLE", category="dependency")
    elif status in FAILURES:
        error = AppError("BAD_GATEWAY", http_status=502, grpc_status="INTERNAL", category="dependency")
    else:  # our request was wrong, which our own clients cannot mend: for them it stays a 500
        error = ResilienceError(message)
        error.code = status.name
    if isinstance(error, AppError):
        error.message = _PUBLIC_MESSAGES[error.http_status]
    error.args = (message,)
    return error


def _obey_pushback(error: ResilienceError, trailing: Metadata) -> None:
    """Wait as long as the server asks. Make no other attempt if it asks for less than 0, or for no number."""
    asked = _text(trailing, _PUSHBACK)
    if not asked:
        return
    if asked.isascii() and asked.isdecimal() and len(asked) <= len("9999999999"):
        error.retry_after = int(asked) / 1000
    else:
        error.retryable, error.retry_after = False, None


def _text(metadata: Iterable[Metadatum], name: str) -> str:
    return next((value for key, value in metadata if key == name and isinstance(value, str)), "")
