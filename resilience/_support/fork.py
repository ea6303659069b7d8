"""The objects of the process that have a state, for the two moments at which all of them begin afresh.

A forked child keeps our objects but not our threads, and inherits locks that another thread may have held. A test
starts with the objects that the tests before it have used.
"""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable
from weakref import ref

__all__ = (
    "Forkable",
    "Resettable",
    "known_objects",
    "renew_after_fork",
    "reset_after_test",
    "resettable_objects",
    "states_of_process",
)


class Forkable(Protocol):
    """Something that has to start afresh in a forked child."""

    def after_fork(self) -> None:
        """Replace locks and forget work that only the parent's threads were doing. Must not raise."""
        ...


@runtime_checkable
class Resettable(Protocol):
    """Something whose state a test can leave behind."""

    def after_test(self) -> None:
        """Return to the state of a new object. Calls in flight do not count in it."""
        ...


# Not a `WeakSet`: it runs Python code for each thing that comes and goes, and a policy per key is several of them.
_known: set[ref[Forkable]] = set()


def renew_after_fork(thing: Forkable) -> None:
    """Have `thing.after_fork()` called in every forked child, for as long as `thing` lives."""
    _known.add(ref(thing, _known.discard))


def known_objects() -> list[Forkable]:
    """Return the objects that `renew_after_fork` knows and that are alive."""
    return [thing for known in list(_known) if (thing := known()) is not None]


_counting: set[ref[Resettable]] = set()
"""Objects with counts, for which a fork changes nothing."""


def reset_after_test(thing: Resettable) -> None:
    """Have `thing.after_test()` called by `resilience.testing.reset`. Not needed besides `renew_after_fork`."""
    _counting.add(ref(thing, _counting.discard))


def resettable_objects() -> list[Resettable]:
    """Return the objects whose state a test can leave behind."""
    counting = [thing for known in list(_counting) if (thing := known()) is not None]
    return [*counting, *(thing for thing in known_objects() if isinstance(thing, Resettable))]


def states_of_process() -> list[object]:
    """Return all objects that are known here and alive. Takes no lock; costs 0.1 us for each."""
    known: list[ref[Any]] = [*_known, *_counting]
    return [thing for each in known if (thing := each()) is not None]


def _renew_all() -> None:
    for thing in known_objects():
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
