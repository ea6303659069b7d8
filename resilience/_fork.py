"""A forked child keeps our objects but not our threads, and inherits locks another thread may have held."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ("Forkable", "renew_after_fork")


class Forkable(Protocol):
    """Something that has to start afresh in a forked child."""

    def after_fork(self) -> None:
        """Replace locks and forget work that only the parent's threads were doing. Must not raise."""
        ...


_known: WeakSet[Forkable] = WeakSet()


def renew_after_fork(thing: Forkable) -> None:
    """Have `thing.after_fork()` called in every forked child, for as long as `thing` lives."""
    _known.add(thing)


def _reset_all() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
