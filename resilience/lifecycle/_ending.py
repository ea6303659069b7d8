"""How a step ended, and what follows from it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from resilience.clock import monotonic
from resilience.errors import StartupError, described
from resilience.events import Emitter
from resilience.lifecycle._hooks import Hook, Need

__all__ = ("Ended", "Waiting", "complain", "hung")

_log = logging.getLogger("resilience")

_SHORTEST = 0.1
"""Seconds the last look at a dependency is given."""


class Ended(NamedTuple):
    """What a step returned or raised; `seconds` is how long one was waited for that is still at work."""

    result: Any = None
    error: BaseException | None = None
    seconds: float | None = None

    @property
    def reason(self) -> str:
        """Why this is a failure, in one line; empty where it is none."""
        if self.seconds is not None:
            return f"still running after {self.seconds:.3g} s"
        if self.error is None:
            return ""
        return described(self.error)


def hung(lasted: float) -> Ended:
    """Return the end of a step that has none, after so many seconds."""
    return Ended(seconds=lasted)


def complain(events: Emitter, stage: str, hook: Hook, ended: Ended) -> None:
    """Report a step that failed or hangs. Raises `StartupError` for one that is required."""
    reason = ended.reason
    if not reason:
        return
    _log.error("%s hook %r failed: %s", stage, hook.name, reason, exc_info=ended.error)
    events.emit("lifecycle.hook_failed", "lifecycle", monotonic(), "error", stage=stage, hook=hook.name, reason=reason)
    if hook.is_required:
        raise StartupError(f"start hook {hook.name!r} failed: {reason}", step=hook.name) from ended.error


class Waiting:
    """Waits for one dependency: how long still, and what to say meanwhile."""

    def __init__(self, need: Need, events: Emitter, is_pointless: Callable[[], bool]) -> None:
        self.need = need
        self.is_pointless = is_pointless
        """Whether the process has been told to end meanwhile."""
        self._events = events
        self._began = monotonic()
        self._attempts = 0

    def _elapsed(self) -> float:
        return monotonic() - self._began

    def left(self) -> float:
        """Return how long the next look may take."""
        return max(_SHORTEST, self.need.timeout - self._elapsed())

    def pause(self) -> float:
        """Return how long to wait before it."""
        return min(self.need.interval, max(0.0, self.need.timeout - self._elapsed()))

    def is_over(self, ended: Ended) -> bool:
        """Whether the dependency is there. Raises `StartupError` where it will not be waited for any longer."""
        self._attempts += 1
        reason = ended.reason or ("it returned False" if ended.result is False else "")
        if not reason:
            if self._attempts > 1:
                _log.info("%r is there after %.3g s", self.need.name, self._elapsed())
            return True
        if self.is_pointless():
            raise StartupError(
                f"told to stop while waiting for {self.need.name!r} ({reason})", step=self.need.name
            ) from ended.error
        if self._elapsed() >= self.need.timeout:
            raise StartupError(
                f"{self.need.name!r} is not there after {self._elapsed():.3g} s ({reason})", step=self.need.name
            ) from ended.error
        self._tell(reason)
        return False

    def _tell(self, reason: str) -> None:
        if self._attempts & (self._attempts - 1) == 0:  # the 1st, 2nd, 4th, 8th time: a log nobody has to scroll
            _log.warning("waiting for %r: %s", self.need.name, reason)
        self._events.emit(
            "lifecycle.waiting", "lifecycle", monotonic(), "warning",
            dependency=self.need.name, reason=reason, elapsed=self._elapsed(), attempts=self._attempts,
        )  # fmt: skip
