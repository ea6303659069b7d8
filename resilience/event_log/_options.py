"""The options of the log of events."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Choice, Duration, Options, option

__all__ = ("ALL", "NONE", "LogOptions")

ALL, NONE = "all", "none"


@dataclass(frozen=True, kw_only=True)
class LogOptions(Options):
    """Which events the logger `resilience` gets."""

    events: str = option(
        "transitions",
        Choice("transitions", ALL, NONE),
        "events in the log: transitions (changes of state; samples of refusals, timeouts and given-up retries), all, "
        "or none",
    )
    interval: float = option(
        60.0,
        Duration(above=True, maximum=86_400),
        "time in which a policy logs one refusal of a kind, and counts the others",
    )
