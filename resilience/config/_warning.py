"""Warnings that point at the line of the user's code that causes them."""

from __future__ import annotations

import inspect
import warnings
from types import FrameType

__all__ = ("ConfigurationWarning", "warn")


class ConfigurationWarning(UserWarning):
    """A variable, a key or the name of a pipeline that does not exist: most likely a typing mistake."""


def warn(text: str) -> None:
    """Warn at the line that called this toolkit or one of its adapters."""
    warnings.warn(text, ConfigurationWarning, stacklevel=_depth())


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
