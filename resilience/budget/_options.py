"""The options of a retry budget."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Flag, Number, Options, Text, Whole, option

__all__ = ("BUDGET_NAME", "BudgetOptions")

BUDGET_NAME = Text("a name of letters, digits and . _ - /", pattern=r"[A-Za-z0-9][A-Za-z0-9._/-]*", longest=100)
"""The rule for the name of a budget."""


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    """A share of the calls in flight, after Envoy and failsafe-go. Retries and hedged attempts count together."""

    ratio: float = option(0.2, Number(0, 1), "retries and hedged attempts in flight for each call at its first attempt")
    minimum: int = option(3, Whole(0), "retries and hedged attempts in flight that are always allowed")
    shadow: bool = option(False, Flag(), "report refusals, but refuse nothing")
    shared: bool = option(False, Flag(), "share the budget with the other instances, through Redis")
