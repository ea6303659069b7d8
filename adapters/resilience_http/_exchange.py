"""One request and its answers, however many attempts are made, and wherever their threads or tasks end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from resilience.client import asked_wait, is_worth_repeating
from resilience.timeout import Deadline

__all__ = ("DRAIN", "SMALL", "Exchange", "wait_asked_by")

R = TypeVar("R")
SMALL = 65_536
"""Bytes of a failed answer that are read at once, so that its connection is free while the next attempt waits."""
DRAIN = 0.1
"""Seconds in which the rest of a failed answer must come, else its connection is closed rather than used again."""


class Exchange(Generic[R]):
    """Knows every answer that has come, so that all but the caller's are closed, each of them once.

    An attempt may outlive its call (a hedge that lost, a thread past its timeout): what it brings then is closed as
    well. Lists are all there is to it, whose `append` and `pop` are atomic.
    """

    def __init__(self, *, repeats: bool) -> None:
        self.repeats = repeats
        self.deadline = Deadline.current()
        """The caller's own: it still holds when the policies have done their part and the body is read."""
        self._open: list[R] = []
        self._failed: list[R] = []
        self._is_over = False

    def arrived(self, answer: R) -> Iterator[R]:
        """Take note of an answer; yields those to be closed: itself, where nobody waits for it any more."""
        self._open.append(answer)
        if self._is_over and _removed(self._open, answer):
            yield answer

    def failed(self, answer: R) -> None:
        """Take note that an answer is a failure: the next attempt makes it useless."""
        self._failed.append(answer)

    def useless(self) -> Iterator[R]:
        """Yield the failed answers, now that another attempt begins."""
        for answer in _taken(self._failed):
            if _removed(self._open, answer):
                yield answer

    def ended(self, answer: R | None) -> Iterator[R]:
        """End the call with `answer`; yields all others. Where it comes to nothing after all, end it with None."""
        self._is_over = True
        self._failed.clear()  # an attempt that is late must not find the caller's answer useless
        for other in tuple(self._open):
            if other is not answer and _removed(self._open, other):
                yield other


def _taken(answers: list[R]) -> Iterator[R]:
    while answers:
        try:
            yield answers.pop()
        except IndexError:  # another thread was faster
            return


def _removed(answers: list[R], answer: R) -> bool:
    try:
        answers.remove(answer)
    except ValueError:  # another thread was faster
        return False
    return True


def wait_asked_by(answer: object, status: int) -> float | None:
    """Return the wait a failed answer asks for, below 0 where the same request will fare no better later."""
    return asked_wait(answer) if is_worth_repeating(status) else -1.0
