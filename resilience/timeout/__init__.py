"""Timeout and deadline: stop waiting in time, and know how much of it is left."""

from resilience.timeout._deadline import Deadline, allowed_by_service, caller_remaining, neutral_remaining
from resilience.timeout._late import LateWork
from resilience.timeout._moving import DeadlineSnapshot, LatestDeadline, Patience
from resilience.timeout._options import TimeoutOptions
from resilience.timeout._policy import Timeout

__all__ = (
    "Deadline",
    "DeadlineSnapshot",
    "LateWork",
    "LatestDeadline",
    "Patience",
    "Timeout",
    "TimeoutOptions",
    "allowed_by_service",
    "caller_remaining",
    "neutral_remaining",
)
