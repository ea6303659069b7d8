"""A failed call as one error that is both: what grpcio raises, and what policies and other adapters understand.

`except grpc.RpcError` goes on working, with `code()`, `details()` and metadata; so does `except AppError`, with `code`
and `details` as text and mapping: on these errors both can also be called.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, cast

import grpc
from grpc import StatusCode

from resilience.envelope import ErrorCatalog
from resilience.errors import AppError, DeadlineExceededError, ResilienceError
from resilience_grpc._status import error_of_call

__all__ = ("FAILURES", "CallError", "Decoder", "as_call_error")

PUSHBACK = "grpc-retry-pushback-ms"
REQUEST_ID = "x-request-id"

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
"""What a dependency in trouble says. Every other status is an answer: the request was at fault, or in conflict."""
_BUSY = frozenset({StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED})
_LONGEST_ID = 128


class Facts(NamedTuple):
    """How a call ended, as gRPC tells it."""

    status: StatusCode
    text: str
    initial: Any = ()
    trailing: Any = ()
    debug: str = ""


class _Code(str):
    """The code as text, which can be called as gRPC has it."""

    __slots__ = ("_status",)
    _status: StatusCode

    def __new__(cls, text: str, status: StatusCode) -> _Code:  # noqa: PYI034 - never subclassed
        code = super().__new__(cls, text)
        code._status = status
        return code

    def __call__(self) -> StatusCode:
        return self._status

    def __getnewargs__(self) -> tuple[str, StatusCode]:  # type: ignore[override]  # text alone does not make one
        return str(self), self._status


class _Details(dict[str, Any]):
    """The details as a mapping, which can be called as gRPC has it."""

    def __init__(self, details: Any, text: str) -> None:
        super().__init__(details)
        self._text = text

    def __call__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return _Details, (dict(self), self._text)


class CallError(grpc.RpcError):
    """What all errors of guarded calls have in common, beside being a `ResilienceError` of some class."""

    facts: Facts
    is_answer = False
    """Whether the dependency did its part: breakers count it as a success."""
    request_id = ""
    """Under which the remote service logged the request."""

    def details(self) -> str:
        """Return the status message."""
        return self.facts.text

    def initial_metadata(self) -> Any:
        """Return what the server sent ahead."""
        return self.facts.initial

    def trailing_metadata(self) -> Any:
        """Return what the server sent with the status."""
        return self.facts.trailing

    def debug_error_string(self) -> str:
        """Return grpcio's own account."""
        return self.facts.debug

    def __str__(self) -> str:
        return f"{self.facts.status.name}: {self.facts.text}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __reduce__(self) -> tuple[Any, ...]:
        bases: tuple[Any, ...] = type(self).__bases__  # as `_both` has given them
        stack, kind = bases
        known = kind.__reduce__(self)[1][2]
        return _restored, (kind, stack, self.args, known)


class SyncCallError(CallError, grpc.Call, grpc.Future):  # type: ignore[type-arg]  # the stubs' Future is generic, grpcio's is not
    """On `grpc` a failed call is also the call object that its interceptors return."""

    def cancel(self) -> bool:
        """Do nothing: it is over."""
        return False

    def cancelled(self) -> bool:
        """Return False: it ended by itself."""
        return False

    def is_active(self) -> bool:
        """Return False: it is over."""
        return False

    def running(self) -> bool:
        """Return False: it is over."""
        return False

    def done(self) -> bool:
        """Return True: it is over."""
        return True

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio has None here as well
        """Return None: it is over."""
        return None

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - it is over
        """Raise this error."""
        raise self

    def exception(self, timeout: float | None = None) -> Exception:  # noqa: ARG002 - it is over
        """Return this error."""
        return self

    def traceback(self, timeout: float | None = None) -> types.TracebackType | None:  # noqa: ARG002 - it is over
        """Return where this error was raised last."""
        return self.__traceback__

    def add_callback(self, callback: Callable[[], None]) -> bool:  # noqa: ARG002 - it is over
        """Return False: `callback` will not be called."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` at once."""
        fn(self)


class AioCallError(CallError, grpc.aio.AioRpcError):
    """On `grpc.aio` call objects look for this class."""


_known: dict[Any, Any] = {}


def _both(kind: Any, stack: Any) -> Any:
    both = _known.get((kind, stack))
    if both is None:
        both = types.new_class(kind.__name__, (stack, kind), exec_body=lambda body: body.update(__module__=__name__))
        _known[kind, stack] = both
    return both


def _restored(kind: type[ResilienceError], stack: type[CallError], args: tuple[Any, ...], facts: dict[str, Any]) -> Any:
    both = _both(kind, stack)
    error: Any = both.__new__(both, *args)
    error.args = args
    for name, fact in facts.items():
        setattr(error, name, fact)
    return error


def as_call_error(error: Any, facts: Facts | None = None, *, is_aio: bool) -> CallError:
    """Return `error`, one of ours, as what grpcio raises, too; a refusal is told by the status it has for others."""
    if isinstance(error, CallError):
        return error
    if facts is None:
        facts = Facts(StatusCode.__members__.get(error.grpc_status, StatusCode.UNKNOWN), str(error))
    kind, args, known = error.__reduce__()[1]
    both = _restored(kind, AioCallError if is_aio else SyncCallError, args, known)
    both.facts = facts
    both.code = _Code(error.code, facts.status)
    if isinstance(error, AppError):
        both.details = _Details(error.details, facts.text)
    both.__cause__, both.__context__ = error.__cause__, error.__context__
    both.__suppress_context__ = error.__suppress_context__
    return cast(CallError, both.with_traceback(error.__traceback__))


class Decoder:
    """Makes errors of what grpcio raises. `retryable` are the statuses worth another attempt of a repeatable call."""

    def __init__(self, catalog: ErrorCatalog, retryable: Collection[StatusCode], *, is_aio: bool) -> None:
        self._catalog = catalog
        self._retryable = frozenset(retryable)
        self._is_aio = is_aio

    def __call__(self, raised: Any) -> CallError:
        """Return what `raised`, a `grpc.RpcError`, means."""
        if isinstance(raised, CallError):
            return raised
        facts = _facts(raised)
        told = error_of_call(raised, catalog=self._catalog) if _is_call(raised) else None
        error: ResilienceError = _plain(facts) if told is None else told
        is_known = told is not None and told.code in self._catalog
        error.retryable = error.retryable if is_known else facts.status in self._retryable
        _push_back(error, facts.trailing)
        both = as_call_error(error, facts, is_aio=self._is_aio)
        both.is_answer = facts.status not in FAILURES
        both.request_id = _text(facts.trailing, REQUEST_ID)[:_LONGEST_ID]
        return both


def _is_call(raised: Any) -> bool:
    return callable(getattr(raised, "code", None)) and callable(getattr(raised, "trailing_metadata", None))


def _facts(raised: Any) -> Facts:
    """Return how the call ended; an RpcError of somebody else's making may say nothing about it."""
    if not _is_call(raised):
        return Facts(StatusCode.UNKNOWN, str(raised))
    debug = getattr(raised, "debug_error_string", str)
    return Facts(
        raised.code() or StatusCode.UNKNOWN,
        raised.details() or "",
        raised.initial_metadata() or (),
        raised.trailing_metadata() or (),
        debug() or "",
    )


def _plain(facts: Facts) -> ResilienceError:
    """Return the error of a call that brought no envelope: what it means for those who wait for us."""
    status, message = facts.status, f"{facts.status.name}: {facts.text}"
    if status is StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(message)
    error: ResilienceError
    if status in _BUSY:
        error = AppError("UNAVAILABLE", http_status=503, grpc_status="UNAVAILABLE", category="dependency")
    elif status in FAILURES:
        error = AppError("BAD_GATEWAY", http_status=502, grpc_status="INTERNAL", category="dependency")
    else:  # not for our own clients: what we asked for in their name was wrong
        error = ResilienceError(message)
        error.code = status.name
    if isinstance(error, AppError):
        error.message = _PUBLIC[error.http_status]
    error.args = (message,)
    return error


_PUBLIC = {
    502: "A service this one needs failed.",
    503: "The service is temporarily unable to handle the request.",
}


def _push_back(error: ResilienceError, trailing: Iterable[Any]) -> None:
    """Obey the server: wait as long as it says, or never try again where it says something below 0, or unreadable."""
    asked = _text(trailing, PUSHBACK)
    if not asked:
        return
    if asked.isascii() and asked.isdecimal() and len(asked) <= len("9999999999"):
        error.retry_after = int(asked) / 1000
    else:
        error.retryable, error.retry_after = False, None


def _text(metadata: Iterable[Any], name: str) -> str:
    return next((value for key, value in metadata if key == name and isinstance(value, str)), "")
