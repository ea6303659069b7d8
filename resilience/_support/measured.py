"""The counts of our objects, for metrics: plain integers that the objects keep anyway, read when a collector asks.

No object registers for it: the objects with counts are among those that `fork` knows already, so a new policy costs
nothing more. A collector walks them. An object that goes, such as the circuit of a key that was dropped, leaves
its counts behind, or the sum over all keys would fall.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import NamedTuple

from resilience._support.fork import renew_after_fork, states_of_process

__all__ = ("ENDED", "OTHER", "Measured", "Measurement", "add_up", "count_of", "measurements")

OTHER = "(other)"
"""The name under which the counts of names beyond the limit are added up."""
_MAX_NAMES = 1000
"""Names of one kind. A name is one of few; a program that makes a policy for each user may have made it one of many."""
_MAX_WAITING = 1000
_NOTHING: Mapping[str, float] = MappingProxyType({})


class Measurement(NamedTuple):
    """The counts of one object.

    Objects of the same kind and name, such as the circuits of all keys of a policy, are added up. So each number must
    be one that can be added.
    """

    kind: str
    """Which rows of the metric table read it."""
    name: str
    """The name of the policy, limiter, budget or check."""
    counts: Mapping[str, float] = _NOTHING
    """Numbers that only grow."""
    levels: Mapping[str, float] = _NOTHING
    """Numbers of this moment, which also fall."""


class Measured:
    """Base of objects with counts. Each is known to `fork`: by `renew_after_fork`, or by `reset_after_test`."""

    __slots__ = ()

    def measure(self) -> Measurement:
        """Return the counts. Takes no lock that a call needs, changes nothing, and calls no function of the user."""
        raise NotImplementedError

    def __del__(self) -> None:
        if ENDED.is_kept:
            ENDED.add(self)


def count_of(counter: count[int]) -> int:
    """Return the next number of an `itertools.count` without taking it.

    Its text is the one way to read it: `next` would change it, and Python 3.14 has no `__reduce__` of it any more.
    """
    return int(repr(counter)[6:-1])


def measurements() -> Iterator[Measurement]:
    """Yield the measurement of each object that is alive."""
    for thing in states_of_process():
        if isinstance(thing, Measured):
            yield thing.measure()


class EndedMeasurements:
    """The counts of objects that are gone, by kind and name. Kept once a collector exists."""

    def __init__(self) -> None:
        self.is_kept = False
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the counts of the parent's objects."""
        self._waiting: deque[Measurement] = deque()  # a finalizer may run in the midst of anything: it only appends
        self._lock = threading.Lock()  # only ever taken without waiting
        self._totals: dict[tuple[str, str], dict[str, float]] = {}

    def after_test(self) -> None:
        """Forget all counts."""
        self.after_fork()

    def add(self, thing: Measured) -> None:
        """Keep the counts of an object that goes."""
        try:
            last = thing.measure()
        except Exception:  # noqa: BLE001 - its constructor has failed, so it has no counts
            return
        if any(last.counts.values()):
            self._waiting.append(last)
            if len(self._waiting) > _MAX_WAITING:
                self._fold()

    def subtract(self, parent: Measurement) -> None:
        """Take the counts of a parent process out of the sums."""
        add_up(self._totals, parent.kind, parent.name, {each: -number for each, number in parent.counts.items()})

    def _fold(self) -> None:
        if not self._lock.acquire(blocking=False):  # another thread does it; or this one, if this is a finalizer
            return
        try:
            for _ in range(len(self._waiting)):
                last = self._waiting.popleft()
                add_up(self._totals, last.kind, last.name, last.counts)
        finally:
            self._lock.release()

    def totals(self) -> Iterator[Measurement]:
        """Yield the counts so far, and those that wait."""
        self._fold()
        for (kind, name), counts in list(self._totals.items()):
            yield Measurement(kind, name, dict(counts))
        yield from list(self._waiting)


def add_up(totals: dict[tuple[str, str], dict[str, float]], kind: str, name: str, counts: Mapping[str, float]) -> None:
    """Add `counts` to the totals of a kind and name; to those of `OTHER` if the kind has too many names."""
    known = totals.get((kind, name))
    if known is None:
        name = name if sum(each == kind for each, _ in totals) < _MAX_NAMES else OTHER
        known = totals.setdefault((kind, name), {})
    for figure, number in counts.items():
        if number or figure not in known:  # most are 0, for most keys
            known[figure] = known.get(figure, 0) + number


ENDED = EndedMeasurements()


def _forget_parent() -> None:
    """Let the counters of a forked child begin at zero: the calls so far were the parent's."""
    if ENDED.is_kept:
        for each in measurements():
            ENDED.subtract(each)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)  # after that of `fork`, which was registered before it
