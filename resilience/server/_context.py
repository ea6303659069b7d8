"""What is known about the request being served, visible to everything the request runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience.envelope import worst_of
from resilience.errors import DeadlineExceededError
from resilience.server._trace import BAGGAGE, TRACEPARENT, TRACESTATE, baggage_of, trace_of, tracestate_of

if TYPE_CHECKING:
    from resilience.server._gate import ServerGate
    from resilience.server._quota import Charge
    from resilience.timeout import Deadline

__all__ = ("RequestContext", "current_request")

_current: ContextVar[RequestContext | None] = ContextVar("resilience_request", default=None)


_Entered: TypeAlias = "tuple[Token[RequestContext | None], Deadline | None, _Entered | None]"


def current_request() -> RequestContext | None:
    """Return the request being served here, or None outside one. Works in threads and tasks the request started."""
    return _current.get()


class RequestContext:
    """One request, as one object that is changed in place.

    A value set in a context variable by a thread or a child task is lost to whoever started it, so what the request
    learns on its way (its user, its charges) is written here. Inside `with context:` it is `current_request()` and its
    deadline is in force; both are taken back by token, so nothing reaches the next request of a reused thread (L19).
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
        "is_counted",
        "is_excluded",
        "is_preflight",
        "is_unknown",
        "place",
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
        """The caller's address as far as it can be trusted; "" for a Unix socket whose proxy is not trusted."""
        self.is_preflight = False
        """Whether it is a CORS preflight, which is neither charged nor refused for want of a place."""
        self.is_unknown = False
        """Whether it came over a Unix socket and nothing that can be trusted names its client."""
        self.deadline = deadline
        self.headers = {} if headers is None else headers
        """The few headers the server side looks at, by lower-case name. Not the request's headers."""
        self.gate = gate
        self.is_excluded = is_excluded
        """Whether this request is never limited, refused or timed (a probe)."""
        self.is_counted = False
        self.place: Any = None
        self.user: str | None = None
        """Who the caller has proven to be, as text; set by the service or its framework."""
        self.identity: Any = None
        """What authentication made of the caller: any object, which nothing here looks into."""
        self.source: Any = None
        """What the framework calls a request (an ASGI scope, a WSGI environ), for keys computed by user code."""
        self.charges: tuple[Charge, ...] = ()
        self._entered: _Entered | None = None

    # Looked at only when somebody asks: most requests bring neither, and most that do are not passed on.

    def is_late(self, error: BaseException) -> bool:
        """Return whether the deadline has passed, and `error` or its direct cause says so."""
        is_about_time = isinstance(worst_of(error), DeadlineExceededError) or (
            error.__cause__ is not None and isinstance(worst_of(error.__cause__), DeadlineExceededError)
        )
        return is_about_time and self.deadline is not None and self.deadline.expired

    @property
    def trace_flags(self) -> int:
        """What the caller's `traceparent` says of the trace: 1 where it is being recorded."""
        trace = trace_of(self.headers.get(TRACEPARENT, ""))
        return trace.flags if trace is not None and trace.trace_id == self.trace_id else 0

    @property
    def tracestate(self) -> str:
        """What tracing systems know of this trace: W3C `tracestate`, at most 32 members and 512 characters."""
        try:
            return self._tracestate
        except AttributeError:
            stated = self.headers.get(TRACESTATE) if self.trace_id else None
            self._tracestate: str = tracestate_of(stated) if stated else ""
            return self._tracestate

    @property
    def baggage(self) -> str:
        """What travels with the request to every service it reaches: W3C `baggage`, at most 64 members and 8192 bytes.

        May be set, and then goes along with outgoing calls; raises `ValueError` for what is malformed or too long.
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
        if deadline is not None:  # the one that was entered: the request may have been given another since
            deadline.__exit__(kind, error, traceback)
        _current.reset(token)

    def __repr__(self) -> str:
        return f"<RequestContext {self.request_id}>"
