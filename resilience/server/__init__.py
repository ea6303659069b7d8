"""The server side, without a framework: identify a request, admit or refuse it, charge it, and time it."""

from resilience.server._context import RequestContext, current_request
from resilience.server._deadline_wheel import DeadlineWheel
from resilience.server._gate import ServerGate
from resilience.server._headers import is_preflight
from resilience.server._options import ServerOptions
from resilience.server._quota import ServerQuota
from resilience.server._rate_key import KeyRule
from resilience.server._route_limit import RouteLimit

__all__ = (
    "DeadlineWheel",
    "KeyRule",
    "RequestContext",
    "RouteLimit",
    "ServerGate",
    "ServerOptions",
    "ServerQuota",
    "current_request",
    "is_preflight",
)
