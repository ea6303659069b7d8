"""The parts of a toolkit by kind and name, each built when it is first used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from resilience._support.fork import renew_after_fork
from resilience.config._names import fold
from resilience.errors import ConfigurationError

if TYPE_CHECKING:
    from resilience.toolkit._listeners import PluggedListener

__all__ = ("NamedParts", "OpenPart")

T = TypeVar("T")

_OPEN = ("metrics", "redis", "health", "listener", "pools")
"""The kinds of parts that hold connections or background work."""


class OpenPart(Protocol):
    """A part that holds connections or background work."""

    def close(self) -> None:
        """Release them. A second call does nothing."""
        ...

    async def aclose(self) -> None:
        """Release them without blocking the event loop."""
        ...


class NamedParts:
    """Builds each part once, and returns it to every caller. Names are folded."""

    def __init__(self) -> None:
        self._built: dict[tuple[str, str], tuple[object, tuple[object, ...]]] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.RLock()  # guards `_built`; only constructors of this library run under it

    def once(self, what: str, build: Callable[[], T]) -> T:
        """Return the only part of its kind."""
        return self.named(what, what, build)

    def named(self, kind: str, name: str, build: Callable[[], T], given: tuple[object, ...] = ()) -> T:
        """Return the part of this kind and name, or build it. `given` are the values that a caller gives for it.

        Raises:
            ConfigurationError: The part exists, and was given other values.
        """
        with self._lock:
            known = self._built.get((kind, fold(name)))
            if known is None:
                known = self._built[kind, fold(name)] = (build(), given)
        thing, before = known
        if not _agree(given, before):
            reason = "already in use with other values; give them where it is first asked for"
            raise ConfigurationError(f"{kind} {name!r} is {reason}")
        return cast("T", thing)

    def keep_listener(self, listener: PluggedListener) -> None:
        """Keep a listener, which was made elsewhere: the code of a plugin must not run under the lock."""
        self.named("listener", listener.name, lambda: listener)

    def given(self, kind: str, name: str) -> tuple[Any, ...]:
        """Return the values that were given for a part; empty if it was built without values, or does not exist."""
        with self._lock:
            return self._built.get((kind, fold(name)), (None, ()))[1]

    def has(self, kind: str, name: str) -> bool:
        """Whether the part exists."""
        with self._lock:
            return (kind, fold(name)) in self._built

    def of(self, *kinds: str) -> list[Any]:
        """Return the parts of these kinds in the order in which they were built."""
        with self._lock:
            return [thing for (kind, _), (thing, _) in self._built.items() if kind in kinds]

    def open_parts(self) -> list[OpenPart]:
        """Return the parts that hold connections or background work, in the order in which they were built."""
        return self.of(*_OPEN)


def _agree(given: tuple[object, ...], before: tuple[object, ...]) -> bool:
    """Whether a further call gives no values, or the values of the first call."""
    if not given:
        return True
    return len(given) == len(before) and all(
        now is None or now == then for now, then in zip(given, before, strict=True)
    )
