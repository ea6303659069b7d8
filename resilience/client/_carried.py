"""What an outgoing call carries of the request it is made for: ids, trace, baggage, and the time that is left."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from resilience.client._options import ClientOptions
from resilience.errors import DeadlineExceededError
from resilience.options import seconds
from resilience.server import RequestContext, current_request
from resilience.server._headers import identity_of, new_span_id, request_id_of
from resilience.server._trace import BAGGAGE, TRACEPARENT, TRACESTATE
from resilience.timeout import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("ClientContext", "client_headers", "is_out_of_time", "refuse_if_spent")

REQUEST_ID = "X-Request-Id"

_LONGEST = 86_400.0
"""Seconds: what a header of the server side may say at most. Who has longer than a day is in no hurry."""
_LEAST = 1e-6


class _Toolkit(Protocol):
    """The part of `Resilience` that says what calls carry."""

    @property
    def config(self) -> Any: ...  # resilience.config.Config: pyright takes no cached_property for a property


class ClientContext:
    """Makes the headers (HTTP) or metadata and timeout (gRPC) of outgoing calls, as configured.

    Everything here raises `DeadlineExceededError` (`is_before_call`) where nothing of the deadline in force is left
    after the margin: the call need not be made, nobody would wait for its answer. Outside a request, and without a
    deadline, a call carries nothing.
    """

    def __init__(self, options: ClientOptions | None = None) -> None:
        self.options = ClientOptions() if options is None else options
        self._margin, self._header = self.options.margin, self.options.deadline_header
        self._identity_header = self.options.identity_header

    @classmethod
    def of(cls, toolkit: _Toolkit) -> ClientContext:
        """Build what a `Resilience` is configured for."""
        return cls(toolkit.config.client)

    def headers(self, context: RequestContext | None = None) -> dict[str, str]:
        """Return the headers of a call made for `context`, by default for the request being served here."""
        left = _left(self._margin, context)
        carried = self._carried(context)
        if left is not None:
            carried[self._header] = f"{left:.6f}"
        return carried

    def metadata(self, context: RequestContext | None = None) -> tuple[tuple[str, str], ...]:
        """Return the same as gRPC metadata, names in lower case and without the deadline: gRPC sends its `timeout`."""
        return tuple([(name.lower(), text) for name, text in self._carried(context).items()])

    def timeout(self, asked: float | None = None, context: RequestContext | None = None) -> float | None:
        """Return the seconds a call may take that is allowed `asked` by itself; None for no limit."""
        left = _left(self._margin, context)
        if asked is None or left is None:
            return left if asked is None else asked
        return min(asked, left)

    def refuse_if_spent(self, context: RequestContext | None = None) -> float | None:
        """Return the seconds that are left after the margin, None where there is no deadline."""
        return _left(self._margin, context)

    def _carried(self, context: RequestContext | None) -> dict[str, str]:
        context = current_request() if context is None else context
        carried = _traced()
        if context is None:
            return carried
        if not carried and context.trace_id:
            carried[TRACEPARENT] = f"00-{context.trace_id}-{new_span_id()}-{context.trace_flags:02x}"
            if context.tracestate:
                carried[TRACESTATE] = context.tracestate
        if context.request_id:
            carried[REQUEST_ID] = request_id_of(context.request_id)  # code of the service may have set another
        if context.baggage:
            carried.setdefault(BAGGAGE, context.baggage)
        if self._identity_header is not None and (user := identity_of(context.user)) is not None:
            carried[self._identity_header] = user
        return carried


def client_headers(
    context: RequestContext | None = None,
    *,
    margin: float | str | timedelta = ClientOptions.margin,
    deadline_header: str = ClientOptions.deadline_header,
) -> dict[str, str]:
    """Return what a call carries that is made for `context`, by default for the request being served here.

    `X-Request-Id`, `traceparent` (the same trace, a new parent id; the active span's where OpenTelemetry has one),
    `tracestate`, `baggage`, and in `deadline_header` the seconds that are left less `margin`. Raises
    `DeadlineExceededError` (`is_before_call`) where nothing is left, `ConfigurationError` for a bad argument.
    """
    options = ClientOptions(margin=seconds(margin, "margin"), deadline_header=deadline_header)
    return ClientContext(options).headers(context)


def refuse_if_spent(
    margin: float | str | timedelta = ClientOptions.margin, context: RequestContext | None = None
) -> float | None:
    """Return the seconds left of the deadline in force less `margin`, None where there is no deadline.

    Raises `DeadlineExceededError` (`is_before_call`) where nothing is left.
    """
    return _left(seconds(margin, "margin"), context)


_ON_THE_WAY = 0.05
"""Seconds that services behind the one we call may keep back of a deadline, margin by margin."""


def is_out_of_time(seconds: float, left: float) -> bool:
    """Whether a dependency that reports a passed deadline, `left` seconds before our own, means the one we sent it.

    `seconds` is what we sent. Each service on the way keeps a margin back, so the report comes earlier than our own
    deadline: up to a tenth of `seconds`, and no less than 50 ms, is counted as such margins. A report that comes
    sooner is about a limit of the dependency itself.
    """
    return left <= max(_ON_THE_WAY, seconds / 10)


def _left(margin: float, context: RequestContext | None) -> float | None:
    remaining = min(_allowances(context), default=None)
    if remaining is None or remaining - margin > _LONGEST:
        return None
    left = remaining - margin
    if left >= _LEAST:
        return left
    message = "the deadline had passed before the call"
    if remaining > 0:
        message = f"{remaining:.3g} s to the deadline are within the margin of {margin:g} s; the call was not made"
    raise DeadlineExceededError(message, policy="client", seconds=0.0)


def _allowances(context: RequestContext | None) -> Iterator[float]:
    """Yield what each deadline leaves: the one in force, and that of a request which is not the current one."""
    in_force = Deadline.current()
    if in_force is not None:
        yield in_force.remaining()
    if context is not None and context.deadline is not None and context is not current_request():
        yield context.deadline.remaining()


def _traced() -> dict[str, str]:
    """Return what OpenTelemetry's propagators send, where it has a span of this process open; else nothing.

    A remote span is only what the caller sent: nobody here traces, and it is on us to pass it on.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    span = trace.get_current_span().get_span_context()
    carrier: dict[str, str] = {}
    if span.is_valid and not span.is_remote:
        from opentelemetry import propagate  # noqa: PLC0415 - only where it is in use already

        propagate.inject(carrier)
    return carrier
