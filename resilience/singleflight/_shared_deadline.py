"""The time of a shared call: the latest deadline of its callers, and whether the call ended for lack of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resilience.errors import DeadlineExceededError, cut_off_by_caller, said_by
from resilience.timeout import Deadline, LatestDeadline
from resilience.timeout._deadline import CURRENT_FRAME, leave_frame

if TYPE_CHECKING:
    from resilience.singleflight._machine import Flight

__all__ = ("covers", "extend", "has_deadline", "in_force", "is_last", "new_deadline", "ran_short")

_CLOSE_SHARE, _MIN_CLOSE = 0.1, 0.05
"""A call that fails within this share of its time, or these seconds, of its first deadline may have failed by it."""


def new_deadline(first: Deadline | None, before: Flight[Any] | None) -> LatestDeadline | None:
    """Return the deadline of a call that a caller with the deadline `first` begins, None for no deadline.

    `before` is the flight that was too short for this caller, if there was one: its other callers wait for the new call
    too, so the deadline is the latest of theirs and `first`.
    """
    if first is None:
        return None
    latest = LatestDeadline(first)
    if before is not None and latest.extend(before.deadline):
        latest.start()
    return latest


def covers(flight: Flight[Any], deadline: Deadline | None) -> bool:
    """Return whether the call of `flight` began with all the time that `deadline` allows."""
    return flight.deadline is None or flight.deadline.covers(deadline)


def is_last(flight: Flight[Any], deadline: Deadline | None) -> bool:
    """Return whether the call of `flight` runs no longer than until `deadline`."""
    return flight.deadline is None or deadline is None or flight.deadline.at <= deadline.at


def extend(flight: Flight[Any], deadline: Deadline | None) -> bool:
    """Let the call of `flight` run until `deadline` too; return whether that is later than all others."""
    return flight.deadline is not None and flight.deadline.extend(deadline)


def has_deadline(flight: Flight[Any]) -> bool:
    """Return whether a deadline is in force for the call of `flight`, or for the caller that makes it."""
    return flight.deadline is not None or Deadline.current() is not None


@contextmanager
def in_force(flight: Flight[Any]) -> Iterator[None]:
    """Put the deadline of `flight` in force, in place of the deadline of its leader."""
    if not has_deadline(flight):
        yield
        return
    CURRENT_FRAME.set((flight.deadline, entered := object(), CURRENT_FRAME.get()))
    try:
        yield
    finally:
        leave_frame(entered)


def ran_short(deadline: LatestDeadline | None, result: Any, error: BaseException | None) -> bool:
    """Return whether a call may have ended as it did because it began under `deadline`, and not under a later one.

    The waits of our own policies go on when the deadline moves. A number that was computed from the deadline at the
    beginning and handed out does not: the timeout of a socket, the deadline header of a request. Then the call fails,
    or returns a response with status 504, at about the moment of that deadline.
    """
    if deadline is None or (error is None and not _is_gateway_timeout(result)):
        return False
    if cut_off_by_caller(error) is not None or said_by(error, "is_before_call") is True:
        return True
    return deadline.left_at_start() <= max(_MIN_CLOSE, deadline.length * _CLOSE_SHARE)


def _is_gateway_timeout(result: Any) -> bool:
    return DeadlineExceededError.http_status in (said_by(result, "status_code"), said_by(result, "status"))
