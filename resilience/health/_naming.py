"""Which names, groups and failures a check may have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from typing import Any

from resilience.errors import Problem

__all__ = ("BOUND", "GROUPS", "LIFECYCLE", "PING", "problems_of")

GROUPS = ("live", "ready", "startup")
BOUND = frozenset({"ready", "startup"})
"""The groups the lifecycle has a say in."""
PING, LIFECYCLE = "ping", "lifecycle"

_FAILURES = ("fail", "warn")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_GROUP = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)


def problems_of(name: Any, check: Any, groups: Any, failure: Any) -> Iterable[Problem]:
    """Yield what is wrong with a check to be added."""
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
    """Yield groups that look like one of ours: a check that no probe asks would be found too late."""
    for group in groups:
        near = difflib.get_close_matches(group, GROUPS, n=1, cutoff=0.75)
        if near and near[0] != group:
            yield Problem("groups", [group], "one of " + ", ".join(GROUPS), f"did you mean {near[0]}?")
