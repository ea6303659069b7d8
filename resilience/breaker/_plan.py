"""The settings of a circuit apart from its trip rules: open time, trials, ramp, and the mode that an operator sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from resilience.options import LONGEST

__all__ = ("AUTOMATIC", "DISABLED", "FORCED_OPEN", "METRICS_ONLY", "MODES", "Mode", "OpenTime", "Plan", "TrialRule")

_MAX_EXPONENT = 64
"""Beyond this exponent the time is at its cap anyway, and a float power would overflow."""


class OpenTime(NamedTuple):
    """How long a circuit stays open: `base` seconds at first, `growth` times longer per consecutive opening.

    `cap` is the longest time that growth leads to. Up to the share `jitter` is subtracted at random, so that the
    instances of a fleet do not come back in step. Each `decay` seconds in the closed state remove one opening from the
    count, as Envoy's outlier ejection does. A dependency can ask for at most `asked_cap` seconds.
    """

    base: float
    growth: float = 1.0
    cap: float = LONGEST
    jitter: float = 0.0
    decay: float = LONGEST
    asked_cap: float = LONGEST

    def seconds(self, openings: int, asked: float, random: Callable[[], float]) -> float:
        """Return the open time of the `openings`-th consecutive opening.

        `asked` is the time that the dependency asked for (its Retry-After). The result is never less, because jitter
        is added to it. If `asked` is above `asked_cap`, the cap is used instead, and jitter is subtracted from it.
        """
        grown = min(self.cap, self.base * self.growth ** min(openings - 1, _MAX_EXPONENT))
        jittered = grown * (1 - self.jitter * random())
        if asked <= jittered:
            return jittered
        if asked > self.asked_cap:
            return max(jittered, self.asked_cap * (1 - self.jitter * random()))
        return min(self.asked_cap, asked * (1 + self.jitter * random()))

    def remembered(self, openings: int, closed_for: float) -> int:
        """Return how many consecutive openings still count after `closed_for` seconds in the closed state."""
        return max(0, openings - int(closed_for / self.decay))


class TrialRule(NamedTuple):
    """`permits` trials are admitted. `required_successes` close the circuit, `allowed_failures` open it again.

    With a failure rate both numbers follow from the rate. So the circuit decides as soon as the remaining trials
    cannot change the result.
    """

    permits: int
    required_successes: int
    allowed_failures: int = 1

    @classmethod
    def by_rate(cls, permits: int, rate: float) -> TrialRule:
        """Return the rule that opens the circuit again if at least `rate` of `permits` trials fail."""
        allowed_failures = max(1, math.ceil(rate * permits - 1e-9))
        return cls(permits, permits - allowed_failures + 1, allowed_failures)


class Plan(NamedTuple):
    """The settings of a circuit apart from its trip rules. Durations are seconds."""

    open_time: OpenTime
    trials: TrialRule
    lease: float
    half_open_limit: float
    ramp: float = 0.0
    ramp_initial: float = 0.1
    cut_offs: int = 20
    """Cut-offs in a row that open the circuit for impatient callers."""
    slow_after: float | None = None
    """A call that takes longer is slow. None: calls are not timed."""


AUTOMATIC, FORCED_OPEN, DISABLED, METRICS_ONLY = "automatic", "forced_open", "disabled", "metrics_only"
MODES = (AUTOMATIC, FORCED_OPEN, DISABLED, METRICS_ONLY)


class Mode(NamedTuple):
    """A mode, its end (monotonic time), and the reason for it.

    ============  ============================================================
    automatic     the circuit opens and closes by its rules
    forced_open   every call is refused; nothing is counted
    disabled      every call passes; nothing is counted
    metrics_only  the circuit opens and closes in its events and figures only
    ============  ============================================================
    """

    word: str
    until: float = math.inf
    reason: str = ""

    @classmethod
    def configured(cls, word: str) -> Mode | None:
        """Return the mode that the options of a breaker name, None for `automatic`."""
        return None if word == AUTOMATIC else cls(word, reason="configured")

    @property
    def state(self) -> str | None:
        """The state that callers see in this mode, None if they see the state of the circuit."""
        return {FORCED_OPEN: "open", DISABLED: "closed", METRICS_ONLY: "closed"}.get(self.word)

    @property
    def counts(self) -> bool:
        """Whether the circuit counts the calls that end in this mode."""
        return self.word not in (FORCED_OPEN, DISABLED)

    @property
    def is_permanent(self) -> bool:
        """Whether the mode has no end."""
        return math.isinf(self.until)

    def left(self, now: float) -> float | None:
        """Return the seconds until the mode ends, None if it has no end."""
        return None if self.is_permanent else self.until - now
