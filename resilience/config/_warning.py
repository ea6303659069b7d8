"""Warnings about settings, which point at the line of the user's code that causes them."""

from __future__ import annotations

from resilience._support.usage import warn_at_caller

__all__ = ("ConfigurationWarning", "warn")


class ConfigurationWarning(UserWarning):
    """A setting that is most likely a mistake: a name that does not exist, or seconds that look like milliseconds."""


def warn(text: str) -> None:
    """Warn at the line that called this toolkit or one of its adapters."""
    warn_at_caller(text, ConfigurationWarning)
