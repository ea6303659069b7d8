"""The guard of an RPC: the work of a server for each RPC, on either stack.

On the way in, `RpcGuard` makes the `RequestContext` of an RPC, notes who calls, and reads the result of the
validation hook. On the way out, it turns an error into status, message and trailing metadata. The `ServerGate` admits
and charges. The interceptors (`_sync`, `_aio`) call the guard in the order that their stack needs.
"""

from __future__ import annotations

import contextlib
import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote

import grpc
from grpc.aio import AbortError

from resilience import Deadline, Resilience
from resilience.envelope import (
    ANSWERS,
    Envelope,
    envelope_of,
    validation_envelope,
    violations_of,
    worst_of,
)
from resilience.errors import AppError, DeadlineExceededError, ResilienceError, leaves, one_line, said_by
from resilience.server import RequestContext, ServerGate
from resilience_grpc._grpcio_internals import is_bare, status_sent
from resilience_grpc._status import DETAILS, status_of
from resilience_grpc._types import Metadata, Metadatum, Trailers

__all__ = ("AbortArguments", "RpcGuard", "deadline_exceeded")

_log = logging.getLogger("resilience")

_REQUEST_ID = "x-request-id"
_LANGUAGE = "accept-language"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_MAX_WAIT = 31_536_000.0
_SLACK = 0.005
"""Seconds by which our deadline has to come before the caller's, so that the server ends the RPC itself."""
_UNREADABLE = "answered as INTERNAL: the error raised in %s cannot be read, request %s"
_AFTER_ABORT = "error after an abort in %s, request %s; the abort was answered"
_INVALID = "The request is not valid."

AbortArguments: TypeAlias = tuple[grpc.StatusCode, str, Trailers]
"""The arguments of `abort`: status, message, trailing metadata."""


class _Context(Protocol):
    """The members that the contexts of both stacks have."""

    def invocation_metadata(self) -> Metadata | None: ...
    def peer(self) -> str: ...
    def time_remaining(self) -> float | None: ...
    def trailing_metadata(self) -> Metadata | None: ...
    def set_trailing_metadata(self, trailing_metadata: Trailers, /) -> None: ...


class RpcGuard:
    """Translates between one server and the toolkit.

    Args:
        resilience: The toolkit. None for `Resilience.from_env()`.
        authenticate: The hook that returns who calls, or None. The interceptor calls it.
        validate: The hook that returns what is wrong with a message, or None. The interceptor calls it.
        key: A function that computes the key of the quota from the context. None for the `rate_limit_key` setting.
    """

    def __init__(
        self,
        resilience: Resilience | None,
        authenticate: Callable[[Any], object] | None,
        validate: Callable[[Any], object] | None,
        key: Callable[[Any], str | None] | None,
    ) -> None:
        toolkit = Resilience.of(resilience)
        self.gate = ServerGate.of(toolkit, key=None if key is None else lambda request: key(request.source))
        self.catalog = toolkit.catalog
        self.authenticate = authenticate
        self.validate = validate
        self.has_quota_trailers = self.gate.options.rate_limit_headers
        self._wanted = self.gate.wanted | {_LANGUAGE}
        toolkit.health.attach(toolkit.lifecycle)

    # The way in

    def receive(self, method: str, context: _Context) -> RequestContext:
        """Return the `RequestContext` of an RPC that has just arrived. From here on, its id is on the way back."""
        picked: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            if key in self._wanted and isinstance(value, str):
                picked[key] = f"{picked[key]}, {value}" if key in picked else value
        timeout = _finite(context.time_remaining())
        request = self.gate.receive(picked, _address(context.peer()), path=method, timeout=timeout)
        request.source = context
        if request.record is not None:
            request.record.route = method
        context.set_trailing_metadata(((_REQUEST_ID, request.request_id),))
        return request

    def own_deadline(self, request: RequestContext, context: _Context) -> Deadline | None:
        """Return the deadline at which the server has to end the RPC itself.

        None if there is no deadline, or if the client's own deadline ends the RPC before.
        """
        if request.deadline is None:
            return None
        theirs = _finite(context.time_remaining())
        is_ours = theirs is None or request.deadline.remaining() < theirs - _SLACK
        return request.deadline if is_ours else None

    def set_identity(self, request: RequestContext, identity: object) -> None:
        """Note who calls. Raise `UNAUTHENTICATED` if the hook has found no identity."""
        if identity is None or identity is False or identity == "":
            raise self.catalog.error("UNAUTHENTICATED")
        request.identity = identity
        # The text of any other object may differ each time, and the text is the key of the caller's quota.
        if request.user is None and isinstance(identity, str | int):
            request.user = str(identity)

    def authentication_error(self, error: Exception, request: RequestContext) -> ResilienceError:
        """Return the answer if the authentication hook has raised `error`: it fails closed, whatever was raised."""
        worst = worst_of(error)
        if isinstance(worst, ANSWERS):
            return worst
        kind = type(error).__name__
        _log.info(
            "authenticate raised %s, request %s: refused", kind, request.request_id,
            exc_info=error if _log.isEnabledFor(logging.DEBUG) else None,
        )  # fmt: skip
        return self.catalog.error("UNAUTHENTICATED")

    def check_message(self, found: object) -> None:
        """Raise the refusal of a message if `validate` returned or raised one.

        None and True mean that the message is valid. Violations are mappings (`field`, `message`, `type`), pairs of
        field and message, or messages. A raised `AppError` is the answer. A raised `ValueError` gives its text, or its
        `errors()` if it has them (pydantic; see `violations_of`). An exception group gives the violations of all its
        errors. Any other error is a fault of the hook, and is raised again.
        """
        if found is None or found is True:
            return
        refusal = worst_of(found) if isinstance(found, BaseExceptionGroup) else found
        if isinstance(refusal, AppError):
            raise refusal
        violations = _raised_violations(found) if isinstance(found, BaseException) else _returned_violations(found)
        if violations:
            raise self.catalog.error("VALIDATION_FAILED", details=validation_envelope(violations).details)

    def malformed_message(self) -> AppError:
        """Return the refusal of bytes that cannot be decoded."""
        return self.catalog.error("BAD_REQUEST")

    # The way out

    def abort_arguments(
        self, error: BaseException, request: RequestContext, context: _Context, method: str
    ) -> AbortArguments:
        """Return the status, message and trailing metadata by which the client learns of `error`. Never raises.

        An error that is not an answer is a fault: it is logged once, and the client sees only the request id. grpcio
        shows the text of an error raised here to the client (L16). User code may raise one: the text or the class of
        its error, a mapping, a log handler. The client then gets a bare INTERNAL.
        """
        try:
            worst = worst_of(error) if isinstance(error, BaseExceptionGroup) else error
            if not isinstance(worst, ANSWERS):
                _log.error("unhandled error in %s, request %s", one_line(method), request.request_id, exc_info=error)
            envelope = envelope_of(error, request_id=request.request_id, trace_id=request.trace_id)
            envelope = envelope.bounded(self.gate.options.retry_after_max)
            envelope = self.catalog.localized(envelope, request.headers.get(_LANGUAGE))
            status = status_of(envelope, self.catalog.domain)
            trailers = self.trailers(request, context.trailing_metadata(), (DETAILS, status.SerializeToString()))
        except Exception as failure:  # noqa: BLE001 - of user code: texts, mappings, classes, log handlers
            with contextlib.suppress(Exception):
                _log.error(_UNREADABLE, one_line(method), request.request_id, exc_info=failure)
            status = status_of(Envelope(request_id=request.request_id), self.catalog.domain)
            trailers = ((_REQUEST_ID, request.request_id), (DETAILS, status.SerializeToString()))
        return _CODES[status.code], status.message, trailers

    def log_after_abort(self, error: BaseException, abort: BaseException, request: RequestContext, method: str) -> None:
        """Log an error raised after an abort, such as by a cleanup. The client sees the abort. Never raises."""
        if all(each is abort or _is_end(each) for each in leaves(error)):
            return
        with contextlib.suppress(Exception):  # of user code, as in `abort_arguments`
            _log.error(_AFTER_ABORT, one_line(method), request.request_id, exc_info=error)

    def trailers(self, request: RequestContext, given: Metadata | None, *details: Metadatum) -> Trailers:
        """Return trailing metadata: those that the handler has `given`, and ours, each name once."""
        quotas: list[Metadatum] = []
        if self.has_quota_trailers and request.charges:
            quotas = [(name.lower(), value) for name, value in self.gate.quota_headers(request)]
        ours: Trailers = ((_REQUEST_ID, request.request_id), *quotas, *details)
        names = [name for name, _ in ours]
        return (*[(name, value) for name, value in given or () if name.lower() not in names], *ours)

    def abort_trailers(self, request: RequestContext, context: _Context) -> Trailers:
        """Return the trailing metadata of an abort of the handler. Never raises, whatever the handler has set."""
        try:
            return self.trailers(request, context.trailing_metadata())
        except Exception:  # noqa: BLE001 - the handler set something that is no metadata; grpcio would show the error
            return ((_REQUEST_ID, request.request_id),)

    def complete(self, request: RequestContext, context: _Context) -> None:
        """Make sure that the trailing metadata name the request, also if the handler has set its own."""
        given = context.trailing_metadata()
        if not (request.charges and self.has_quota_trailers):
            ids = [value for name, value in given or () if name.lower() == _REQUEST_ID]
            if ids == [request.request_id]:
                return
        context.set_trailing_metadata(self.trailers(request, given))

    def leave(self, request: RequestContext) -> None:
        """Undo the admission: the RPC has ended, and with it the deadline for anything that the handler has started.

        A deadline that has passed stays. It has ended the RPC, so code that still runs for it may make no calls.
        """
        if request.deadline is not None and not request.deadline.expired:
            self.gate.response_sent(request)
        self.gate.leave(request)
        if request.record is not None:
            if request.record.status is None:
                request.record.status = status_sent(request.source)
            self.gate.log_request(request)
        request.source = None  # the context may refer to us; without this, only the garbage collector could free both


def deadline_exceeded() -> DeadlineExceededError:
    """Return the error that ends an RPC which took longer than this server allows."""
    return DeadlineExceededError("the deadline passed before the answer was complete", policy="server")


def _is_end(error: BaseException) -> bool:
    """Return whether `error` says only that the RPC has ended."""
    return isinstance(error, AbortError | CancelledError) or is_bare(error)


def _finite(remaining: float | None) -> float | None:
    """Return how long the caller waits, None for ever. That is None on one stack and 292 years on the other."""
    return None if remaining is None or remaining > _MAX_WAIT else remaining


@lru_cache(maxsize=1024)
def _address(peer: str) -> str | None:
    """Return the address in gRPC's name of a peer: `ipv4:192.0.2.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`.

    None is a Unix socket. A peer of any other family, such as `vsock:`, has a name and no address.
    """
    family, _, rest = peer.partition(":")
    if family in {"unix", "unix-abstract"}:
        return None
    if family not in {"ipv4", "ipv6"}:
        return family or "unknown"
    return unquote(rest).rpartition(":")[0].strip("[]")


# Validation: the forms that violations come in


_Violation: TypeAlias = Mapping[str, Any]


def _raised_violations(error: BaseException) -> Sequence[_Violation]:
    if isinstance(error, BaseExceptionGroup):
        return [violation for each in leaves(error) for violation in _raised_violations(each)]
    if not isinstance(error, ValueError):
        raise error
    errors = said_by(error, "errors")
    if callable(errors):
        raised: Any = errors()
        return violations_of(raised) or [{"message": _INVALID}]
    # The text of a subclass (of decoding, of JSON) was not written for the client to read.
    return [{"message": str(error) if type(error) is ValueError and error.args else _INVALID}]


def _returned_violations(found: object) -> Sequence[_Violation]:
    if found is False:
        return [{"message": _INVALID}]
    if isinstance(found, str | Mapping):
        return [_violation(found)] if found else []
    if not isinstance(found, Iterable):
        raise TypeError(f"validate returned a {type(found).__name__}, which is neither None nor violations")
    return [_violation(each) for each in found]


def _violation(found: object) -> _Violation:
    match found:
        case Mapping():
            return found
        case (field, message) if isinstance(found, tuple):
            return {"field": field, "message": message}
        case str():
            return {"message": found}
    raise TypeError(f"validate returned a {type(found).__name__} as a violation")
