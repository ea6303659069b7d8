"""The server side, without a framework: who asks, under which id, until when, and whether the request may come in."""

from resilience.inbound._bell import Bell
from resilience.inbound._context import RequestContext, current_request
from resilience.inbound._gate import Inbound
from resilience.inbound._key import KeyRule
from resilience.inbound._options import ServerOptions
from resilience.inbound._preflight import is_preflight
from resilience.inbound._quota import Quota
from resilience.inbound._route import RouteLimit

__all__ = (
    "Bell",
    "Inbound",
    "KeyRule",
    "Quota",
    "RequestContext",
    "RouteLimit",
    "ServerOptions",
    "current_request",
    "is_preflight",
)
