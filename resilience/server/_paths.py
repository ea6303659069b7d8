"""Paths that are excluded from limits, and how no other path passes for one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ("ExcludedPaths",)

_SEPARATOR = r"(?:[/\\]|%(?:25)*(?:2f|5c))"
_has_dots = re.compile(rf"{_SEPARATOR}(?:\.|%(?:25)*2e){{1,2}}(?:{_SEPARATOR}|[;?#]|$)", re.IGNORECASE).search
"""Finds a segment `.` or `..`, also if it is encoded once more, or followed by a parameter (`..;`)."""


class ExcludedPaths:
    """The paths of `exclude_paths`, and all below them.

    A path with a dot segment is below none: `/static/../login` begins with `/static/`, and a route for any path, or the
    service that such a route passes it on to, resolves it to `/login`. Browsers resolve dot segments before they
    send a path.
    """

    __slots__ = ("below", "paths")

    def __init__(self, paths: Iterable[str]) -> None:
        plain = [path.rstrip("/") for path in paths]
        self.paths = frozenset(path or "/" for path in plain)
        # Below the root is everything, and who excludes it means one page, as a rule the one a load balancer asks for.
        self.below = tuple(f"{path}/" for path in plain if path)

    def __contains__(self, path: str) -> bool:
        return path in self.paths or (path.startswith(self.below) and not _has_dots(path))
