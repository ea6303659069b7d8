"""Both breakers, pybreaker's and ours, in one world whose time is moved by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pybreaker
import pytest

from resilience import CircuitBreaker
from resilience.breaker import _storage
from resilience.testing import ManualClock

__all__ = ("DownError", "Log", "World", "fail", "failing", "is_refused", "moved_by_hand")


class DownError(Exception):
    """The dependency's."""


class Wall(datetime):
    """The wall clock, ahead of the real one."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """Return the time it shows."""
        return datetime.now(tz) + cls.ahead


def moved_by_hand(monkeypatch: pytest.MonkeyPatch) -> type[Wall]:
    """Give both breakers a wall clock of this test's own."""
    wall = type("Wall", (Wall,), {})
    monkeypatch.setattr(pybreaker, "datetime", wall)
    monkeypatch.setattr(_storage, "datetime", wall)
    return wall


class World:
    """Makes breakers of one class and lets time pass for them."""

    def __init__(self, made: type[pybreaker.CircuitBreaker], wall: type[Wall]) -> None:
        self.made: Any = made
        self._clock = ManualClock()
        self._wall = wall
        own = {"clock": self._clock, "reset_timeout_jitter": 0, "storage_timeout": 10}
        self._own = own if made is CircuitBreaker else {}

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Make a breaker whose open time is exact."""
        return self.made(*args, **keywords, **self._own)

    def advance(self, seconds: float) -> None:
        """Let time pass on every clock."""
        self._clock.advance(seconds)
        self._wall.ahead += timedelta(seconds=seconds)


class Log(pybreaker.CircuitBreakerListener):
    """Records the hooks that are called."""

    def __init__(self, name: str = "", into: list[Any] | None = None) -> None:
        self.name = name
        self.heard: list[Any] = [] if into is None else into

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self.heard.append((f"{self.name}before", args, kwargs))

    def success(self, cb: Any) -> None:
        self.heard.append(f"{self.name}success")

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.heard.append(f"{self.name}failure {type(exc).__name__}")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.heard.append(f"{self.name}{old_state.name} > {new_state.name}")


def fail(error: type[BaseException] = DownError) -> None:
    """Raise."""
    raise error("down")


def failing(breaker: Any, times: int, error: type[Exception] = DownError) -> None:
    """Call a function that fails; the last error may be the breaker's."""
    for _ in range(times):
        with pytest.raises((error, pybreaker.CircuitBreakerError)):
            breaker.call(fail, error)


def is_refused(breaker: Any) -> bool:
    """Whether a call is."""
    try:
        breaker.call(int)
    except pybreaker.CircuitBreakerError:
        return True
    return False
