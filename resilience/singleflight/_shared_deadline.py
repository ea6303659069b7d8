"""The time of a shared call: the latest deadline of its callers, and whether the call ended for lack of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resilience.errors import DeadlineExceededError, cut_off_by_caller, said_by
from resilience.timeout import Deadline, LatestDeadline
from resilience.timeout._deadline import CURRENT_FRAME, leave_frame

__all__ = ("covers", "extend", "has_deadline", "in_force", "is_last", "new_deadline", "ran_short")

_CLOSE_SHARE, _MIN_CLOSE = 0.1, 0.05
"""A call that fails within this share of its time, or these seconds, of its first deadline may have failed by it."""


def new_deadline(first: Deadline | None, before: LatestDeadline | None) -> LatestDeadline | None:
    """Return the deadline of a call that a caller with the deadline `first` begins, None for no deadline.

    `before` is the deadline of the call that was too short for this caller, if there was one. The other callers of that
    call wait for the new call too, so its deadline is the later one of `before` and `first`.
    """
    if first is None:
        return None
    latest = LatestDeadline(first)
    if before is not None and latest.extend(before):
        latest.start()
    return latest


def covers(latest: LatestDeadline | None, deadline: Deadline | None) -> bool:
    """Return whether a call with the deadline `latest` began with all the time that `deadline` allows."""
    return latest is None or latest.covers(deadline)


def is_last(latest: LatestDeadline | None, deadline: Deadline | None) -> bool:
    """Return whether a call with the deadline `latest` runs no longer than until `deadline`."""
    return latest is None or deadline is None or latest.at <= deadline.at


def extend(latest: LatestDeadline | None, deadline: Deadline | None) -> bool:
    """Let a call with the deadline `latest` run until `deadline` too; return whether that is later than all others."""
    return latest is not None and latest.extend(deadline)


def has_deadline(latest: LatestDeadline | None) -> bool:
    """Return whether a call with the deadline `latest` has one, or else the caller that makes it."""
    return latest is not None or Deadline.current() is not None


@contextmanager
def in_force(latest: LatestDeadline | None) -> Iterator[None]:
    """Put `latest` in force for a call, in place of the deadline of the caller that makes it."""
    if not has_deadline(latest):
        yield
        return
    CURRENT_FRAME.set((latest, entered := object(), CURRENT_FRAME.get()))
    try:
        yield
    finally:
        leave_frame(entered)


def ran_short(deadline: LatestDeadline | None, result: object, error: BaseException | None) -> bool:
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


def _is_gateway_timeout(result: object) -> bool:
    return DeadlineExceededError.http_status in (said_by(result, "status_code"), said_by(result, "status"))
