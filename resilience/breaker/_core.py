"""The state of a breaker under its lock: the machine, the mode, and the door that calls pass through unseen."""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, cast

from resilience.breaker import _report, _storage
from resilience.breaker._epochs import Closed, Epoch
from resilience.breaker._machine import Transition
from resilience.breaker._mode import AUTOMATIC, DISABLED, METRICS_ONLY, Mode
from resilience.breaker._rules import Judge, TripRule
from resilience.breaker._surface import Surface
from resilience.breaker._uncounted import UNCOUNTED
from resilience.breaker._window import CallWindow, NoWindow, TimeWindow, Window
from resilience.clock import Clock

__all__ = ("Core",)


class Core(Surface):
    """Every change of state passes through here: made under the lock, told to listeners after its release (L6)."""

    fast_permit: Closed | None
    """The epoch through which calls pass without asking; None where each one has to."""
    _changes = 0
    """Changes of state so far, each from when a storage knows of it."""
    _opened_by_hand: Epoch | None = None
    """The last epoch that an operator began by opening the circuit."""

    def after_fork(self) -> None:
        """Keep the state learnt, under a lock nobody holds."""
        self._lock: Any = threading.RLock()  # guards the machine; never held while a caller's function runs

    def _change(self, change: Callable[[float], Transition | None]) -> None:
        with self._lock:
            now = self._clock()
            self._noted(lambda: change(now), now)
        self.events.deliver()

    def _noted(self, change: Callable[[], Transition | None], now: float) -> Transition | None:
        """Make a change under the lock, and note it. After an interrupt no call passes by a state that is over."""
        try:
            made = change()
            self._note(made, now)
        except BaseException:  # the state may have changed
            self._set_door()
            raise
        return made

    def note_storage(self, error: Exception | None) -> None:
        """Tell that the storage is away, or with None that it is back.

        Under the breaker's lock listeners hear it after its release; the storage's background thread holds no lock.
        """
        now = self._clock()
        if error is not None:
            self.events.record("breaker.storage_outage", self.name, now, "error", error=type(error).__name__)
        else:
            self.events.emit("breaker.storage_recovered", self.name, now)

    def _open_by_hand(self, reason: str, length: float | None) -> None:
        def change(now: float) -> Transition:
            opened = self._machine.open(now, reason, seconds=length)
            self._opened_by_hand = self._machine.epoch
            return opened

        self._change(change)

    def _note(self, change: Transition | None, now: float, *, publish: bool = True) -> None:
        """Queue the event of a transition; called under the lock, delivered after it."""
        if change is None:
            return
        self._set_door()
        if publish and self._storage is not None:
            _storage.publish(change, self._machine, self._storage)
        self._changes += 1
        facts = _report.facts_of(change, self._machine, now)
        if self._mode is not None and self._mode.word == METRICS_ONLY:
            facts["shadow"] = True
        self.events.record(_report.event_of(change), self.name, now, _report.SEVERITY[change.after], **facts)

    def _set_door(self) -> None:
        """Decide through which epoch calls pass without asking, if any."""
        self._open_message = f"circuit {self.name!r} is open"  # made here, not at every refusal
        self.fast_permit: Closed | None = None
        mode, epoch = self._mode, self._machine.epoch
        if self._storage is not None:
            return  # others may have changed it: every call looks
        if mode is None or (mode.word == METRICS_ONLY and mode.lasts):
            self.fast_permit = epoch if type(epoch) is Closed and epoch.running is None else None
        elif mode.word == DISABLED and mode.lasts:
            self.fast_permit = UNCOUNTED

    def _set_mode(self, mode: Mode | None, now: float) -> None:
        before, after = self._mode or Mode(AUTOMATIC), mode or Mode(AUTOMATIC)
        counts, epoch = after.counts, self._machine.epoch
        # Operators alone: no interrupt leaves a mode with the door, or with the counting, of another one.
        self.fast_permit = None
        self._mode = mode
        if type(epoch) is Closed:  # the calls under way: their permit is the epoch itself
            epoch.succeeded = epoch.rule.succeeded if counts else UNCOUNTED.succeeded
        self._set_door()
        facts = {"before": before.word, "after": after.word, "reason": after.reason, "expires": after.left(now)}
        self.events.record("breaker.mode_changed", self.name, now, "warning", **facts)

    def _end_mode(self, now: float) -> None:
        if self._mode is not None and now >= self._mode.until:
            self._set_mode(None, now)

    def _counts_at(self, now: float) -> bool:
        """Whether calls that end now count: not while an operator decides alone which ones pass."""
        mode = self._mode_at(now)
        return mode is None or mode.counts

    def _reconfigure(self, **changes: Any) -> None:
        """Apply new limits from the next decision on; what was counted stays."""
        with self._lock:
            options = self._options = dataclasses.replace(self._options, **changes)
            self._machine.adopt(options.plan)
            rule = self._machine.epoch.rule if isinstance(self._machine.epoch, Closed) else None
            if isinstance(rule, Judge):
                rule.limits = options.limits
            elif isinstance(rule, _storage.StoredFailures):
                rule.limit = options.consecutive or rule.limit

    def _rules(self) -> Callable[[float], TripRule]:
        """Return what makes the rule of each closed epoch, for the machine.

        It holds the breaker weakly: with a cycle through its own machine, a breaker would stay in memory until the
        garbage collector runs, and a new breaker for each key would make it run all the time.
        """
        breaker = weakref.ref(self)
        return lambda now: cast("Core", breaker())._new_rule(now)  # noqa: SLF001 - only the breaker uses the machine

    def _new_rule(self, now: float) -> TripRule:
        options = self._options
        if not options.looks_back:
            if self._storage is not None and options.consecutive is not None:
                return _storage.StoredFailures(self._storage, options.consecutive)
            return Judge(options.limits, NoWindow())
        if isinstance(options.sliding_window, int):
            return Judge(options.limits, CallWindow(options.sliding_window))
        window = TimeWindow(options.sliding_window, now)
        judge = Judge(options.limits, window)
        tick = functools.partial(_tick, weakref.ref(self), weakref.ref(judge))
        judge.succeeded = functools.partial(_count_in_time, self._clock, window, tick, judge.succeeded)
        return judge


def _count_in_time(clock: Clock, window: Window, tick: Callable[[float], None], count: Callable[[], object]) -> None:
    """Count a success after letting a window of time know how late it is; atomic but for one call per bucket."""
    now = clock()
    if now >= window.edge:
        tick(now)
    count()


def _tick(breaker: weakref.ref[Core], judge: weakref.ref[Judge], now: float) -> None:
    owner, judging = breaker(), judge()
    if owner is not None and judging is not None:
        with owner._lock:  # noqa: SLF001 - a part of the breaker
            judging.tick(now)
