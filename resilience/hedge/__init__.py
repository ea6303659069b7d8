"""Hedging: a second attempt if an answer is late; the first acceptable answer counts."""

from resilience.hedge._options import HedgeOptions
from resilience.hedge._policy import Hedge

__all__ = ("Hedge", "HedgeOptions")
