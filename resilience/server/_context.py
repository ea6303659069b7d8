"""The request that is being served, visible to all code that the request runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience.envelope import worst_of
from resilience.errors import DeadlineExceededError
from resilience.server._trace import BAGGAGE, TRACEPARENT, TRACESTATE, baggage_of, trace_of, tracestate_of

if TYPE_CHECKING:
    from resilience.server._gate import ServerGate  # a type only: a request knows the gate that has made it
    from resilience.server._quota import Charge
    from resilience.server._request_log import RequestRecord
    from resilience.timeout import Deadline

__all__ = ("RequestContext", "current_request")

_current: ContextVar[RequestContext | None] = ContextVar("resilience_request", default=None)


_Entered: TypeAlias = "tuple[Token[RequestContext | None], Deadline | None, _Entered | None]"


def current_request() -> RequestContext | None:
    """Return the request that is being served, or None. Works in the threads and tasks that a request starts, too."""
    return _current.get()


class RequestContext:
    """One request: its ids, its client, its deadline, its user, and the quotas that were charged.

    The object is changed in place. A context variable that a thread or a child task sets is lost to the code that
    started it, so facts that are found out while the request is served (its user, its charges) are attributes here.
    Inside `with context:` it is `current_request()`, and its deadline is in force. Both are reset by token, so no value
    reaches the next request of a reused thread (L19).

    Args:
        request_id: The id in logs, in answers and in outgoing calls.
        trace_id: The id of the trace (W3C `traceparent`); "" if the client has sent none.
        client: The address of the client; "" if it is not known.
        deadline: The deadline of the request; None for no limit.
        headers: The few headers that the gate looks at, by lower-case name. Not all headers of the request.
        gate: The gate that has received the request.
        is_excluded: Whether the request is never limited, refused or timed (a probe).

    Example:
        >>> with RequestContext("r-1", client="192.0.2.7") as context:
        ...     current_request() is context
        True
    """

    __slots__ = (
        "_baggage",
        "_entered",
        "_tracestate",
        "charges",
        "client",
        "deadline",
        "gate",
        "headers",
        "identity",
        "is_client_hidden",
        "is_counted",
        "is_excluded",
        "is_preflight",
        "is_unrouted",
        "permit",
        "record",
        "request_id",
        "source",
        "trace_id",
        "user",
    )

    def __init__(
        self,
        request_id: str = "",
        trace_id: str = "",
        client: str = "",
        *,
        deadline: Deadline | None = None,
        headers: Mapping[str, str] | None = None,
        gate: ServerGate | None = None,
        is_excluded: bool = False,
    ) -> None:
        self.request_id = request_id
        self.trace_id = trace_id
        self.client = client
        """The address of the client, from a trusted source; "" behind a Unix socket whose proxy is not trusted."""
        self.is_preflight = False
        """Whether it is a CORS preflight: such a request is not charged and needs no permit."""
        self.is_unrouted = False
        """Whether no route of the service serves the request, and the limit of the server does not count it."""
        self.is_client_hidden = False
        """Whether the request came over a Unix socket and no trusted header names its client."""
        self.deadline = deadline
        self.headers = {} if headers is None else headers
        self.gate = gate
        self.is_excluded = is_excluded
        self.is_counted = False
        """Whether the request counts as in flight."""
        self.permit: Any = None
        """The permit of `max_concurrent_requests`, while the request holds one."""
        self.user: str | None = None
        """The authenticated caller, as text; set by the service or its framework."""
        self.identity: Any = None
        """The authenticated caller, as any object of the service; this library does not look into it."""
        self.source: Any = None
        """The request as the framework has it (an ASGI scope, a WSGI environ), for functions of the user."""
        self.record: RequestRecord | None = None
        """The facts for the line of the request, if the log has a line for each request."""
        self.charges: tuple[Charge, ...] = ()
        self._entered: _Entered | None = None

    def is_late(self, error: BaseException) -> bool:
        """Return whether the deadline has passed, and `error` or its direct cause is a `DeadlineExceededError`."""
        is_about_time = isinstance(worst_of(error), DeadlineExceededError) or (
            error.__cause__ is not None and isinstance(worst_of(error.__cause__), DeadlineExceededError)
        )
        return is_about_time and self.deadline is not None and self.deadline.expired

    @property
    def trace_flags(self) -> int:
        """The flags of the caller's `traceparent`: 1 if the trace is recorded."""
        trace = trace_of(self.headers.get(TRACEPARENT, ""))
        return trace.flags if trace is not None and trace.trace_id == self.trace_id else 0

    @property
    def tracestate(self) -> str:
        """The W3C `tracestate`, at most 32 members and 512 characters. Parsed when it is first read."""
        try:
            return self._tracestate
        except AttributeError:
            stated = self.headers.get(TRACESTATE) if self.trace_id else None
            self._tracestate: str = tracestate_of(stated) if stated else ""
            return self._tracestate

    @property
    def baggage(self) -> str:
        """The W3C `baggage`, at most 64 members and 8192 bytes: it goes to every service that the request reaches.

        If you set it, outgoing calls carry the new value. Raises `ValueError` if that is malformed or too long.
        """
        try:
            return self._baggage
        except AttributeError:
            stated = self.headers.get(BAGGAGE)
            self._baggage: str = baggage_of(stated) if stated else ""
            return self._baggage

    @baggage.setter
    def baggage(self, text: str) -> None:
        sane = baggage_of(text)
        if sane.count(",") != text.count(",") or (text and not sane):
            raise ValueError("baggage is up to 64 members such as key=value, and up to 8192 bytes in all")
        self._baggage = sane

    def __enter__(self) -> RequestContext:  # noqa: PYI034 - never subclassed: adapters compose
        deadline = self.deadline
        self._entered = (_current.set(self), deadline, self._entered)
        if deadline is not None:
            deadline.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._entered is None:
            return
        token, deadline, self._entered = self._entered
        if deadline is not None:  # the entered deadline: `self.deadline` may be another one by now
            deadline.__exit__(kind, error, traceback)
        _current.reset(token)

    def __repr__(self) -> str:
        return f"<RequestContext {self.request_id}>"
