"""Fallback: an alternative in place of an error, or of a result that is not acceptable."""

from resilience.fallback._policy import Fallback

__all__ = ("Fallback",)
