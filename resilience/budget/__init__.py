"""A ceiling on how much of the traffic may be repeated calls, so that repeating cannot become the outage."""

from resilience.budget._budget import CallCounter, RetryBudget, as_budget
from resilience.budget._options import BUDGET_NAME, BudgetOptions

__all__ = ("BUDGET_NAME", "BudgetOptions", "CallCounter", "RetryBudget", "as_budget")
