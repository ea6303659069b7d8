"""What a probe is told, as Kubernetes prints it and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ("Report", "ReportEntry")

_MARKS = {"ok": "[+]", "warn": "[!]", "failed": "[-]"}
_WITHHELD = "reason withheld"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEntry:
    """One check in a report. `status` is `ok`, `warn` (failed, but tolerated) or `failed`; times are seconds."""

    name: str
    status: str = "ok"
    reason: str = ""
    seconds: float = 0.0
    age: float = 0.0
    note: str = ""
    """`stale`, or how near the verdict is to turning: `1 of 3 failures`. Shown to everybody."""
    is_public: bool = False
    """Whether the reason is shown in any case."""

    def line(self, reason: str) -> str:
        """Return the line of the verbose text."""
        verdict = {"ok": "ok", "warn": f"warning: {reason}", "failed": f"failed: {reason}"}[self.status]
        return f"{_MARKS[self.status]}{self.name} {verdict}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer of one group of checks. Reasons are shown only with `details`; otherwise the log has them."""

    group: str
    entries: tuple[ReportEntry, ...]
    warnings: tuple[str, ...] = ()
    details: bool = False

    @property
    def ok(self) -> bool:
        """Whether no entry failed; warnings are tolerated."""
        return all(entry.status != "failed" for entry in self.entries)

    @property
    def status(self) -> int:
        """The HTTP status: 200 or 503, nothing else."""
        return 200 if self.ok else 503

    def text(self, verbose: bool = False, *, title: str = "") -> str:  # noqa: FBT001, FBT002 - text(verbose=...) reads either way
        """Return `ok`, or one line per check when `verbose` or when something failed."""
        if self.ok and not verbose:
            return "ok"
        lines = [entry.line(self._reason(entry)) for entry in self.entries]
        lines += [f"warn: {warning}" for warning in self.warnings]
        verdict = "passed" if self.ok else "failed"
        return "\n".join([*lines, f"{title or self.group + 'z'} check {verdict}", ""])

    def json(self) -> dict[str, Any]:
        """Return the same as JSON members."""
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
        # Control characters would forge lines of the report.
        shown = entry.is_public or self.details
        return " ".join(entry.reason.split()) if shown and entry.reason else _WITHHELD
