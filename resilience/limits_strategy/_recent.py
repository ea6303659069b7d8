"""The answers to the last hits of a request, for the question that follows each of them.

Flask-Limiter and slowapi call `hit`, and then `get_window_stats` for the headers of the response. On Redis the second
call would be one more round trip, and its answer could count the hits of other requests. So `hit` keeps its answer in a
context variable, and the next `get_window_stats` of the same context takes it from there, once, within a second.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import NamedTuple

from limits import WindowStats

__all__ = ("RecentAnswers",)

_MAX_AGE = 1.0
_MAX_ANSWERS = 8


class _Answer(NamedTuple):
    source: object
    key: str
    stats: WindowStats
    at: float


# A tuple that is replaced, never changed: a context that is copied for another task keeps its own.
_answers: ContextVar[tuple[_Answer, ...]] = ContextVar("resilience_limits_answers", default=())


class RecentAnswers:
    """The recent answers of one limiter, by key, in the current context: at most eight of all limiters."""

    __slots__ = ()

    def keep(self, key: str, stats: WindowStats) -> None:
        """Keep the answer to a hit."""
        others = tuple(each for each in _answers.get() if not self._is_mine(each, key))
        _answers.set((_Answer(self, key, stats, time.monotonic()), *others[: _MAX_ANSWERS - 1]))

    def take(self, key: str) -> WindowStats | None:
        """Return the answer to the last hit, and forget it; None if there is none that is younger than a second."""
        kept = _answers.get()
        mine = next((each for each in kept if self._is_mine(each, key)), None)
        if mine is None:
            return None
        _answers.set(tuple(each for each in kept if each is not mine))
        return mine.stats if time.monotonic() - mine.at < _MAX_AGE else None

    def _is_mine(self, answer: _Answer, key: str) -> bool:
        return answer.source is self and answer.key == key
