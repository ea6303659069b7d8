"""Health: probes that Kubernetes can trust, and checks that can never hang them."""

from resilience.health._check import Probe
from resilience.health._health import Health
from resilience.health._options import HealthOptions
from resilience.health._redis import redis_check
from resilience.health._reply import Reply
from resilience.health._report import Entry, Report
from resilience.health._server import HealthServer

__all__ = ("Entry", "Health", "HealthOptions", "HealthServer", "Probe", "Reply", "Report", "redis_check")
