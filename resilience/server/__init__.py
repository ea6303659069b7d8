"""The server side, without a framework: identify a request, admit or refuse it, charge it, and time it."""

from resilience.server._context import RequestContext, current_request
from resilience.server._deadline_wheel import DeadlineWheel
from resilience.server._errors import envelope_ids, render_error, sent_envelope
from resilience.server._gate import ServerGate
from resilience.server._headers import is_preflight
from resilience.server._options import ServerOptions
from resilience.server._probe_paths import PROBE_METHODS, ProbePaths, health_of, is_probe, mark_probe
from resilience.server._quota import ServerQuota
from resilience.server._rate_key import KeyRule, checked_key
from resilience.server._request_log import RequestRecord
from resilience.server._route_limit import RouteLimit

__all__ = (
    "PROBE_METHODS",
    "DeadlineWheel",
    "KeyRule",
    "ProbePaths",
    "RequestContext",
    "RequestRecord",
    "RouteLimit",
    "ServerGate",
    "ServerOptions",
    "ServerQuota",
    "checked_key",
    "current_request",
    "envelope_ids",
    "health_of",
    "is_preflight",
    "is_probe",
    "mark_probe",
    "render_error",
    "sent_envelope",
)
