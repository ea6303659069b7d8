"""Warnings about code that runs and does not do what its author means. Each is given once in a process."""

from __future__ import annotations

import inspect
import warnings
from types import FrameType

__all__ = ("UsageWarning", "is_known", "warn_at_caller", "warn_once")

_MOST_KNOWN = 1000
_known: set[tuple[str, ...]] = set()


class UsageWarning(UserWarning):
    """A use of this library that works and is most likely a mistake, such as a retry inside a retry."""


def is_known(key: tuple[str, ...]) -> bool:
    """Return whether a warning with this `key` would not be given any more."""
    return key in _known or len(_known) >= _MOST_KNOWN


def warn_once(key: tuple[str, ...], text: str) -> None:
    """Warn with `text` at the line that called this library, unless a warning with this `key` was given before."""
    if is_known(key):
        return
    _known.add(key)
    warn_at_caller(text, UsageWarning)


def warn_at_caller(text: str, category: type[Warning]) -> None:
    """Warn at the line that called this library or one of its adapters."""
    warnings.warn(text, category, stacklevel=_depth())


def _depth() -> int:
    """Return the number of our frames between `warn` and the caller."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and _is_ours(frame):
        depth, frame = depth + 1, frame.f_back
    return depth


def _is_ours(frame: FrameType) -> bool:
    # `skip_file_prefixes` of Python 3.12 and later would need the place at which each adapter is installed.
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package == "resilience" or package.startswith("resilience_")
