"""One request: the answers of all its attempts, and the time that each attempt may take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from resilience.client import asked_wait, is_out_of_time, is_worth_repeating
from resilience.timeout import Deadline, DeadlineSnapshot, allowed_by_service

__all__ = (
    "DRAIN_TIMEOUT",
    "MAX_READ_AHEAD",
    "MIN_TIMEOUT",
    "AttemptTimeout",
    "ClientExchange",
    "StepTimeouts",
    "is_spent",
    "longest_step",
    "retry_after_of",
)

R = TypeVar("R")
MAX_READ_AHEAD = 65_536
"""Bytes of a failed answer that are read at once, so that its connection is free during the wait for a retry."""
DRAIN_TIMEOUT = 0.1
"""Seconds in which the rest of a failed answer must arrive; else its connection is closed and not used again."""


class ClientExchange(Generic[R]):
    """Knows every answer of a request, so that each answer is closed once, except for the caller's.

    An attempt may outlive its call: a hedge that lost, or a thread after its timeout. Its answer is closed too. There
    is no lock: the state is two lists, whose `append`, `pop` and `remove` are atomic.

    Args:
        repeats: Whether the request may be sent more than once.
    """

    def __init__(self, *, repeats: bool) -> None:
        self.repeats = repeats
        self.deadline = Deadline.current()
        """The deadline of the caller. It applies to the body as well, which is read after the policies have ended."""
        self._open: list[R] = []
        self._failed: list[R] = []
        self._is_over = False

    def add(self, answer: R) -> Iterator[R]:
        """Add an answer. Yields the answers to close: this answer, if the call has ended already."""
        self._open.append(answer)
        if self._is_over and _removed(self._open, answer):
            yield answer

    def add_failed(self, answer: R) -> None:
        """Mark an answer as a failure: it is closed when the next attempt begins."""
        self._failed.append(answer)

    def take_failed(self) -> Iterator[R]:
        """Yield the failed answers, which must be closed before another attempt."""
        for answer in _taken(self._failed):
            if _removed(self._open, answer):
                yield answer

    def finish(self, answer: R | None) -> Iterator[R]:
        """End the call with the caller's `answer`, or None if it raises. Yields all other answers, for you to close."""
        self._is_over = True
        self._failed.clear()  # a late attempt must not close the caller's answer
        for other in tuple(self._open):
            if other is not answer and _removed(self._open, other):
                yield other


def _taken(answers: list[R]) -> Iterator[R]:
    while answers:
        try:
            yield answers.pop()
        except IndexError:  # another thread has taken it
            return


def _removed(answers: list[R], answer: R) -> bool:
    try:
        answers.remove(answer)
    except ValueError:  # another thread has taken it
        return False
    return True


def retry_after_of(answer: object, status: int) -> float | None:
    """Return the seconds that a failed answer asks to wait; -1 if the same request will fail again."""
    return asked_wait(answer) if is_worth_repeating(status) else -1.0


_GATEWAY_TIMEOUT = 504

_STEPS = ("connect", "write", "read")
MIN_TIMEOUT = 0.001
"""Seconds. A timeout of 0 would make a socket non-blocking."""


def longest_step(*steps: object) -> float | None:
    """Return the longest of a client's own timeouts, None if a step has no timeout."""
    numbers = [step for step in steps if isinstance(step, int | float)]
    return max(numbers) if len(numbers) == len(steps) else None


def is_spent(deadline: Deadline | None, margin: float) -> bool:
    """Return whether the time of the deadline is used up, so that the deadline ended the step, not a timeout."""
    return deadline is not None and deadline.remaining() - margin <= MIN_TIMEOUT


class AttemptTimeout:
    """The time of one attempt: the `seconds` that are left of its deadline, and `own`, the client's own timeout.

    `seconds` is None without a deadline, `own` without a timeout of the client. `snapshot` knows whether the deadline
    has moved since a step was given the time that was left.
    """

    __slots__ = ("own", "seconds", "snapshot")

    def __init__(self, seconds: float | None, own: float | None, deadline: Deadline | None) -> None:
        self.seconds, self.own, self.snapshot = seconds, own, DeadlineSnapshot(deadline)

    @property
    def allowed(self) -> float | None:
        """The seconds that this service allows an attempt, if the caller's deadline is sooner; else None."""
        return None if self.seconds is None else allowed_by_service(self.seconds, self.own, self.snapshot.moved)

    def allowed_before(self, status: int, margin: float) -> float | None:
        """Return `allowed` if an answer reports that the deadline we sent has passed; None for any other answer."""
        if status != _GATEWAY_TIMEOUT or self.seconds is None:
            return None
        return self.allowed if is_out_of_time(self.seconds, self.snapshot.left - margin) else None


class StepTimeouts(dict[str, Any]):
    """httpx's timeouts by step (connect, write, read, pool), each computed when its step begins.

    So a step gets only the time that the steps before it have left.
    """

    def __init__(self, given: Mapping[str, Any], deadline: Deadline | None, margin: float) -> None:
        super().__init__(given)
        self.deadline = deadline
        self._margin = margin
        self.allowance = AttemptTimeout(self.left, longest_step(*map(given.get, _STEPS)), deadline)

    def get(self, step: str, default: Any = None) -> Any:
        """Return the seconds that this step may take, None for no limit."""
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
        """Seconds for all steps together; None without a deadline."""
        if self.deadline is None or (remaining := self.deadline.remaining()) == math.inf:
            return None
        return max(MIN_TIMEOUT, remaining - self._margin)

    @property
    def is_spent(self) -> bool:
        """Whether no time is left."""
        return is_spent(self.deadline, self._margin) or self.has_moved

    @property
    def has_moved(self) -> bool:
        """Whether the deadline has moved since a step got its timeout: the step could have taken longer."""
        return self.allowance.snapshot.moved > 0 and self.allowance.snapshot.left - self._margin <= MIN_TIMEOUT
