"""The data of a request that an outgoing call carries on: ids, trace, baggage, and the time that is left."""

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

_MAX_TIMEOUT = 86_400.0
"""Seconds, the maximum of a timeout header. A longer deadline is not sent."""
_MIN_TIMEOUT = 1e-6


class _ClientSettings(Protocol):
    """The part of `Resilience` that configures outgoing calls."""

    @property
    def config(self) -> Any: ...  # resilience.config.Config: pyright takes no cached_property for a property


class ClientContext:
    """Makes the headers (HTTP), or the metadata and the timeout (gRPC), of outgoing calls.

    Each method raises `DeadlineExceededError` with `is_before_call`, if no time of the deadline in force is left after
    the margin: the call is not made, because no caller would wait for its answer. Outside of a request and without a
    deadline, a call carries nothing.

    Args:
        options: The section `client` of the configuration; None for the defaults.
    """

    def __init__(self, options: ClientOptions | None = None) -> None:
        self.options = ClientOptions() if options is None else options
        self._margin, self._header = self.options.margin, self.options.deadline_header
        self._identity_header = self.options.identity_header

    @classmethod
    def of(cls, toolkit: _ClientSettings) -> ClientContext:
        """Return the context for the configuration of a `Resilience`."""
        return cls(toolkit.config.client)

    def headers(self, context: RequestContext | None = None) -> dict[str, str]:
        """Return the headers of a call for `context`, by default for the current request."""
        left = _left(self._margin, context)
        carried = self._carried(context)
        if left is not None:
            carried[self._header] = f"{left:.6f}"
        return carried

    def metadata(self, context: RequestContext | None = None) -> tuple[tuple[str, str], ...]:
        """Return the headers as gRPC metadata, with names in lower case, and without the deadline: see `timeout`."""
        return tuple([(name.lower(), text) for name, text in self._carried(context).items()])

    def timeout(self, asked: float | None = None, context: RequestContext | None = None) -> float | None:
        """Return the seconds that a call may take: `asked`, or the time left if that is shorter; None for no limit."""
        left = _left(self._margin, context)
        if asked is None or left is None:
            return left if asked is None else asked
        return min(asked, left)

    def refuse_if_spent(self, context: RequestContext | None = None) -> float | None:
        """Return the seconds that are left after the margin, None without a deadline."""
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
            carried[REQUEST_ID] = request_id_of(context.request_id)  # code of the service may have changed it
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
    """Return the headers that an outgoing HTTP call carries.

    They are `X-Request-Id`, `traceparent` (the same trace with a new parent id, or the active span of OpenTelemetry),
    `tracestate`, `baggage`, and `deadline_header` with the seconds that are left after `margin`.

    Args:
        context: The request that the call is made for; None for the current request.
        margin: Seconds to keep back of the deadline in force, by default 10 ms.
        deadline_header: The name of the header with the seconds.

    Raises:
        DeadlineExceededError: No time is left (`is_before_call`).
        ConfigurationError: An argument is wrong.
    """
    options = ClientOptions(margin=seconds(margin, "margin"), deadline_header=deadline_header)
    return ClientContext(options).headers(context)


def refuse_if_spent(
    margin: float | str | timedelta = ClientOptions.margin, context: RequestContext | None = None
) -> float | None:
    """Return the seconds of the deadline in force that are left after `margin`, None without a deadline.

    Raises:
        DeadlineExceededError: No time is left (`is_before_call`).
    """
    return _left(seconds(margin, "margin"), context)


_MIN_MARGINS = 0.05
"""Seconds that the services on the way may keep back of a deadline, all their margins together."""


def is_out_of_time(seconds: float, left: float) -> bool:
    """Return whether a dependency that reports a passed deadline means the deadline that we sent.

    Each service on the way keeps a margin back, so the report comes before our own deadline has passed. Up to a tenth
    of `seconds`, and at least 50 ms, counts as such margins. An earlier report is about a limit of the dependency
    itself.

    Args:
        seconds: The seconds that we sent.
        left: The seconds that are left of our own deadline.
    """
    return left <= max(_MIN_MARGINS, seconds / 10)


def _left(margin: float, context: RequestContext | None) -> float | None:
    remaining = min(_allowances(context), default=None)
    if remaining is None or remaining - margin > _MAX_TIMEOUT:
        return None
    left = remaining - margin
    if left >= _MIN_TIMEOUT:
        return left
    message = "the deadline had passed before the call"
    if remaining > 0:
        message = f"{remaining:.3g} s to the deadline are within the margin of {margin:g} s; the call was not made"
    raise DeadlineExceededError(message, policy="client", seconds=0.0)


def _allowances(context: RequestContext | None) -> Iterator[float]:
    """Yield the seconds left of each deadline: the one in force, and that of a request that is not current."""
    in_force = Deadline.current()
    if in_force is not None:
        yield in_force.remaining()
    if context is not None and context.deadline is not None and context is not current_request():
        yield context.deadline.remaining()


def _traced() -> dict[str, str]:
    """Return the headers of OpenTelemetry's propagators, if this process has an open span; else nothing.

    A remote span is the caller's: this process does not trace, and the caller's trace is passed on as it is.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    span = trace.get_current_span().get_span_context()
    carrier: dict[str, str] = {}
    if span.is_valid and not span.is_remote:
        from opentelemetry import propagate  # noqa: PLC0415 - only if the application uses it already

        propagate.inject(carrier)
    return carrier
