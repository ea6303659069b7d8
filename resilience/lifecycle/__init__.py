"""Lifecycle: the start, readiness, drain and stop of a process, and the number of requests in flight."""

from resilience.lifecycle._lifecycle import Lifecycle
from resilience.lifecycle._machine import DRAINING, READY, STARTING, STOPPED
from resilience.lifecycle._options import LifecycleOptions
from resilience.lifecycle._server_lifecycle import ServerLifecycle

__all__ = ("DRAINING", "READY", "STARTING", "STOPPED", "Lifecycle", "LifecycleOptions", "ServerLifecycle")
