"""How a call failed: which error it is, for whom, whether it may pass, and how long to wait."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from grpc import StatusCode

from resilience.envelope import ErrorCatalog
from resilience.errors import AppError, DeadlineExceededError, ResilienceError
from resilience_grpc._status import error_of_call
from resilience_grpc.client._errors import CallError, Facts, as_call_error

__all__ = ("FAILURES", "Decoder")

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
        error.is_remote = True
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
