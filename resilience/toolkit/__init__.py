"""The object a service holds: pipelines, limiters, health, lifecycle and errors, built from one configuration."""

from resilience.toolkit._toolkit import Resilience

__all__ = ("Resilience",)
