"""A forked child keeps our objects but not our threads, and inherits locks another thread may have held."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import ref

__all__ = ("Forkable", "renew_after_fork")


class Forkable(Protocol):
    """Something that has to start afresh in a forked child."""

    def after_fork(self) -> None:
        """Replace locks and forget work that only the parent's threads were doing. Must not raise."""
        ...


# Not a `WeakSet`: it runs Python code for each thing that comes and goes, and a policy per key is several of them.
_known: set[ref[Forkable]] = set()


def renew_after_fork(thing: Forkable) -> None:
    """Have `thing.after_fork()` called in every forked child, for as long as `thing` lives."""
    _known.add(ref(thing, _known.discard))


def _reset_all() -> None:
    for known in list(_known):
        if (thing := known()) is not None:
            thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
