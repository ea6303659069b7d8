"""The options of health checks, and the rules for a check's name, groups and failure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from resilience.errors import Problem
from resilience.options import Choice, Duration, Flag, Options, Whole, option

__all__ = ("GROUPS", "LIFECYCLE", "LIFECYCLE_GROUPS", "PING", "HealthOptions", "PoolCheckOptions", "problems_of")

GROUPS = ("live", "ready", "startup")
LIFECYCLE_GROUPS = frozenset({"ready", "startup"})
"""The groups that fail if the lifecycle says so."""
PING, LIFECYCLE = "ping", "lifecycle"
"""Names of the entries that each report adds by itself."""

_FAILURES = ("fail", "warn")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_GROUP = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_LIKENESS = 0.75


@dataclass(frozen=True, kw_only=True)
class HealthOptions(Options):
    """Defaults for all checks. `Health.add` can set other values for one check."""

    timeout: float = option(1.0, Duration(above=True, maximum=300, usual=60), "longest time for a run of a check")
    cache: float = option(1.0, Duration(maximum=3600), "how long an outcome is used again")
    failure_threshold: int = option(1, Whole(1, 100), "failures in a row after which a check that passed has failed")
    success_threshold: int = option(1, Whole(1, 100), "passes in a row after which a check that failed passes again")
    details: bool = option(False, Flag(), "show why a check failed; otherwise only the log has the reason")


@dataclass(frozen=True, kw_only=True)
class PoolCheckOptions(Options):
    """When the health check of a connection pool fails, and the consequence."""

    exhausted_for: float = option(
        10.0, Duration(usual=600), "the check fails if borrowers have waited without a break for longer than this"
    )
    failure: str = option(
        "warn",
        Choice(*_FAILURES),
        "warn: readiness shows the failure, and the instance stays in service; fail: it leaves the service",
    )


def problems_of(name: object, check: object, groups: object, failure: object) -> Iterable[Problem]:
    """Yield each problem of a check that `Health.add` is to add."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in {PING, LIFECYCLE}:
        yield Problem("name", name, "letters, digits and . _ -, at most 63 characters; not ping or lifecycle")
    if not callable(check):
        yield Problem("check", check, "a function without parameters, plain or async")
    if isinstance(groups, str) or not isinstance(groups, Collection) or not groups:
        yield Problem("groups", groups, "a list of " + ", ".join(GROUPS) + " or words of your own")
    elif not all(isinstance(group, str) and _GROUP.fullmatch(group) for group in groups):
        yield Problem("groups", groups, "each of " + ", ".join(GROUPS) + " or a word in lower case")
    else:
        yield from _misspelt(groups)
    if failure not in _FAILURES:
        yield Problem("failure", failure, "one of " + ", ".join(_FAILURES))


def _misspelt(groups: Collection[str]) -> Iterable[Problem]:
    """Yield groups that look like a misspelt one of `GROUPS`: no probe would ask for such a check."""
    for group in groups:
        near = difflib.get_close_matches(group, GROUPS, n=1, cutoff=_LIKENESS)
        if near and near[0] != group:
            yield Problem("groups", [group], "one of " + ", ".join(GROUPS), f"did you mean {near[0]}?")
