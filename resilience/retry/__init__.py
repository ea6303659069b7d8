"""Retry: another attempt, later, if it is worth one."""

from resilience.budget import RetryBudget
from resilience.retry._options import RetryOptions
from resilience.retry._policy import Retry

__all__ = ("Retry", "RetryBudget", "RetryOptions")
