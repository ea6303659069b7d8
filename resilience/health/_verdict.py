"""What the outcome of a probe means, in one word of text: why it failed, or nothing."""

from __future__ import annotations

from typing import Any

from resilience.errors import described, one_line

__all__ = ("CheckFailedError", "reason_of", "verdict_of")


class CheckFailedError(Exception):
    """Something a check looked at is not well; the text is the reason, without the name of an error in front."""


def verdict_of(result: Any) -> str:
    """Return why what a probe returned is a failure; empty for a pass, which is anything but False."""
    return "it returned False" if result is False else ""


def reason_of(error: BaseException) -> str:
    """Return an error in one line. Its own text may be what fails."""
    if isinstance(error, CheckFailedError):
        return one_line(error) or type(error).__name__
    return described(error)
