"""Who ended a call at a deadline: the service, or a caller that waits for less time than the service allows.

A dependency is to blame for a call that took all the time the service allows. It is not to blame if the caller cut the
call off sooner: no healthy dependency is faster than every caller wishes. Two things are the caller's doing:

- The deadline in force is the caller's own (`Deadline.limit` is later than `Deadline.at`).
- The deadline in force is the service's, but less than half of its time was left when the call began. A client can use
  up the first half: it sends its body, or reads an answer, as slowly as it likes. So a healthy dependency that takes
  less than half of the service's deadline is out of the client's reach.
"""

from __future__ import annotations

import math

from resilience.timeout._deadline import CURRENT_FRAME, Deadline, Frame

__all__ = ("allowed_by_service", "caller_remaining", "neutral_remaining")

_MIN_SHARE = 0.5
"""The share of the service's own deadline that a call must have had, for its end to count against the dependency."""


def allowed_by_service(seconds: float, own: float | None = None, moved: float = 0.0) -> float | None:
    """Return the seconds that the service allows a call whose caller cut it off after `seconds`.

    A policy or client that ends a call at the deadline in force passes this value to `DeadlineExceededError` as
    `allowed`; every other policy reads it there.

    Args:
        seconds: The seconds after which the call was ended.
        own: The limit in seconds of the policy or client that ended the call, None if it has none.
        moved: The seconds by which the deadline in force was extended after `seconds` were computed from it, because
            callers with more time joined the call.

    Returns:
        None if the service itself ended the call: by `own`, or by a deadline of its own of which the call had at least
        half. `math.inf` if the caller ended it and the service sets no limit.
    """
    if own is not None and seconds >= own:
        return None
    frame = CURRENT_FRAME.get()
    grace = _grace(frame) + moved
    if grace > 0:
        return seconds + grace if own is None else min(own, seconds + grace)
    span = None if frame is None or frame[0] is None else frame[0].span
    if span is None:
        return None
    least = span * _MIN_SHARE
    if seconds >= (least if own is None else min(own, least)):
        return None
    return span if own is None else min(own, span)


def caller_remaining() -> float:
    """Return for how many seconds the caller still waits, if that is less than the service allows; else `math.inf`."""
    frame = CURRENT_FRAME.get()
    if frame is None or frame[0] is None or _grace(frame) <= 0:
        return math.inf
    return frame[0].remaining()


def neutral_remaining() -> float:
    """Return the seconds left, if a call that begins now and is cut off at the deadline would count for nothing.

    That is so if the deadline in force is the caller's, or if less than half of the service's own deadline is left.
    Otherwise, and without a deadline, it is `math.inf`.
    """
    frame = CURRENT_FRAME.get()
    if frame is None or (in_force := frame[0]) is None:
        return math.inf
    left, span = in_force.remaining(), in_force.span
    return left if _grace(frame) > 0 or (span is not None and left < span * _MIN_SHARE) else math.inf


def _grace(frame: Frame | None) -> float:
    """Return for how many seconds after the deadline in force the service itself would let the work go on."""
    in_force = None if frame is None else frame[0]
    if in_force is None or in_force.at == math.inf:
        return 0.0
    limit = in_force.limit
    while frame is not None and isinstance(frame[1], Deadline):  # a shield hides the deadlines outside of it
        limit = min(limit, frame[1].limit)
        frame = frame[2]
    return limit - in_force.at
