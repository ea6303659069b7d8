"""Warnings that point at the line of the user's code to which they are due."""

from __future__ import annotations

import inspect
import warnings
from types import FrameType

__all__ = ("ConfigurationWarning", "warn")


class ConfigurationWarning(UserWarning):
    """A variable, a key or the name of a pipeline that means nothing: most likely a typing mistake."""


def warn(text: str) -> None:
    """Warn at the place that called into this toolkit, adapters included, however deep inside of it this is."""
    warnings.warn(text, ConfigurationWarning, stacklevel=_depth())


def _depth() -> int:
    """Return how many frames of ours stand above the caller's, counted from `warn`."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and _is_ours(frame):
        depth, frame = depth + 1, frame.f_back
    return depth


def _is_ours(frame: FrameType) -> bool:
    # `skip_file_prefixes` does this from Python 3.12 on, but would have to know where each adapter is installed.
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package == "resilience" or package.startswith("resilience_")
