"""An emitter that collects what others emit, once somebody listens."""

from __future__ import annotations

from collections.abc import Callable

from resilience.events import Emitter, Listener

__all__ = ("Gathering",)


class Gathering(Emitter):
    """Calls `begin`, which may be called often, when a listener comes."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self._begin = begin

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add `listener`; the function returned takes it away again."""
        end = super().subscribe(listener)
        self._begin()
        return end
