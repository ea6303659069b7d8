"""Deadlines in an event loop: kept on time, at less than a timer each."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

from resilience.clock import monotonic
from resilience.timeout import Deadline

if TYPE_CHECKING:
    import asyncio

__all__ = ("Bell",)

Member = TypeVar("Member")
Note = TypeVar("Note")

_TICKS = 200
"""Per second."""
_ROOM = 1024


class Bell(Generic[Member, Note]):
    """Rings for the deadlines of one event loop, a few milliseconds late at most.

    A timer of the loop costs more than all else that is done for a request, and hardly any is ever needed. So those who
    are due in the same few milliseconds stand in one round, which each leaves when it is done, and one timer waits for
    the earliest. Rounds that all have left are swept out when it rings, and whenever they could be more than those in
    use: callers choose their deadlines, up to a day away, and would fill the memory with them.
    """

    __slots__ = ("_next", "_ring", "_room", "_rounds", "_timer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[Member, Note], object]) -> None:
        self.loop = loop
        self._ring = ring
        self._rounds: dict[int, dict[Member, Note]] = {}
        self._room = _ROOM
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0

    def round_of(self, deadline: Deadline) -> dict[Member, Note]:
        """Return those who are due with `deadline`. Step in, and out when done; `ring` is called for whoever is left.

        To be called in the loop's thread, and stepped into before anything is awaited.
        """
        tick = int(deadline.at * _TICKS) + 1
        found = self._rounds.get(tick)
        return self._open(tick) if found is None else found

    def _open(self, tick: int) -> dict[Member, Note]:
        if len(self._rounds) >= self._room:
            self._sweep()
        opened = self._rounds[tick] = {}
        if self._timer is None or tick < self._next:
            self._wind(tick)
        return opened

    def _sweep(self) -> None:
        self._rounds = {tick: members for tick, members in self._rounds.items() if members}
        self._room = max(_ROOM, 2 * len(self._rounds))

    def _wind(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = tick
        # The context of whichever request comes first must not outlive it, let alone ring for the others (L19).
        self._timer = self.loop.call_later(tick / _TICKS - monotonic(), self._come, context=Context())

    def _come(self) -> None:
        due = [self._rounds.pop(tick) for tick in sorted(self._rounds) if tick <= self._next]
        self._timer = None
        self._sweep()
        if self._rounds:
            self._wind(min(self._rounds))
        for members in due:
            for member, note in [*members.items()]:
                self._ring(member, note)
            members.clear()
