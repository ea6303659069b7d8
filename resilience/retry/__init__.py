"""Retry: make a failed call again, later, if it is worth it."""

from resilience.budget import RetryBudget
from resilience.retry._options import RetryOptions
from resilience.retry._policy import Retry
from resilience.retry._switches import is_active, no_waits, set_active

__all__ = ("Retry", "RetryBudget", "RetryOptions", "is_active", "no_waits", "set_active")
