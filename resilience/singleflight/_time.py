"""The time of a shared call: the latest deadline of its callers, and whether it ended for lack of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resilience.errors import DeadlineExceededError, cut_off_by_caller, said_by
from resilience.timeout import Deadline, LatestDeadline
from resilience.timeout._deadline import CURRENT_FRAME, leave_frame

if TYPE_CHECKING:
    from resilience.singleflight._machine import Flight

__all__ = ("covers", "deadline_for", "has_deadline", "in_force", "is_last", "join", "ran_short")

_TENTH, _LEAST = 0.1, 0.05


def deadline_for(first: Deadline | None, before: Flight[Any] | None) -> LatestDeadline | None:
    """Return the deadline of the call that `first` begins, which all callers of the flight `before` wait for too."""
    if first is None:
        return None
    latest = LatestDeadline(first)
    if before is not None and latest.extend(before.deadline):
        latest.start()
    return latest


def covers(flight: Flight[Any], deadline: Deadline | None) -> bool:
    """Whether the call of `flight` began with all the time that `deadline` allows."""
    return flight.deadline is None or flight.deadline.covers(deadline)


def is_last(flight: Flight[Any], deadline: Deadline | None) -> bool:
    """Whether the call of `flight` runs no longer than until `deadline`."""
    return flight.deadline is None or deadline is None or flight.deadline.at <= deadline.at


def join(flight: Flight[Any], deadline: Deadline | None) -> bool:
    """Let the call of `flight` run until `deadline` too; return whether that is later than all others."""
    return flight.deadline is not None and flight.deadline.extend(deadline)


def has_deadline(flight: Flight[Any]) -> bool:
    """Whether a deadline is in force for the call of `flight`, or for the caller that makes it."""
    return flight.deadline is not None or Deadline.current() is not None


@contextmanager
def in_force(flight: Flight[Any]) -> Iterator[None]:
    """Put the deadline of `flight` in force in place of the one that its caller has."""
    if not has_deadline(flight):
        yield
        return
    CURRENT_FRAME.set((flight.deadline, entered := object(), CURRENT_FRAME.get()))
    try:
        yield
    finally:
        leave_frame(entered)


def ran_short(deadline: LatestDeadline | None, result: Any, error: BaseException | None) -> bool:
    """Whether a call may have ended as it did because it began under `deadline`, and not under a later one.

    What our own policies wait for goes on when the deadline moves. It is different for what was computed from the
    deadline at the beginning and given away: a socket's timeout, the deadline header of a request. Then the call fails,
    or brings a 504, at about the moment of that deadline.
    """
    if deadline is None or (error is None and not _is_gateway_timeout(result)):
        return False
    if cut_off_by_caller(error) is not None or said_by(error, "is_before_call") is True:
        return True
    return deadline.left_at_start() <= max(_LEAST, deadline.length * _TENTH)


def _is_gateway_timeout(result: Any) -> bool:
    return DeadlineExceededError.http_status in (said_by(result, "status_code"), said_by(result, "status"))
