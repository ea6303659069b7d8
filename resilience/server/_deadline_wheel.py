"""The deadlines of the requests that one event loop serves, at the cost of much less than a timer for each."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

from resilience.clock import monotonic
from resilience.timeout import Deadline

if TYPE_CHECKING:
    import asyncio

__all__ = ("DeadlineWheel",)

Member = TypeVar("Member")
Note = TypeVar("Note")

_TICKS_PER_SECOND = 200
_MIN_SLOTS = 1024
"""Slots that the wheel keeps before it looks for empty ones."""


class DeadlineWheel(Generic[Member, Note]):
    """Calls `on_expired` for each member whose deadline has passed, up to 5 ms late.

    A timer of the loop costs more than everything else that is done for a request, and almost no timer is ever needed.
    So requests whose deadlines lie in the same 5 ms share one slot, and the loop has one timer, for the earliest slot.
    A request leaves its slot when it is complete, which removes one key of a dictionary. The wheel removes empty slots
    when its timer fires, and when the number of slots has doubled: clients choose their deadlines, up to a day away,
    and could fill the memory with empty slots.

    The idea is the hashed timing wheel (Varghese and Lauck, 1987; Netty and Kafka use it), with a dictionary in place
    of a ring.

    Args:
        loop: The event loop whose timer is used. All methods are called in its thread.
        on_expired: Called with each member and its note, in the loop's thread and in an empty context.
    """

    __slots__ = ("_max_slots", "_next", "_on_expired", "_slots", "_timer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expired: Callable[[Member, Note], object]) -> None:
        self.loop = loop
        self._on_expired = on_expired
        self._slots: dict[int, dict[Member, Note]] = {}
        self._max_slots = _MIN_SLOTS
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0

    def slot_for(self, deadline: Deadline) -> dict[Member, Note]:
        """Return the slot of `deadline`: add the member to it before anything is awaited, and remove it when done."""
        tick = int(deadline.at * _TICKS_PER_SECOND) + 1
        slot = self._slots.get(tick)
        return self._add_slot(tick) if slot is None else slot

    def _add_slot(self, tick: int) -> dict[Member, Note]:
        if len(self._slots) >= self._max_slots:
            self._remove_empty_slots()
        slot = self._slots[tick] = {}
        if self._timer is None or tick < self._next:
            self._schedule(tick)
        return slot

    def _remove_empty_slots(self) -> None:
        self._slots = {tick: members for tick, members in self._slots.items() if members}
        self._max_slots = max(_MIN_SLOTS, 2 * len(self._slots))

    def _schedule(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = tick
        # In an empty context: that of the first request must neither outlive it nor be seen by the others (L19).
        self._timer = self.loop.call_later(tick / _TICKS_PER_SECOND - monotonic(), self._fire, context=Context())

    def _fire(self) -> None:
        expired = [self._slots.pop(tick) for tick in sorted(self._slots) if tick <= self._next]
        self._timer = None
        self._remove_empty_slots()
        if self._slots:
            self._schedule(min(self._slots))
        for members in expired:
            for member, note in [*members.items()]:
                self._on_expired(member, note)
            members.clear()
