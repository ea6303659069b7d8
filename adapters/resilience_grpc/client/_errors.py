"""A failed call as one error that is both: what grpcio raises, and what policies and other adapters understand.

`except grpc.RpcError` goes on working, with `code()`, `details()` and metadata; so does `except AppError`, with `code`
and `details` as text and mapping: on these errors both can also be called.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import grpc
from grpc import StatusCode
from grpc.aio import Metadata

from resilience.errors import AppError, Portable, facts_of, one_line, packed, unpacked

__all__ = ("CallError", "Facts", "as_call_error")


class Facts(NamedTuple):
    """How a call ended, as gRPC tells it."""

    status: StatusCode
    text: str
    initial: Any = ()
    trailing: Any = ()
    debug: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        both = tuple((isinstance(each, Metadata), _pairs(each)) for each in (self.initial, self.trailing))
        return _facts, (self.status.name, self.text, *both, self.debug)


class _Metadatum(NamedTuple):
    """One item of metadata that has come from another process, as grpcio's own."""

    key: str
    value: str | bytes


def _pairs(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((str(key), value if isinstance(value, bytes) else str(value)) for key, value in metadata)


def _facts(status: str, text: str, initial: Any, trailing: Any, debug: str) -> Facts:
    def metadata(*, is_aio: bool, pairs: Any) -> Any:
        return Metadata(*pairs) if is_aio else tuple(_Metadatum(key, value) for key, value in pairs)

    before, after = [metadata(is_aio=is_aio, pairs=pairs) for is_aio, pairs in (initial, trailing)]
    return Facts(StatusCode[status], text, before, after, debug)


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
        return _details, (packed(dict(self)), self._text)


def _details(details: Any, text: str) -> _Details:
    return _Details(unpacked(details), text)


class CallError(grpc.RpcError):
    """What all errors of guarded calls have in common, beside being a `ResilienceError` of some class."""

    facts: Facts
    is_answer = False
    """Whether the dependency did its part: breakers count it as a success."""
    seconds: float | None = None
    """The seconds that a call which ran out of time had."""
    allowed: float | None = None
    """The seconds that the service allows a call which its caller's deadline cut off; else None."""
    request_id = ""
    """Under which the remote service logged the request."""

    @property
    def is_callers(self) -> bool:
        """Whether the caller's deadline ended the call sooner than the service itself would have."""
        return self.allowed is not None

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
        return f"<{type(self).__name__} {one_line(self)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Portable.__reduce__(cast("Any", self))  # before that of `AioRpcError`

    def made_as(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return how the class is made: it is no name of a module."""
        bases: tuple[Any, ...] = type(self).__bases__  # as `_both` has given them
        stack, kind = bases
        return _both, (kind, stack)


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


def as_call_error(error: Any, facts: Facts | None = None, *, is_aio: bool) -> CallError:
    """Return `error`, one of ours, as what grpcio raises, too; a refusal is told by the status it has for others."""
    if isinstance(error, CallError):
        return error
    if facts is None:
        facts = Facts(StatusCode.__members__.get(error.grpc_status, StatusCode.UNKNOWN), str(error))
    kind = _both(type(error), AioCallError if is_aio else SyncCallError)
    both: Any = kind.__new__(kind, *error.args)
    both.args = error.args
    for name, fact in facts_of(error).items():
        setattr(both, name, fact)
    both.facts = facts
    both.code = _Code(error.code, facts.status)
    if isinstance(error, AppError):
        both.details = _Details(error.details, facts.text)
    both.__cause__, both.__context__ = error.__cause__, error.__context__
    both.__suppress_context__ = error.__suppress_context__
    return cast(CallError, both.with_traceback(error.__traceback__))
