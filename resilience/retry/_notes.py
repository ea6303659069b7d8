"""What an error that was given up says about the attempts made (PEP 678)."""

from __future__ import annotations

import contextlib

from resilience._support.notes import annotate as note
from resilience.retry._machine import Attempts, Outcome

__all__ = ("annotate", "short")

_LONGEST_MESSAGE = 80
_LONGEST_TYPE = 60


def short(outcome: Outcome) -> str:
    """Return one line on how an attempt ended. Text, not the error: errors hold on to the frames they passed."""
    if outcome.error is None:
        return f"returned {type(outcome.result).__name__[:_LONGEST_TYPE]}"
    kind, message = type(outcome.error).__name__[:_LONGEST_TYPE], ""
    with contextlib.suppress(Exception):  # whatever is wrong with its text
        message = " ".join(str(outcome.error)[: 2 * _LONGEST_MESSAGE].split())
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}..."
    return f"{kind}: {message}" if message else kind


def annotate(error: Exception, name: str, attempts: Attempts, reason: str, elapsed: float) -> None:
    """Say on `error` what the retry called `name` tried, in place of what it said when it met this error before."""
    begins = f"{name}: gave up after "
    lines = [f"{begins}{attempts.number} attempts in {elapsed:.3f} s ({reason})", *attempts.told()]
    note(error, begins, ["\n  ".join(lines)])
