"""One report in the making: which checks were asked, and what else it says."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.health._check import Check
from resilience.health._machine import Outcome, Run
from resilience.health._report import Report, ReportEntry

__all__ = ("Asking", "entry_of", "unknown_excludes")

_MOST_SHOWN = 5
_LONGEST_SHOWN = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Every check here is under way or known already."""

    group: str
    own: tuple[ReportEntry, ...]
    asked: list[tuple[Check, Outcome | Run]]
    warnings: tuple[str, ...]
    details: bool

    def answered(self, outcomes: list[Outcome]) -> Report:
        """Return the report, given one outcome per check asked."""
        checks = (check for check, _ in self.asked)
        entries = (*self.own, *map(entry_of, checks, outcomes))
        return Report(group=self.group, entries=entries, warnings=self.warnings, details=self.details)


def entry_of(check: Check, outcome: Outcome) -> ReportEntry:
    """Return what a report says about one check."""
    status = "ok" if outcome.ok else "failed" if check.failure == "fail" else "warn"
    return ReportEntry(
        name=check.name,
        status=status,
        reason=outcome.reason,
        seconds=outcome.seconds,
        age=check.age(outcome),
        note="stale" if outcome.is_stale else outcome.note,
    )


def unknown_excludes(exclude: tuple[str, ...], names: set[str]) -> tuple[str, ...]:
    """Return a warning where names to exclude are no checks: a probe with a typo should be found, not fail."""
    unknown = sorted({name for name in exclude if name not in names})
    if not unknown:
        return ()
    shown = ", ".join(ascii(name[:_LONGEST_SHOWN]) for name in unknown[:_MOST_SHOWN])
    return (f"some checks cannot be excluded: no matches for {shown}",)
