"""Lifecycle: whether this process starts, serves, says goodbye or is gone, and how much it still has in hand."""

from resilience.lifecycle._lifecycle import Lifecycle
from resilience.lifecycle._machine import DRAINING, READY, STARTING, STOPPED
from resilience.lifecycle._options import LifecycleOptions

__all__ = ("DRAINING", "READY", "STARTING", "STOPPED", "Lifecycle", "LifecycleOptions")
