"""Health: the answers to the probes of Kubernetes, and checks that cannot hang them."""

from resilience.health._builtin_checks import breaker_check, loop_lag_check, pool_check, redis_check, threads_check
from resilience.health._check import CheckFailedError, CheckFunction
from resilience.health._health import Health
from resilience.health._options import HealthOptions
from resilience.health._reply import PROBE_PATHS, Reply
from resilience.health._report import Report, ReportEntry
from resilience.health._server import HealthServer

__all__ = (
    "PROBE_PATHS",
    "CheckFailedError",
    "CheckFunction",
    "Health",
    "HealthOptions",
    "HealthServer",
    "Reply",
    "Report",
    "ReportEntry",
    "breaker_check",
    "loop_lag_check",
    "pool_check",
    "redis_check",
    "threads_check",
)
