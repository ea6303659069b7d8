"""Timeout and deadline: stop waiting in time, and know how much of it is left."""

from resilience.timeout._deadline import Deadline, allowed_by_service, callers_patience, patience_left
from resilience.timeout._late import LateWork
from resilience.timeout._moving import LatestDeadline, Patience, Promise
from resilience.timeout._options import TimeoutOptions
from resilience.timeout._policy import Timeout

__all__ = (
    "Deadline",
    "LateWork",
    "LatestDeadline",
    "Patience",
    "Promise",
    "Timeout",
    "TimeoutOptions",
    "allowed_by_service",
    "callers_patience",
    "patience_left",
)
