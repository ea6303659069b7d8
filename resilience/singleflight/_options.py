"""The options of a single flight."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Options, option

__all__ = ("SingleFlightOptions",)


@dataclass(frozen=True, kw_only=True)
class SingleFlightOptions(Options):
    """How long callers wait for one another; which calls are the same can be set in code only."""

    max_wait: float | None = option(
        None,
        Duration(above=True, usual=60),
        "longest wait for a call that another caller makes",
        none="as long as the caller's deadline allows",
    )
