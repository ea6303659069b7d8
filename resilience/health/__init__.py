"""Health: probes that Kubernetes can trust, and checks that can never hang them."""

from resilience.health._check import Probe
from resilience.health._health import Health
from resilience.health._options import HealthOptions
from resilience.health._ready_made import breaker_check, loop_lag_check, pool_check, threads_check
from resilience.health._redis import redis_check
from resilience.health._reply import PROBE_PATHS, Reply
from resilience.health._report import Report, ReportEntry
from resilience.health._server import HealthServer
from resilience.health._verdict import CheckFailedError

__all__ = (
    "PROBE_PATHS",
    "CheckFailedError",
    "Health",
    "HealthOptions",
    "HealthServer",
    "Probe",
    "Reply",
    "Report",
    "ReportEntry",
    "breaker_check",
    "loop_lag_check",
    "pool_check",
    "redis_check",
    "threads_check",
)
