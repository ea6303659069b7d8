"""A limit on the share of repeated calls, so that retries cannot multiply an outage."""

from resilience.budget._budget import CallCounter, RetryBudget, as_budget
from resilience.budget._options import BUDGET_NAME, BudgetOptions

__all__ = ("BUDGET_NAME", "BudgetOptions", "CallCounter", "RetryBudget", "as_budget")
