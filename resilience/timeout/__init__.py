"""Timeout and deadline: stop waiting in time, and know how much time is left."""

from resilience.timeout._deadline import Deadline
from resilience.timeout._late_work import LateWork
from resilience.timeout._moving_deadline import DeadlineSnapshot, LatestDeadline
from resilience.timeout._options import TimeoutOptions
from resilience.timeout._origin import allowed_by_service, caller_remaining, neutral_remaining
from resilience.timeout._policy import Timeout
from resilience.timeout._time_limit import OF_A_CLIENT, TimeLimit
from resilience.timeout._waiting import DeadlineTimer, DeadlineWait

__all__ = (
    "OF_A_CLIENT",
    "Deadline",
    "DeadlineSnapshot",
    "DeadlineTimer",
    "DeadlineWait",
    "LateWork",
    "LatestDeadline",
    "TimeLimit",
    "Timeout",
    "TimeoutOptions",
    "allowed_by_service",
    "caller_remaining",
    "neutral_remaining",
)
