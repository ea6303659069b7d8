"""Switches of the whole process: no waits (for tests), and no retries at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

from resilience.options import Flag, Whole, checked

__all__ = ("SWITCHES", "is_active", "no_waits", "set_active")


class _Switches:
    """The state of both switches. A retry reads it only after a call has failed."""

    __slots__ = ("is_active", "no_waits")

    def __init__(self) -> None:
        self.is_active = True
        self.no_waits: dict[object, int | None] = {}
        """`attempts` of each `no_waits` block that runs now. To set or remove an item is atomic."""

    def max_attempts(self) -> int | None:
        """Return the `attempts` of the innermost `no_waits` block that names a number, or None."""
        return next((limit for limit in reversed(list(self.no_waits.values())) if limit is not None), None)


SWITCHES = _Switches()


def no_waits(attempts: int | None = None) -> AbstractContextManager[None]:
    """Skip the waits of every retry in the process while the `with` block runs. For tests.

    Each wait is still computed, shown in events, and counted against `timeout` and the deadline. So a test makes the
    same attempts as production, without the sleep. Blocks may be nested.

    Args:
        attempts: The most attempts of any retry, 1 to 1,000. None sets no limit; the innermost number is in force.

    Raises:
        ConfigurationError: `attempts` is not a whole number from 1 to 1,000.

    Example:
        >>> from resilience import Pipeline, Retry
        >>> texts = iter(["no number", "7"])
        >>> with no_waits():
        ...     Pipeline("catalogue", Retry(wait_initial="10s")).call(lambda: int(next(texts)))
        7
    """
    return _skip(None if attempts is None else checked(attempts, "attempts", Whole(1, 1000)))


@contextlib.contextmanager
def _skip(attempts: int | None) -> Iterator[None]:
    key = object()
    SWITCHES.no_waits[key] = attempts
    try:
        yield
    finally:
        del SWITCHES.no_waits[key]


def set_active(active: bool) -> None:  # noqa: FBT001 - stamina's function of this name
    """Switch every retry of the process on or off. Off: each call is made once, and its outcome is final."""
    SWITCHES.is_active = checked(active, "active", Flag())


def is_active() -> bool:
    """Return whether retries are switched on. They are on from the start."""
    return SWITCHES.is_active
