"""The log of the failures of metrics: they cost no request, and few lines."""

from __future__ import annotations

import logging

from resilience._support.log_writer import write_line
from resilience.clock import monotonic

__all__ = ("report",)

_INTERVAL = 60.0
_quiet_until: dict[str, float] = {}


def report(failure: str, error: Exception) -> None:
    """Log a failure, at most once a minute for each kind.

    Args:
        failure: The kind of the failure, a fixed text.
        error: The error whose traceback follows.
    """
    now = monotonic()
    if now >= _quiet_until.get(failure, now):
        _quiet_until[failure] = now + _INTERVAL
        write_line(logging.ERROR, f"metrics: {failure}", error=error)
