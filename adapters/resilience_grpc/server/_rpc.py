"""What every RPC goes through, whichever stack serves it: recognised on its way in, answered on its way out."""

from __future__ import annotations

import contextlib
import logging
from asyncio import CancelledError
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import grpc
from grpc.aio import AbortError

from resilience import Deadline, Resilience
from resilience.envelope import ANSWERS, Envelope, envelope_of, worst_of
from resilience.errors import AppError, DeadlineExceededError, ResilienceError, leaves, one_line
from resilience.server import RequestContext, ServerGate
from resilience_grpc._status import DETAILS, status_of
from resilience_grpc.server._validation import refusal_of

__all__ = ("Guard", "Told", "Trailers", "abort_in", "late")

_log = logging.getLogger("resilience")

REQUEST_ID = "x-request-id"
_LANGUAGE = "accept-language"
_LONGEST = 31_536_000.0
_MOST_LINKS = 16
_UNTOLD = "answered as INTERNAL: what was raised in %s cannot be told, request %s"
_AFTER_ABORT = "error after an abort in %s, request %s; the abort was answered"
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Trailers = tuple[tuple[str, str | bytes], ...]
Told = tuple[grpc.StatusCode, str, Trailers]
"""What `abort` takes: status, message, trailing metadata."""


class Guard:
    """Translates between one server and the toolkit. `servicer` is what grpcio calls the context of an RPC."""

    def __init__(
        self,
        resilience: Resilience | None,
        authenticate: Callable[[Any], Any] | None,
        validate: Callable[[Any], Any] | None,
        key: Callable[[Any], str] | None,
    ) -> None:
        toolkit = Resilience.of(resilience)
        self.gate = ServerGate.of(toolkit, key=None if key is None else lambda request: key(request.source))
        self.catalog = toolkit.catalog
        self.authenticate = authenticate
        self.validate = validate
        self.shows_quotas = self.gate.options.rate_limit_headers
        self._wanted = self.gate.wanted | {_LANGUAGE}
        toolkit.health.attach(toolkit.lifecycle)

    def receive(self, method: str, servicer: Any) -> RequestContext:
        """Return what is known about an RPC that has just come in; its id is on the way back from here on."""
        picked: dict[str, str] = {}
        for key, value in servicer.invocation_metadata() or ():
            if key in self._wanted and isinstance(value, str):
                picked[key] = f"{picked[key]}, {value}" if key in picked else value
        patience = _patience(servicer.time_remaining())
        request = self.gate.receive(picked, _address(servicer.peer()), path=method, patience=patience)
        request.source = servicer
        servicer.set_trailing_metadata(((REQUEST_ID, request.request_id),))
        return request

    def own_deadline(self, request: RequestContext, servicer: Any) -> Deadline | None:
        """Return the deadline by which we have to end an RPC ourselves; None where the transport will, or nobody."""
        if request.deadline is None:
            return None
        theirs = _patience(servicer.time_remaining())
        is_ours = theirs is None or request.deadline.remaining() < theirs - _SLACK
        return request.deadline if is_ours else None

    def identified(self, request: RequestContext, identity: Any) -> None:
        """Note who calls. Raises `UNAUTHENTICATED` for nobody."""
        if identity is None or identity is False or identity == "":
            raise self.catalog.error("UNAUTHENTICATED")
        request.identity = identity
        # An object's text may differ each time, and with it the quota it is charged to.
        if request.user is None and isinstance(identity, str | int):
            request.user = str(identity)

    def unidentified(self, error: Exception, request: RequestContext) -> ResilienceError:
        """Return what a caller is told whose authentication failed with `error`: fails closed, whatever it was."""
        worst = worst_of(error)
        if isinstance(worst, ANSWERS):
            return worst
        kind = type(error).__name__
        _log.info(
            "authenticate raised %s, request %s: refused", kind, request.request_id,
            exc_info=error if _log.isEnabledFor(logging.DEBUG) else None,
        )  # fmt: skip
        return self.catalog.error("UNAUTHENTICATED")

    def invalid(self, found: Any) -> AppError | None:
        """Return the refusal of a message, by what `validate` returned or raised; None where it is valid."""
        return refusal_of(found, self.catalog)

    def malformed(self) -> AppError:
        """Return the refusal of bytes that are no message."""
        return self.catalog.error("BAD_REQUEST")

    def kept(self, request: RequestContext, servicer: Any) -> Trailers:
        """Return the trailing metadata of an abort of the handler's own. Never raises, whatever the handler has set."""
        try:
            return self.trailers(request, servicer)
        except Exception:  # noqa: BLE001 - what the handler set is no metadata, and grpcio would show the error's text
            return ((REQUEST_ID, request.request_id),)

    def outlived(self, error: BaseException, abort: BaseException, request: RequestContext, method: str) -> None:
        """Log what was raised after an abort, such as by a cleanup: the client sees the abort. Never raises."""
        if all(each is abort or _is_end(each) for each in leaves(error)):
            return
        with contextlib.suppress(Exception):  # of code of somebody else's, as in `told`
            _log.error(_AFTER_ABORT, one_line(method), request.request_id, exc_info=error)

    def told(self, error: BaseException, request: RequestContext, servicer: Any, method: str) -> Told:
        """Return what the client is told about `error`, whatever user code has put into it. Never raises.

        What leaves here goes to grpcio, which shows its text to the client (L16).
        """
        try:
            return self._told(error, request, servicer, method)
        except Exception as failure:  # noqa: BLE001 - of code of somebody else's: texts, mappings, classes, log handlers
            with contextlib.suppress(Exception):
                _log.error(_UNTOLD, one_line(method), request.request_id, exc_info=failure)
            return self._least(request)

    def _told(self, error: BaseException, request: RequestContext, servicer: Any, method: str) -> Told:
        """Return what the error says of itself. A fault is logged, once, and only its id leaves."""
        if not isinstance(worst_of(error), ANSWERS):
            _log.error("unhandled error in %s, request %s", one_line(method), request.request_id, exc_info=error)
        envelope = envelope_of(error, request_id=request.request_id, trace_id=request.trace_id)
        envelope = self.catalog.localized(envelope, request.headers.get(_LANGUAGE))
        status = status_of(envelope.bounded(self.gate.options.retry_after_max), self.catalog.domain)
        trailers = self.trailers(request, servicer, (DETAILS, status.SerializeToString()))
        return _CODES[status.code], status.message, trailers

    def _least(self, request: RequestContext) -> Told:
        """Return what can always be told: nothing in it is anybody else's."""
        status = status_of(Envelope(request_id=request.request_id), self.catalog.domain)
        trailers = ((REQUEST_ID, request.request_id), (DETAILS, status.SerializeToString()))
        return grpc.StatusCode.INTERNAL, status.message, trailers

    def trailers(self, request: RequestContext, servicer: Any, *details: tuple[str, bytes]) -> Trailers:
        """Return the trailing metadata of an RPC: what its handler set, and ours."""
        return self.merged(request, servicer.trailing_metadata(), *details)

    def merged(self, request: RequestContext, given: Any, *details: tuple[str, bytes]) -> Trailers:
        """Return `given` as trailing metadata that have our own, each once."""
        ours = ((REQUEST_ID, request.request_id), *_lowered(self.gate.quota_headers(request)), *details)
        names = {name for name, _ in ours}
        return (*((name, value) for name, value in given or () if name.lower() not in names), *ours)

    def complete(self, request: RequestContext, servicer: Any) -> None:
        """Have the trailing metadata name the request, also where the handler set its own."""
        if request.charges and self.shows_quotas:
            servicer.set_trailing_metadata(self.trailers(request, servicer))
            return
        ids = [value for name, value in servicer.trailing_metadata() or () if name.lower() == REQUEST_ID]
        if ids != [request.request_id]:
            servicer.set_trailing_metadata(self.trailers(request, servicer))

    def leave(self, request: RequestContext) -> None:
        """Undo what admission did: the RPC is over, and so is its deadline, for whatever it has started.

        One that has passed stays: the RPC ended by it, and what still works for it is not to ask others for anything.
        """
        if request.deadline is not None and not request.deadline.expired:
            self.gate.answered(request)
        self.gate.leave(request)
        request.source = None  # it may hold us, too, and only the garbage collector could part them


_SLACK = 0.005


def late() -> DeadlineExceededError:
    """Return what ends an RPC that took longer than this server allows."""
    return DeadlineExceededError("the deadline passed before the answer was complete", policy="server")


def abort_in(error: BaseException, servicer: Any) -> BaseException | None:
    """Return the abort by which the handler ended the RPC itself, if that is what `error` is or comes from.

    `grpc.aio` has an exception for it. `grpc` raises a bare `Exception()`, which means that only with a status set, and
    keeps in mind that it did: an error that lost the link to the abort comes from it, too.
    """
    link: BaseException | None = error
    for _ in range(_MOST_LINKS):
        if link is None:
            break
        for each in leaves(link):
            if isinstance(each, AbortError) or (_is_bare(each) and _has_failed(servicer)):
                return each
        link = link.__context__
    return Exception() if _was_aborted(servicer) else None


def _is_bare(error: BaseException) -> bool:
    return type(error) is Exception and not error.args


def _is_end(error: BaseException) -> bool:
    """Whether `error` only says that the RPC is over."""
    return isinstance(error, AbortError | CancelledError) or _is_bare(error)


def _has_failed(servicer: Any) -> bool:
    is_of_threads = isinstance(servicer, grpc.ServicerContext)
    code: Any = getattr(servicer, "code", None)
    return is_of_threads and code() not in {None, grpc.StatusCode.OK}


def _was_aborted(servicer: Any) -> bool:
    """Whether `grpc` has noted an abort (private, seen in 1.85.3). A context of another kind does not tell."""
    return isinstance(servicer, grpc.ServicerContext) and bool(
        getattr(getattr(servicer, "_state", None), "aborted", False)
    )


def _lowered(headers: tuple[tuple[str, str], ...]) -> Trailers:
    return tuple((name.lower(), value) for name, value in headers)


def _patience(remaining: float | None) -> float | None:
    """Return how long the caller waits: "for ever" is None on one stack and 292 years on the other."""
    return None if remaining is None or remaining > _LONGEST else remaining


@lru_cache(maxsize=1024)
def _address(peer: str) -> str | None:
    """Return the address in what gRPC says of a peer: `ipv4:192.0.2.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`.

    None is a Unix socket. A peer of any other family, such as `vsock:`, has a name and no address.
    """
    family, _, rest = peer.partition(":")
    if family in {"unix", "unix-abstract"}:
        return None
    if family not in {"ipv4", "ipv6"}:
        return family or "unknown"
    return unquote(rest).rpartition(":")[0].strip("[]")
