"""What an operator does to a breaker, and what they see of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from resilience.breaker import _report
from resilience.breaker._core import Core
from resilience.breaker._epochs import Open
from resilience.breaker._mode import AUTOMATIC, Mode
from resilience.breaker._options import MODES
from resilience.errors import ConfigurationError, Problem
from resilience.options import LONGEST, Choice, Text, checked, seconds

__all__ = ("Control",)

_MODE = Choice(*MODES)
_REASON = Text("a reason", longest=200)


class Control(Core):
    """Modes, opening for a given time, and figures. Nothing here waits for a call in progress."""

    @property
    def mode(self) -> str:
        """`automatic`, `forced_open`, `disabled` or `metrics_only`."""
        with self._lock:
            self._end_mode(self._clock())
            mode = self._mode
        self.events.deliver()
        return AUTOMATIC if mode is None else mode.word

    @property
    def is_idle(self) -> bool:
        """Whether nothing an operator said would be lost with this breaker: a mode, or opening it. Takes no lock."""
        now, epoch = self._clock(), self._machine.epoch
        mode = self._mode_at(now)
        word = AUTOMATIC if mode is None else mode.word
        is_held = type(epoch) is Open and epoch is self._opened_by_hand and now < epoch.until
        return word == self._options.first_mode and not is_held

    def set_mode(self, mode: str, *, expires: float | str | timedelta | None = None, reason: str = "by hand") -> None:
        """Hold the circuit open, let everything pass, or only report - until `expires` (a duration), or for good.

        Back in `automatic`, whenever that is, the circuit is in the state it was in, and time has passed for it.
        """
        word = checked(mode, "mode", _MODE)
        duration = None if expires is None else seconds(expires, "expires", above=True)
        if word == AUTOMATIC and duration is not None:
            raise ConfigurationError(
                [Problem("expires", expires, "None for the mode automatic: there is nothing to end")]
            )
        why = checked(reason, "reason", _REASON)
        with self._lock:
            now = self._clock()
            until = {} if duration is None else {"until": now + duration}
            self._set_mode(None if word == AUTOMATIC else Mode(word, reason=why, **until), now)
        self.events.deliver()

    def open_for(self, duration: float | str | timedelta, *, reason: str = "opened by hand") -> None:
        """Open the circuit for exactly this long, whatever it is now."""
        length = seconds(duration, "duration", above=True)
        why = checked(reason, "reason", _REASON)
        self._open_by_hand(why, length)

    def open_until(self, moment: float | datetime, *, reason: str = "opened by hand") -> None:
        """Open the circuit until `moment`: a time of the breaker's own (monotonic) clock, or an aware datetime.

        A datetime is turned into a duration once, now: a later step of the wall clock changes nothing. One that has
        passed opens nothing.
        """
        if isinstance(moment, datetime):
            length = _ahead(moment)
        else:
            length = seconds(max(0.0, moment - self._clock()), "moment") if _is_number(moment) else _refuse(moment)
        if length > 0:
            self.open_for(min(length, LONGEST), reason=reason)

    def snapshot(self) -> dict[str, Any]:
        """Return state, mode, counts, rates and remaining open time (seconds), as plain data."""
        with self._lock:
            now = self._clock()
            self._end_mode(now)
            mode = self._mode or Mode(AUTOMATIC)
            figures = _report.figures_of(self._machine, now)
            own = self._machine.epoch.state
        self.events.deliver()
        # Not `current_state`, which looks again: by now the circuit may be in another state than these figures. It may
        # also ask a storage.
        told = {"state": mode.state or own, "mode": mode.word, "mode_reason": mode.reason}
        return {**told, "mode_expires": mode.left(now), "circuit": own, **figures}

    def __repr__(self) -> str:
        mode, state, left = self._mode_at(self._clock()), self.current_state, self.retry_after
        if state == "open" and left is not None:
            state = f"open for {left:.1f} s"
        return f"<CircuitBreaker {self.name!r} {state}{'' if mode is None else f' ({mode.word})'}>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - NaN


def _ahead(moment: datetime) -> float:
    if moment.tzinfo is None:
        _refuse(moment)
    return (moment - datetime.now(UTC)).total_seconds()


def _refuse(moment: object) -> float:
    expected = "a moment of the breaker's clock in seconds, or a datetime with a time zone"
    raise ConfigurationError([Problem("moment", moment, expected)])
