"""A partner of the fleet, its calls in a round, and the partners of one fleet."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar
from weakref import ref

from resilience.redis import LuaScript
from resilience.redis._exchange import Reply

__all__ = ("FleetCall", "FleetPartner", "Partners", "asked", "calls_of")

_log = logging.getLogger("resilience")

T = TypeVar("T")


class FleetCall(NamedTuple):
    """One call of a script in a round.

    Args:
        script: The script to run.
        keys: Its keys, all in one hash slot.
        arguments: Its arguments.
    """

    script: LuaScript
    keys: tuple[bytes, ...]
    arguments: tuple[bytes | int | str, ...] = ()


class FleetPartner(Protocol):
    """A part with state in the fleet, such as a shared breaker. The fleet keeps it by a weak reference.

    The fleet calls all methods but `heard` in one thread, one round after the other. It calls `heard` in another
    thread. An exception of a partner is logged and ends nothing.
    """

    def calls(self) -> Sequence[FleetCall]:
        """Return the calls of this round; none if there is nothing to send."""
        ...

    def answered(self, replies: Sequence[Reply], /) -> None:
        """Take the reply to each call of this round: a value, or the exception of an error reply."""
        ...

    def unreachable(self) -> None:
        """Learn that Redis did not answer in this round. The calls may have been made, or not."""
        ...

    def leaving(self) -> Sequence[FleetCall]:
        """Return the calls with which this instance gives back what it holds: it leaves. The replies are dropped.

        A partner that is called afterwards goes on without the fleet, or joins again.
        """
        ...

    def heard(self, message: bytes, /) -> None:
        """Take a message on the channel of the partner. It may come late, twice or never."""
        ...


class Partners:
    """The partners of a fleet, by weak references, with the channels that they listen to."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[ref[FleetPartner], str | None]] = {}
        # Re-entrant: the callback of a weak reference may run in the midst of anything.
        self._lock = threading.RLock()

    def add(self, partner: FleetPartner, channel: str | None) -> bool:
        """Keep `partner`; return whether it, or its channel, is new."""
        number = id(partner)

        def forget(dead: ref[FleetPartner]) -> None:
            self._forget(number, dead)

        with self._lock:
            known = self._kept.get(number)
            if known is not None and known[0]() is partner and known[1] == channel:
                return False
            self._kept[number] = ref(partner, forget), channel
            return True

    def remove(self, partner: FleetPartner) -> None:
        """Forget `partner`."""
        with self._lock:
            self._kept.pop(id(partner), None)

    def _forget(self, number: int, dead: ref[FleetPartner]) -> None:
        with self._lock:
            known = self._kept.get(number)
            if known is not None and known[0] is dead:  # the id may belong to a new partner already
                del self._kept[number]

    def alive(self) -> list[FleetPartner]:
        """Return the partners in the order in which they joined."""
        with self._lock:
            kept = list(self._kept.values())
        return [partner for known, _ in kept if (partner := known()) is not None]

    def channels(self) -> set[str]:
        """Return the channels that partners listen to."""
        with self._lock:
            return {channel for _, channel in self._kept.values() if channel is not None}

    def on(self, channel: str) -> list[FleetPartner]:
        """Return the partners that listen to `channel`."""
        with self._lock:
            kept = list(self._kept.values())
        return [partner for known, name in kept if name == channel and (partner := known()) is not None]

    def after_fork(self) -> None:
        """Replace the lock: a thread of the parent may have held it."""
        self._lock = threading.RLock()


def asked(partner: FleetPartner, step: Callable[[], T], otherwise: T) -> T:
    """Return the result of a step of `partner`; `otherwise` if it raises, which is logged."""
    try:
        return step()
    except Exception:  # noqa: BLE001 - of a partner, which another team may have written
        _log.exception("the fleet goes on without %r, which raised an error", partner)
        return otherwise


def calls_of(partner: FleetPartner) -> tuple[FleetCall, ...]:
    """Return the calls of `partner` in this round."""
    return asked(partner, lambda: tuple(partner.calls()), ())
