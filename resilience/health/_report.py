"""The answer to a probe, as text in the form of Kubernetes and as JSON, and how it is built from outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resilience.health._check import Check
from resilience.health._machine import CheckOutcome, CheckRun

__all__ = ("Report", "ReportBuilder", "ReportEntry", "unknown_excludes")

_MARKS = {"ok": "[+]", "warn": "[!]", "failed": "[-]"}
_WITHHELD = "reason withheld"
_MAX_NAMES = 5
_MAX_NAME_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEntry:
    """One check in a report.

    Args:
        name: The name of the check.
        status: `ok`, `warn` (failed, but takes nothing out of service) or `failed`.
        reason: Why the check failed. Empty for a pass.
        seconds: How long the run took.
        age: Seconds since the run ended.
        note: `stale`, or how near the verdict is to turning, such as `1 of 3 failures`. Always shown.
        is_public: Whether the reason is shown even if the option `details` is off.
    """

    name: str
    status: str = "ok"
    reason: str = ""
    seconds: float = 0.0
    age: float = 0.0
    note: str = ""
    is_public: bool = False

    def line(self, reason: str) -> str:
        """Return the line of the verbose text, with this reason."""
        verdict = {"ok": "ok", "warn": f"warning: {reason}", "failed": f"failed: {reason}"}[self.status]
        return f"{_MARKS[self.status]}{self.name} {verdict}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The state of one group of checks.

    Args:
        group: `live`, `ready`, `startup`, or a group of your own.
        entries: One entry for each check, in the order added.
        warnings: Mistakes of the probe, such as an unknown name in `exclude`.
        details: Whether the report shows reasons. Otherwise they are in the log only.
    """

    group: str
    entries: tuple[ReportEntry, ...]
    warnings: tuple[str, ...] = ()
    details: bool = False

    @property
    def ok(self) -> bool:
        """Whether no entry failed. Warnings do not count."""
        return all(entry.status != "failed" for entry in self.entries)

    @property
    def status(self) -> int:
        """The HTTP status, 200 or 503."""
        return 200 if self.ok else 503

    def text(self, verbose: bool = False, *, title: str = "") -> str:  # noqa: FBT001, FBT002 - text(verbose=...) reads either way
        """Return the report as text.

        Args:
            verbose: List the checks even if none failed. Otherwise the text of a report without failures is `ok`.
            title: The first word of the last line. Default: the endpoint of the group, such as `readyz`.
        """
        if self.ok and not verbose:
            return "ok"
        lines = [entry.line(self._reason(entry)) for entry in self.entries]
        lines += [f"warn: {warning}" for warning in self.warnings]
        verdict = "passed" if self.ok else "failed"
        return "\n".join([*lines, f"{title or self.group + 'z'} check {verdict}", ""])

    def json(self) -> dict[str, Any]:
        """Return the report as members of a JSON object."""
        return {
            "status": "ok" if self.ok else "failed",
            "group": self.group,
            "checks": [self._record(entry) for entry in self.entries],
            "warnings": list(self.warnings),
        }

    def _record(self, entry: ReportEntry) -> dict[str, Any]:
        record: dict[str, Any] = {
            "name": entry.name,
            "status": entry.status,
            "seconds": round(entry.seconds, 6),
            "age": round(entry.age, 3),
        }
        if entry.note:
            record["note"] = entry.note
        return record if entry.status == "ok" else record | {"reason": self._reason(entry)}

    def _reason(self, entry: ReportEntry) -> str:
        shown = entry.is_public or self.details
        # A line break in a reason would forge a line of the report.
        return " ".join(entry.reason.split()) if shown and entry.reason else _WITHHELD


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBuilder:
    """A report that waits for outcomes. Each check in `asked` runs, or its outcome is known already."""

    group: str
    own: tuple[ReportEntry, ...]
    asked: list[tuple[Check, CheckOutcome | CheckRun]]
    warnings: tuple[str, ...]
    details: bool

    def build(self, outcomes: list[CheckOutcome]) -> Report:
        """Return the report, given one outcome for each check in `asked`."""
        checks = (check for check, _ in self.asked)
        entries = (*self.own, *map(_entry_of, checks, outcomes))
        return Report(group=self.group, entries=entries, warnings=self.warnings, details=self.details)


def _entry_of(check: Check, outcome: CheckOutcome) -> ReportEntry:
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
    """Return a warning if `exclude` has names of no check: a probe with a mistake in it should be noticed, not fail."""
    unknown = sorted({name for name in exclude if name not in names})
    if not unknown:
        return ()
    shown = ", ".join(ascii(name[:_MAX_NAME_LENGTH]) for name in unknown[:_MAX_NAMES])
    return (f"some checks cannot be excluded: no matches for {shown}",)
