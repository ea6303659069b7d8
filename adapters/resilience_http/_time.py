"""How long each step of a request may take: never longer than somebody waits for its outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resilience.client import is_out_of_time
from resilience.timeout import Deadline, DeadlineSnapshot, allowed_by_service

__all__ = ("LEAST", "Allowance", "StepTimeouts", "is_spent", "longest")

_GATEWAY_TIMEOUT = 504

_STEPS = ("connect", "write", "read")
LEAST = 0.001
"""Seconds: 0 would make a socket non-blocking."""


def longest(*steps: Any) -> float | None:
    """Return the longest of a client's own timeouts, None if a step has none."""
    return max(steps) if all(isinstance(step, int | float) for step in steps) else None


def is_spent(deadline: Deadline | None, margin: float) -> bool:
    """Whether nothing is left: what ended was the deadline's time, not a timeout of the client's own."""
    return deadline is not None and deadline.remaining() - margin <= LEAST


class Allowance:
    """What one attempt may take: the `seconds` that its deadline leaves, and `own`, the client's own timeout.

    `seconds` is None without a deadline, `own` without a timeout of the client. `snapshot` knows whether the deadline
    has moved since a step was given the time that was left.
    """

    __slots__ = ("own", "seconds", "snapshot")

    def __init__(self, seconds: float | None, own: float | None, deadline: Deadline | None) -> None:
        self.seconds, self.own, self.snapshot = seconds, own, DeadlineSnapshot(deadline)

    @property
    def allowed(self) -> float | None:
        """The seconds this service allows an attempt that its caller's deadline cuts off; None if it does not."""
        return None if self.seconds is None else allowed_by_service(self.seconds, self.own, self.snapshot.moved)

    def allowed_before(self, status: int, margin: float) -> float | None:
        """Return `allowed` for an answer that says that the deadline we sent has passed; None for any other answer."""
        if status != _GATEWAY_TIMEOUT or self.seconds is None:
            return None
        return self.allowed if is_out_of_time(self.seconds, self.snapshot.left - margin) else None


class StepTimeouts(dict[str, Any]):
    """httpx's timeouts by step (connect, write, read, pool), each looked up when its step begins.

    So what the earlier steps took is not given to the later ones again.
    """

    def __init__(self, given: Mapping[str, Any], deadline: Deadline | None, margin: float) -> None:
        super().__init__(given)
        self.deadline = deadline
        self._margin = margin
        self.allowance = Allowance(self.left, longest(*map(given.get, _STEPS)), deadline)

    def get(self, step: str, default: Any = None) -> Any:
        """Return the seconds this step may take, None for no limit."""
        allowed: float | None = super().get(step, default)
        left = self.left
        if left is None or (allowed is not None and allowed <= left):
            return allowed
        self.allowance.snapshot = DeadlineSnapshot(self.deadline)
        return left

    def __getitem__(self, step: str) -> Any:
        super().__getitem__(step)
        return self.get(step)

    @property
    def left(self) -> float | None:
        """Seconds for all steps together; None where nobody waits for them."""
        if self.deadline is None or (remaining := self.deadline.remaining()) == math.inf:
            return None
        return max(LEAST, remaining - self._margin)

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left of it."""
        return is_spent(self.deadline, self._margin) or self.has_moved

    @property
    def has_moved(self) -> bool:
        """Whether the deadline has moved since a step was given what was left: the step could have taken longer."""
        return self.allowance.snapshot.moved > 0 and self.allowance.snapshot.left - self._margin <= LEAST
