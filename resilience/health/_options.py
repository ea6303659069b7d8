"""What health checks can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Flag, Options, Whole, option

__all__ = ("HealthOptions",)


@dataclass(frozen=True, kw_only=True)
class HealthOptions(Options):
    """Defaults for every check; each can be given its own."""

    timeout: float = option(1.0, Duration(above=True, maximum=300), "longest a check may take")
    cache: float = option(1.0, Duration(maximum=3600), "how long a result is used again")
    failure_threshold: int = option(1, Whole(1, 100), "failures in a row after which a check that passed has failed")
    success_threshold: int = option(1, Whole(1, 100), "passes in a row after which a check that failed passes again")
    details: bool = option(False, Flag(), "show why a check failed; otherwise the reason goes to the log")
