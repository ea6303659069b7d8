"""Hedging: where an answer is late, ask a second time and take whichever acceptable answer comes first."""

from resilience.hedge._options import HedgeOptions
from resilience.hedge._policy import Hedge

__all__ = ("Hedge", "HedgeOptions")
