"""The plan of a machine, and its answers."""

from __future__ import annotations

from typing import NamedTuple

from resilience.breaker._epochs import TrialRule
from resilience.breaker._open_time import OpenTime
from resilience.breaker._window import Counts

__all__ = ("Plan", "Refusal", "Transition")


class Refusal(NamedTuple):
    """The circuit may admit a call in `retry_after` seconds, None if that is not known.

    `why` says what the circuit does until then.
    """

    retry_after: float | None
    why: str = "is open"


class Transition(NamedTuple):
    """The state changed, and why; `counts` is what the epoch that ended had seen."""

    before: str
    after: str
    reason: str
    counts: Counts


class Plan(NamedTuple):
    """What a circuit does besides judging; durations are seconds. `slow_after` None: calls are not timed."""

    open_time: OpenTime
    trials: TrialRule
    lease: float
    half_open_limit: float
    ramp: float = 0.0
    ramp_initial: float = 0.1
    cut_offs: int = 20
    """Calls in a row that their callers cut off, without an answer, which open the circuit for such callers."""
    slow_after: float | None = None
