"""The paths of the health probes in a web application, and whether the adapter or the application answers them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from resilience.health import PROBE_PATHS, Health

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from resilience.lifecycle import Lifecycle

__all__ = ("PROBE_METHODS", "ProbePaths", "health_of", "is_probe", "mark_probe")

T = TypeVar("T", bound="Callable[..., Any]")

PROBE_METHODS = frozenset({"GET", "HEAD"})
"""The methods of a probe."""
_MARK = "_resilience_is_probe"


class _HealthHolder(Protocol):
    """The part of `Resilience` that probes need."""

    @property
    def health(self) -> Health: ...
    @property
    def lifecycle(self) -> Lifecycle: ...


def health_of(source: _HealthHolder | Health) -> Health:
    """Return the health of a `Resilience`, with its lifecycle attached; a `Health` is returned as it is."""
    if isinstance(source, Health):
        return source
    source.health.attach(source.lifecycle)
    return source.health


def mark_probe(endpoint: T) -> T:
    """Mark the endpoint of a probe, so that an adapter finds its route; returns the endpoint."""
    setattr(endpoint, _MARK, True)
    return endpoint


def is_probe(endpoint: object) -> bool:
    """Return whether an endpoint is marked as a probe."""
    return hasattr(endpoint, _MARK)


class ProbePaths:
    """The probe paths that the adapter answers, and the paths under which the application routes probes.

    A path of the application wins: the adapter answers no path that the application has a route for.

    Args:
        answers: Whether the adapter answers the probe paths itself.
        paths: The paths of the probes: `Health.paths`.
    """

    __slots__ = ("_answered", "_routed", "prefixes")

    def __init__(self, *, answers: bool = True, paths: tuple[str, ...] = PROBE_PATHS) -> None:
        self._answered = paths if answers else ()
        self._routed: tuple[str, ...] = ()
        self.prefixes = self._answered
        """The beginnings of all probe paths. Compare with them first: nearly all paths have none of them."""

    def update(self, routes: Iterable[str], probes: Iterable[str]) -> None:
        """Take the routes of the finished application.

        Args:
            routes: The paths of all routes.
            probes: The paths of the routes whose endpoints are marked, without parameters.
        """
        taken = frozenset(routes)
        self._answered = tuple(path for path in self._answered if path not in taken)
        self._routed = tuple(frozenset(probes))
        self.prefixes = self._answered + self._routed

    def answers(self, path: str) -> bool:
        """Return whether the adapter answers `path`: a probe, or one check of it."""
        return path.startswith(self._answered) and f"/{path.split('/', 2)[1]}" in self._answered

    def routes(self, path: str) -> bool:
        """Return whether `path` is a probe that the application routes, or one check of it."""
        return path.startswith(self._routed) and (path in self._routed or path.rpartition("/")[0] in self._routed)
