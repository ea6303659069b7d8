"""Fallback: a second-best answer instead of an error."""

from resilience.fallback._policy import Fallback

__all__ = ("Fallback",)
