"""Switches of the whole process: no waits in tests, no retries at all. Read only once a call has failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

from resilience.options import Flag, Whole, checked

__all__ = ("are_waits_skipped", "is_active", "most_attempts", "no_waits", "set_active")

_skipping: dict[object, int | None] = {}  # one key for each `no_waits` in force: setting and removing one is atomic
_state = {"active": True}


def no_waits(attempts: int | None = None) -> AbstractContextManager[None]:
    """Have retries follow at once, in the whole process, for as long as the `with` block runs: for tests.

    Waits are still decided, shown in events, and counted against `timeout` and deadline: the same attempts are made as
    would be, only nobody sleeps. `attempts` caps those of every retry. May be nested; the innermost `attempts` holds.
    """
    return _skip(None if attempts is None else checked(attempts, "attempts", Whole(1, 1000)))


@contextlib.contextmanager
def _skip(attempts: int | None) -> Iterator[None]:
    key = object()
    _skipping[key] = attempts
    try:
        yield
    finally:
        del _skipping[key]


def are_waits_skipped() -> bool:
    """Whether `no_waits` is in force."""
    return bool(_skipping)


def most_attempts() -> int | None:
    """Return the attempts `no_waits` allows, or None where it says nothing."""
    return next((most for most in reversed(list(_skipping.values())) if most is not None), None)


def set_active(active: bool) -> None:  # noqa: FBT001 - stamina's function of this name
    """Switch every retry of this process on or off; off means each call is made once and its outcome stands."""
    _state["active"] = checked(active, "active", Flag())


def is_active() -> bool:
    """Whether retries are switched on, which they are from the start."""
    return _state["active"]
