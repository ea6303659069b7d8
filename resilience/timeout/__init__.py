"""Timeout and deadline: stop waiting in time, and know how much of it is left."""

from resilience.timeout._deadline import Deadline

__all__ = ("Deadline",)
