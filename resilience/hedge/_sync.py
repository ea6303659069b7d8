"""The blocking shell: each attempt runs in a thread of ours, in a copy of the context of the caller."""

from __future__ import annotations

import contextvars
import functools
import queue
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from resilience._support.executor import Executor, Work
from resilience.errors import running_together
from resilience.hedge._machine import Race
from resilience.hedge._races import Races

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


def around(races: Races, executor: Executor, inner: Callable[P, R]) -> Callable[P, R]:
    """Return `inner` hedged."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        attempt = functools.partial(inner, *args, **kwargs)
        race = races.begin()
        try:
            if race.is_single or not _ThreadRace(races, race, executor, attempt).run():
                result = _run_alone(races, race, attempt)
                races.end(race)
                return result
            races.end(race)
        except BaseException:  # also an interrupt before or in `end`: the second `end` does only what is missing
            races.end(race)
            raise
        return cast("R", races.outcome(race))

    return call


def _run_alone(races: Races, race: Race, attempt: Callable[[], R]) -> R:
    """Make the only attempt in the thread of the caller."""
    number = races.start_attempt(race)
    try:
        result = attempt()
    except BaseException as error:
        races.end_attempt(race, number, None, error)
        race.forget()
        raise
    races.end_attempt(race, number, result, None)
    return result


class _ThreadAttempt(Work):
    """One attempt, and its place in the budget."""

    __slots__ = ("is_extra", "number")

    def __init__(self, call: Callable[[], object], number: int) -> None:
        super().__init__(call, contextvars.copy_context())
        self.number = number
        self.is_extra = False
        """Whether the budget counts it."""


class _ThreadRace:
    """The attempts of one call. Each puts itself into a queue when it ends; the thread of the caller does the rest."""

    __slots__ = ("_begun", "_call", "_ended", "_executor", "_race", "_races")

    def __init__(self, races: Races, race: Race, executor: Executor, call: Callable[[], object]) -> None:
        self._races, self._race, self._executor, self._call = races, race, executor, call
        self._ended: queue.SimpleQueue[_ThreadAttempt] = queue.SimpleQueue()
        self._begun: list[_ThreadAttempt] = []

    def run(self) -> bool:
        """Run the race to its end; return False, with no attempt begun, if no thread is free."""
        race = self._race
        while not race.is_over:
            if not race.is_due:
                self._wait()
            elif not self._start() and not race.started:
                return False
        return True

    def _start(self) -> bool:
        races, race = self._races, self._race
        attempt = _ThreadAttempt(self._call, race.started + 1)
        attempt.add_done_callback(functools.partial(self._end, attempt))
        try:
            if race.started:
                if not races.may_hedge(race):
                    return False
                attempt.is_extra = True
            if self._executor.submit(attempt) is None:
                self._begun += (attempt,)
                races.start_attempt(race)
                return True
            attempt.cancel()
            races.deny(race, "threads")
        except BaseException as interrupt:
            self._break_off(attempt, interrupt)
            raise
        return False

    def _break_off(self, attempt: _ThreadAttempt, interrupt: BaseException) -> None:
        if not attempt.cancel() and attempt not in self._begun:
            self._begun += (attempt,)
        if self._begun:
            running_together(self._begun).note(interrupt)

    def _end(self, attempt: _ThreadAttempt) -> None:
        # The caller continues first: it may be a finalizer inside a call that holds the lock of the budget.
        if not attempt.is_cancelled:
            self._ended.put(attempt)
        if attempt.is_extra:
            self._races.release()

    def _wait(self) -> None:
        """Wait until an attempt has ended or the next one is due."""
        seconds = self._race.wait(self._races.clock())
        try:
            attempt = self._ended.get(timeout=seconds)
        except queue.Empty:
            self._race.elapse()
            return
        except BaseException as interrupt:
            running_together(self._begun).note(interrupt)
            raise
        error, attempt.error = attempt.error, None  # the thread may hold its work a moment longer
        self._races.end_attempt(self._race, attempt.number, attempt.result, error)
