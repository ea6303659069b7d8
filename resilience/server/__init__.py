"""The server side, without a framework: who asks, under which id, until when, and whether the request may come in."""

from resilience.server._bell import Bell
from resilience.server._context import RequestContext, current_request
from resilience.server._gate import ServerGate
from resilience.server._key import KeyRule
from resilience.server._options import ServerOptions
from resilience.server._preflight import is_preflight
from resilience.server._quota import Quota
from resilience.server._route import RouteLimit

__all__ = (
    "Bell",
    "KeyRule",
    "Quota",
    "RequestContext",
    "RouteLimit",
    "ServerGate",
    "ServerOptions",
    "current_request",
    "is_preflight",
)
