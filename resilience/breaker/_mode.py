"""What a breaker does with its verdicts: set at the start or by an operator, for a while or for good."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ("AUTOMATIC", "DISABLED", "FORCED_OPEN", "METRICS_ONLY", "Mode")

AUTOMATIC, FORCED_OPEN, DISABLED, METRICS_ONLY = "automatic", "forced_open", "disabled", "metrics_only"


class Mode(NamedTuple):
    """The mode, until when (monotonic), and why.

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

    @property
    def state(self) -> str | None:
        """The state this mode shows to the world, or None where it shows the circuit's own."""
        return {FORCED_OPEN: "open", DISABLED: "closed", METRICS_ONLY: "closed"}.get(self.word)

    @property
    def counts(self) -> bool:
        """Whether the circuit learns from the calls that end meanwhile."""
        return self.word not in (FORCED_OPEN, DISABLED)

    @property
    def lasts(self) -> bool:
        """Whether it has no end."""
        return math.isinf(self.until)

    def left(self, now: float) -> float | None:
        """Return the seconds until it ends, None where it does not."""
        return None if self.lasts else self.until - now
